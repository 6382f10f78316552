"""What codecs keep, what it costs, and whom it can serve."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses import DKD, KD, METHODS, FeatureMSE, GeneralizedJSD, ReverseKL, Supervised
from limbeck.store import DenseLogits, Features, HeadStates, Items, SampledLogits, TopKLogits, codec_of
from limbeck.store.codecs import CODECS, Codec
from limbeck.types import LinearHead, Sampled, Target, TopK, dense_logits


def items(count: int, seed: int = 0, labels: Tensor | None = None) -> Items:
    names = torch.arange(count) * 7919 + 13
    none = torch.full((count,), -1)
    return Items(names, names % 3, names % 5, none if labels is None else labels, seed)


def back(codec: Codec, values: Tensor | LinearHead, whose: Items | None = None) -> Target:
    count = len(values.hidden) if isinstance(values, LinearHead) else len(values)
    shape = (values.weight.shape[0],) if isinstance(values, LinearHead) else tuple(values.shape[1:])
    constants = codec.constants(values) if isinstance(codec, HeadStates) and isinstance(values, LinearHead) else {}
    return codec.decode(codec.encode(values, whose or items(count)), shape, constants)


def test_dense_logits_keep_their_differences() -> None:
    """Half precision of large logits: of 1,000 and 1,001, or of 100,000, which it does not know."""
    logits = torch.randn(64, 11) * 3
    logits[1] += 1_000.0
    logits[2] *= 1e6
    logits[3, 4] = -math.inf
    given = back(DenseLogits(), logits)
    assert isinstance(given, Tensor)
    assert torch.equal(given.argmax(1), logits.argmax(1))
    distance = (logits - logits.amax(1, keepdim=True)).abs()
    near = distance < 60_000
    assert bool(((given - logits).abs() <= distance * 2**-11 + logits.abs() * 1e-6)[near].all())
    torch.testing.assert_close(given.softmax(1), logits.softmax(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("k", [1, 5, 40, 99])
def test_top_k_against_torch(k: int, temperature: float) -> None:
    """A temperature that is applied twice or never, a tail that is not what is left."""
    logits = torch.randn(30, 40) * 3
    given = back(TopKLogits(k=k, temperature=temperature), logits)
    assert isinstance(given, TopK)
    assert given.temperature == temperature
    log_p = (logits / temperature).log_softmax(1)
    assert given.ids.shape[1] == min(k, 40)
    torch.testing.assert_close(given.log_probs, log_p.gather(1, given.ids), rtol=0, atol=1 / 2000)
    left = 1 - log_p.double().exp().gather(1, given.ids).sum(1)
    torch.testing.assert_close(given.log_tail.double().exp(), left.clamp(min=0), rtol=2e-3, atol=1e-6)
    worst_kept = log_p.gather(1, given.ids).amin(1)
    assert bool((log_p.scatter(1, given.ids, -math.inf).amax(1) <= worst_kept).all())
    if k >= 40:
        assert bool((given.log_tail == -math.inf).all())


def test_draws_are_unbiased() -> None:
    """Draws that prefer some entries: over many seeds their mean is the distribution, within its error."""
    logits, temperature, draws, seeds = torch.randn(3, 9) * 2, 2.0, 8, 4_000
    codec = SampledLogits(draws=draws, temperature=temperature)
    total = torch.zeros(3, 9, dtype=torch.float64)
    for seed in range(seeds):
        given = back(codec, logits, items(3, seed))
        assert isinstance(given, Sampled)
        total.scatter_add_(1, given.ids, given.shares.double())
    p = (logits.double() / temperature).softmax(1)
    error = (p * (1 - p) / (draws * seeds)).sqrt()
    assert bool(((total / seeds - p).abs() <= 4.5 * error).all())
    # Each entry is drawn as often as it should be, but for less than one draw.
    counts = torch.zeros(3, 9, dtype=torch.float64).scatter_add_(
        1, given.ids, torch.ones(3, draws, dtype=torch.float64)
    )
    assert bool(((counts - draws * p).abs() < 1).all())
    torch.testing.assert_close(given.entropy, torch.distributions.Categorical(p).entropy().float(), rtol=1e-3, atol=0)


def test_a_draw_does_not_know_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another batch size, chunk or process that draws otherwise, so that a resumed store is another store."""
    logits = torch.randn(20, 33)
    whose = items(20)
    codec = SampledLogits(draws=5)
    whole = codec.encode(logits, whose)
    monkeypatch.setattr("limbeck.store.codecs.CHUNK", 33 * 3)
    chunks = codec.encode(logits, whose)
    order = torch.randperm(20)
    shuffled = codec.encode(
        logits[order], Items(whose.ids[order], whose.views[order], whose.positions[order], whose.labels[order], 0)
    )
    for name, column in whole.items():
        torch.testing.assert_close(chunks[name], column, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(shuffled[name].long(), column.long()[order]) or name in ("log_sum", "entropy", "label")
    changed = [codec.encode(logits, items(20, seed=1)),
               codec.encode(logits, Items(whose.ids, whose.views + 1, whose.positions, whose.labels, 0)),
               codec.encode(logits, Items(whose.ids, whose.views, whose.positions + 1, whose.labels, 0))]  # fmt: skip
    for other in changed:
        assert not torch.equal(other["ids"], whole["ids"])


@pytest.mark.parametrize("codec", [TopKLogits(k=2, temperature=3.0), SampledLogits(draws=2, temperature=3.0)])
def test_statistics_against_torch(codec: Codec) -> None:
    """A true divergence that is reported from wrong numbers."""
    logits, labels = torch.randn(25, 12) * 2, torch.randint(0, 12, (25,))
    labels[3] = -1
    columns = codec.encode(logits, items(25, labels=labels))
    torch.testing.assert_close(columns["log_sum"].squeeze(1), logits.logsumexp(1))
    entropy = torch.distributions.Categorical(logits=logits / 3.0).entropy()
    torch.testing.assert_close(columns["entropy"].float().squeeze(1), entropy, rtol=1e-3, atol=1e-3)
    expected = -F.cross_entropy(logits, labels.clamp(min=0), reduction="none")
    given = columns["label"].float().squeeze(1)
    assert bool(given[3].isnan())
    keep = labels >= 0
    torch.testing.assert_close(given[keep], expected[keep], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 4)])
