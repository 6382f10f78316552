"""The small classifiers of texts against naive loops; padding, training and saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models import ModelSpec, TextShape, build, forward_of, load, save
from limbeck.models.texts import SPREAD, TEXT_MODELS, TextLSTM, TextNgrams, TextStatic, fitted

VOCABULARY, CLASSES = 50, 3
NAMES = sorted(TEXT_MODELS)
VARIANTS = [
    ("text-ngrams", {}),
    ("text-ngrams", {"ngrams": 1, "hidden": 6}),
    ("text-ngrams", {"ngrams": 4, "buckets": 30}),
    ("text-lstm", {"width": 6, "units": 5}),
    ("text-lstm", {"width": 6, "units": 5, "layers": 2, "hidden": 0}),
    ("text-lstm", {"width": 6, "units": 5, "layers": 2, "bidirectional": 0}),
    ("text-static", {}),
    ("text-static", {"hidden": 0}),
]


def made(name: str, **options: int) -> nn.Module:
    """A model with random weights everywhere, those that start at 0 too."""
    torch.manual_seed(0)
    model = TEXT_MODELS[name](num_classes=CLASSES, vocabulary=VOCABULARY, pad_id=0, **options).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model.eval()


def texts(lengths: list[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor], side: str, filling: int, more: int = 0) -> dict[str, Tensor]:
    longest = max(map(len, rows)) + more
    ids = torch.full((len(rows), longest), filling)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for index, row in enumerate(rows):
        at = slice(longest - len(row), None) if side == "left" else slice(None, len(row))
        ids[index, at], mask[index, at] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_padding_changes_nothing(name: str, options: dict[str, int]) -> None:
    """What a text is batched with, or the side of the padding, changes the answer to it."""
    model = made(name, **options)
    rows = texts([7, 1, 2, 12])
    alone = torch.cat([model(row[None]) for row in rows])
    for side in ("left", "right"):
        for filling in (0, 9):
            for more in (0, 3):
                batch = padded(rows, side, filling, more)
                torch.testing.assert_close(model(**batch), alone)
    assert alone.shape == (4, CLASSES)


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_padding_gets_no_gradient(name: str, options: dict[str, int]) -> None:
    """The embedding of the padding token is trained, and with it what the model says of short texts."""
    model = made(name, **options)
    model(**padded(texts([7, 3]), "right", 0)).sum().backward()
    for module in (child for child in model.modules() if isinstance(child, nn.Embedding | nn.EmbeddingBag)):
        assert module.weight.grad is not None
        assert not module.weight.grad[0].any()


@pytest.mark.parametrize("name", NAMES)
def test_without_a_mask_the_padding_token_is_known(name: str) -> None:
    """A batch without attention_mask reads its padding."""
    model = made(name)
    batch = padded(texts([7, 3]), "right", 0)
    torch.testing.assert_close(model(batch["input_ids"]), model(**batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_any_token(name: str) -> None:
    """A mean over nothing is NaN, which spreads to all weights."""
    model = made(name)
    batch = padded([*texts([5]), torch.zeros(0, dtype=torch.int64)], "right", 0)
    logits = model(**batch)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("ngrams", [1, 2, 3, 5])
def test_ngrams_are_a_bag(ngrams: int) -> None:
    """An n-gram is left out, counted twice, or hashed otherwise than where it stands."""
    model = made("text-ngrams", ngrams=ngrams, buckets=40, hidden=4)
    assert isinstance(model, TextNgrams)
    rows = texts([6, 1, 3])
    for row, logits in zip(rows, model(**padded(rows, "left", 0)), strict=True):
        vectors = []
        for size in range(1, ngrams + 1):
            for start in range(len(row) - size + 1):
                tokens = row[start : start + size].tolist()
                hashed = tokens[0] + 1
                for token in tokens[1:]:
                    hashed = (hashed * 1_000_003 + token + 1) % (2**31 - 1)
                vectors.append(model.bag.weight[tokens[0] if size == 1 else VOCABULARY + hashed % 40])
        torch.testing.assert_close(logits, model.fc(model.hidden(torch.stack(vectors).mean(0))))


def test_ngrams_tell_order_and_have_no_more_rows_than_they_need() -> None:
    """The hash forgets the order of tokens, or a model of tokens alone carries the buckets of n-grams."""
    model = made("text-ngrams")
    assert not torch.equal(model(torch.tensor([[3, 4]])), model(torch.tensor([[4, 3]])))
    model = made("text-ngrams", ngrams=1, buckets=1000)
    assert isinstance(model, TextNgrams)
    assert model.bag.weight.shape[0] == VOCABULARY + 1
    torch.testing.assert_close(model(torch.tensor([[3, 4]])), model(torch.tensor([[4, 3]])))


def test_ngrams_spread_over_the_buckets() -> None:
    """A hash that sends most n-grams to few rows."""
    torch.manual_seed(0)
    model = TextNgrams(num_classes=2, vocabulary=30_000, buckets=1000)
    ids = torch.randint(0, 30_000, (100, 101))
    counts = torch.bincount(model.rows(ids, ids >= 0)[:, 101:].flatten() - 30_000, minlength=1000)
    assert counts.shape == (1000,)
    # Of 10,000 draws the counts are nearly Poisson of mean and variance 10.
    assert abs(float(counts.float().var()) - 10) < 2


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, 1), (2, 1), (2, 0)])
def test_lstm_is_torchs_own(layers: int, bidirectional: int) -> None:
    """The reversed direction begins at padding, or its states are put beside the wrong tokens."""
    model = made("text-lstm", width=6, units=5, layers=layers, bidirectional=bidirectional, hidden=4)
    assert isinstance(model, TextLSTM)
    own = nn.LSTM(6, 5, layers, batch_first=True, bidirectional=bool(bidirectional)).double()
    state = {}
    for suffix, modules in (("", model.forwards), ("_reverse", model.backwards)):
        for layer, lstm in enumerate(modules):
            state |= {f"{name.removesuffix('0')}{layer}{suffix}": value for name, value in lstm.state_dict().items()}
    own.load_state_dict(state)
    rows = texts([7, 1, 4])
    for row, logits in zip(rows, model(**padded(rows, "right", 0)), strict=True):
        states = own(model.embedding(row)[None])[0][0]
        pooled = torch.cat([states.max(0).values, states.mean(0)])
        torch.testing.assert_close(logits, model.fc(model.hidden(pooled)))


def test_static_is_a_weighted_mean() -> None:
    """A token's weight is that of another token, or weights are not shared out within the text."""
    model = made("text-static", width=6, hidden=4)
    assert isinstance(model, TextStatic)
    rows = texts([7, 1, 4])
    for row, logits in zip(rows, model(**padded(rows, "right", 0)), strict=True):
        weights = [float(model.weight.weight[token].detach().exp()) for token in row]
        pooled = sum(w * model.embedding.weight[token] for w, token in zip(weights, row, strict=True)) / sum(weights)
        torch.testing.assert_close(logits, model.fc(model.hidden(pooled)))