def test_features_within_their_error(shape: tuple[int, ...]) -> None:
    """A feature that comes back in another shape, or with more error than is said."""
    values = torch.randn(10, *shape) * 5
    values[2] = 0.0
    full = back(Features(), values)
    assert isinstance(full, Tensor)
    torch.testing.assert_close(full, values, rtol=2**-11, atol=1e-7)
    small = back(Features(bits=8), values)
    assert isinstance(small, Tensor)
    assert small.shape == values.shape
    largest = values.flatten(1).abs().amax(1).view(-1, *[1] * len(shape))
    assert bool(((small - values).abs() <= largest / 253).all())
    with pytest.raises(LimbeckError, match=r"holds numbers up to 65,504, got 1e\+06; use bits: 8"):
        back(Features(), torch.full((1, 2), 1e6))


def test_hidden_states_give_every_logit() -> None:
    """A head without its bias, its scale or its soft-cap."""
    head = LinearHead(torch.randn(9, 5), torch.randn(20, 5), torch.randn(20), 0.5, 3.0)
    given = back(HeadStates(), head)
    assert isinstance(given, LinearHead)
    torch.testing.assert_close(dense_logits(given), dense_logits(head), rtol=0, atol=5e-3)
    with pytest.raises(LimbeckError, match="this teacher gives plain logits; use dense"):
        HeadStates().encode(torch.randn(2, 3), items(2))


def test_who_is_served_and_who_is_refused() -> None:
    """A loss that is computed from what cannot give it: DKD from ten entries, reverse KL from draws."""
    served = {
        "dense": {m.name for m in METHODS if "teacher" in m.module.inputs},
        "features": {m.name for m in METHODS if "teacher" in m.module.inputs},
        "top-k": {"kd", "reverse-kl", "generalized-jsd", "skew-kl", "skew-reverse-kl", "tvd"},
        "hidden": {
            "kd",
            "reverse-kl",
            "generalized-jsd",
            "skew-kl",
            "skew-reverse-kl",
            "tvd",
            "akl",
            "annealed-kd",
            "uld",
        },
        "sampled": {"kd"},
        "sequences": set(),
    }
    assert served.keys() == CODECS.keys()
    for name, codec in CODECS.items():
        for method in METHODS:
            loss = method.module(temperature=1.0) if method.name in served["top-k"] else method.module()
            if "teacher" in loss.inputs:
                assert (codec().refuses(loss) == "") == (method.name in served[name]), (name, method.name)
    message = SampledLogits().refuses(ReverseKL())
    assert "'reverse-kl'" in message
    assert "'sampled'" in message
    assert "serves kd;" in message
    assert TopKLogits().refuses(DKD()).startswith("the loss 'dkd' cannot be computed from labels stored with")
    assert not TopKLogits().refuses(GeneralizedJSD(1.0))
    assert TopKLogits(temperature=2.0).refuses(KD(4.0)).startswith("its temperature is 4")
    assert not TopKLogits(temperature=4.0).refuses(KD(4.0))
    assert not DenseLogits().refuses(FeatureMSE())
    assert Supervised().name not in served["dense"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"codec": "topk"}, "unknown codec 'topk'; did you mean 'top-k'"),
        ({"codec": "top-k", "kk": 3}, "codec 'top-k' has no option 'kk'"),
        ({"codec": "dense", "k": 3}, "codec 'dense' has no option 'k'"),
        ({"codec": "top-k", "k": 0}, "codec 'top-k': k must be a whole number above 0, got 0"),
        ({"codec": "top-k", "k": 2.5}, "codec 'top-k': k must be a whole number above 0, got 2.5"),
        ({"codec": "sampled", "temperature": "hot"}, "temperature must be a number above 0, got 'hot'"),
        ({"codec": "features", "bits": 4}, "bits must be 8 or 16, got 4"),
        ({}, "unknown codec None"),
    ],
)
def test_a_recipe_with_a_mistake(entry: dict[str, object], message: str) -> None:
    """A traceback, or a codec with an option that nobody reads."""
    with pytest.raises(LimbeckError, match=message):
        codec_of(entry)


def test_options_come_back() -> None:
    """A manifest that describes another codec than the one that wrote the store."""
    for codec in (
        DenseLogits(),
        TopKLogits(k=7, temperature=2.0),
        SampledLogits(draws=3),
        Features(bits=8),
        HeadStates(),
    ):
        assert codec_of(codec.options()) == codec


def test_what_a_token_costs(tmp_path: Path) -> None:
    """A store of a large vocabulary that costs more than it says."""
    from limbeck.store.shards import write_shard

    count, vocabulary = 256, 151_936
    logits = torch.randn(count, vocabulary) * 2
    for codec, most in ((SampledLogits(), 40), (TopKLogits(k=32), 150)):
        entry = write_shard(tmp_path / "x", codec.encode(logits, items(count)), records=1, items=count)
        assert (entry.bytes - 600) / count <= most  # a header is 600 bytes for any number of tokens