@pytest.mark.parametrize("name", NAMES)
def test_learns(name: str) -> None:
    """A model that no gradient reaches: of texts that differ in one word it learns no class."""
    torch.manual_seed(0)
    small = {"units": 8} if name == "text-lstm" else {}
    model = TEXT_MODELS[name](num_classes=2, vocabulary=VOCABULARY, width=8, hidden=8, **small)
    ids = torch.randint(5, VOCABULARY, (32, 7))
    labels = torch.arange(32) % 2
    ids[:, 4] = 2 + labels
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(ids, torch.ones_like(ids)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize("name", NAMES)
def test_called_with_a_batch_by_name(name: str) -> None:
    """A model that reads tokens is asked for `inputs`, or gets labels and ids that it does not take."""
    model = made(name)
    batch = padded(texts([5, 2]), "right", 0) | {"labels": torch.zeros(2), "ids": torch.arange(2)}
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    torch.testing.assert_close(forward_of(model)(batch)["logits"], model(batch["input_ids"], batch["attention_mask"]))
    with pytest.raises(LimbeckError, match="needs 'input_ids'"):
        forward_of(model)({"labels": torch.zeros(2)})


@pytest.mark.parametrize("name", NAMES)
def test_built_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """A student that was trained cannot be shipped."""
    shape = TextShape(CLASSES, VOCABULARY, 16, 0, "classification")
    spec = ModelSpec(name, {"width": 8})
    model = build(spec, shape).eval()
    batch = padded(texts([5, 2]), "right", 0)
    save(model, tmp_path / "model", spec=spec, shape=shape, classes="abc", preprocessing=None)
    assert torch.equal(load(tmp_path / "model").eval()(**batch), model(**batch))


@pytest.mark.parametrize("name", NAMES)
def test_starts_from_a_table(name: str) -> None:
    """A teacher's embeddings are given, and the student starts from others, or with its n-grams overwritten."""
    table = torch.randn(VOCABULARY, 20) * 3
    model = TEXT_MODELS[name](num_classes=2, vocabulary=VOCABULARY, width=20)
    model.start_from(table)  # type: ignore[operator]
    own = next(child for child in model.modules() if isinstance(child, nn.Embedding | nn.EmbeddingBag)).weight
    torch.testing.assert_close(own[:VOCABULARY], table * (SPREAD / table.std()))
    assert own.requires_grad
    if isinstance(model, TextNgrams):
        assert not own[VOCABULARY:].any()


def test_a_wider_table_is_projected() -> None:
    """Directions that matter are cut away: distances between tokens are those of the leading principal components."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    table = torch.randn(40, 16, generator=generator) @ torch.diag(torch.tensor([5.0] * 4 + [1e-3] * 12)) @ basis
    found = fitted(table, torch.empty(40, 4), "student")
    assert found.dtype is torch.float32
    expected = torch.cdist(table, table)
    torch.testing.assert_close(torch.cdist(found, found) * (expected.sum() / torch.cdist(found, found).sum()), expected,
                               atol=0.02, rtol=1e-3)  # fmt: skip
    assert abs(float(found.std()) - SPREAD) < 1e-6


def test_errors() -> None:
    """A wrong size ends in an error of torch that names no option."""
    with pytest.raises(LimbeckError, match="model 'text-ngrams': expected ngrams of 1 or more, got 0"):
        TextNgrams(num_classes=2, vocabulary=9, ngrams=0)
    with pytest.raises(LimbeckError, match="expected buckets of 1 or more, got 0"):
        TextNgrams(num_classes=2, vocabulary=9, buckets=0)
    with pytest.raises(LimbeckError, match="expected units of 1 or more"):
        TextLSTM(num_classes=2, vocabulary=9, units=0)
    with pytest.raises(LimbeckError, match="expected width of 1 or more"):
        TextStatic(num_classes=2, vocabulary=9, width=0)
    model = TextStatic(num_classes=2, vocabulary=9, width=4)
    for shape in ((8, 4), (9, 3), (9,)):
        with pytest.raises(LimbeckError, match="expected a table of 9 tokens in at least 4 dimensions"):
            model.start_from(torch.randn(shape))
    with pytest.raises(LimbeckError, match="not finite, or all the same"):
        model.start_from(torch.ones(9, 4))
    with pytest.raises(LimbeckError, match="not finite, or all the same"):
        model.start_from(torch.full((9, 4), float("nan")))
