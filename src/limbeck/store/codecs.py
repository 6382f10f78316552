"""Codecs: how a signal is kept, what it costs, and which losses it can serve."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from limbeck.content import mixed
from limbeck.errors import LimbeckError, nearest
from limbeck.losses import METHODS, Loss
from limbeck.store.packing import NOTHING, pack_ascending, pack_ids, pack_log, unpack_ascending, unpack_ids, unpack_log
from limbeck.types import LinearHead, Sampled, Target, TopK, dense_logits

Columns = dict[str, Tensor]

CHUNK = 1 << 20
"""Logits that are written down at a time: more would not be found in the cache again."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Whose signals are encoded: of each item its sample's id, view, position in the text, and label (-1: none), all
    (items,) int64; and the seed of draws."""

    ids: Tensor
    views: Tensor
    positions: Tensor
    labels: Tensor
    seed: int

    def __getitem__(self, at: slice) -> Items:
        return Items(self.ids[at], self.views[at], self.positions[at], self.labels[at], self.seed)


@dataclass(frozen=True, slots=True)
class Codec:
    """How one signal is kept. `kind` is the form in which losses get it back."""

    name: ClassVar[str]
    kind: ClassVar[type]
    describes_logits: ClassVar[bool] = True

    def options(self) -> dict[str, Any]:
        """The codec's settings, as a recipe and the manifest write them."""
        return {"codec": self.name, **asdict(self)}

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """Columns with a row an item, on the CPU, from values (items, …) or a head that makes logits."""
        raise NotImplementedError

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """What was encoded, items of `shape`; `constants` are the store's own tensors."""
        raise NotImplementedError

    def refuses(self, loss: Loss) -> str:
        """Why this codec cannot serve a loss; empty where it can."""
        if self.kind in loss.targets:
            mine, asked = getattr(self, "temperature", None), getattr(loss, "temperature", None)
            if mine is None or mine == asked:
                return ""
            return (
                f"its temperature is {asked:g}, but the codec {self.name!r} stored targets at temperature {mine:g}; "
                "give the term that temperature, or label the data again with the other"
            )
        served = sorted(m.name for m in METHODS if "teacher" in m.module.inputs and self.kind in m.module.targets)
        return (
            f"the loss {loss.name!r} cannot be computed from labels stored with the codec {self.name!r}, which serves "
            f"{', '.join(served)}; use one of these, or label the data again with another codec"
        )


@dataclass(frozen=True, slots=True)
class DenseLogits(Codec):
    """All logits of an item in half precision below its largest, which is kept in single: for any temperature."""

    name: ClassVar[str] = "dense"
    kind: ClassVar[type] = Tensor

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """2 bytes a class, and 4."""
        parts = []
        for _, logits in _written_down(values, items):
            top = logits.amax(-1, keepdim=True)
            parts.append({"top": top, "below": (logits - top).clamp(min=-65_504.0).half()})
        return _joined(parts)

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """float32 logits (items, …, classes), within half a unit in the last place of float16 of the distance to the
        largest."""
        return columns["below"].float().add_(columns["top"])


@dataclass(frozen=True, slots=True)
class TopKLogits(Codec):
    """The `k` largest probabilities at `temperature`, and the mass of all others, which is what keeps them honest."""

    name: ClassVar[str] = "top-k"
    kind: ClassVar[type] = TopK

    k: int = 32
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _whole(self.name, "k", self.k)
        _above_zero(self.name, "temperature", self.temperature)

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """4.25 bytes an entry (4 up to 65,536 classes), and 10 of statistics."""
        parts = []
        for at, logits in _written_down(values, items):
            vocabulary = logits.shape[-1]
            log_p = (logits / self.temperature).log_softmax(-1)
            kept = log_p.topk(min(self.k, vocabulary))
            rest = log_p.scatter(-1, kept.indices, -math.inf).logsumexp(-1, keepdim=True)
            statistics = _statistics(logits, log_p, items[at])
            parts.append(
                {**pack_ids(kept.indices, vocabulary), "log_p": pack_log(kept.values), "rest": pack_log(rest)}
                | statistics
            )
        return _joined(parts)

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """A TopK whose log-probabilities are within 1/2048 nat."""
        ids, log_probs = unpack_ids(columns, shape[-1]), unpack_log(columns["log_p"])
        return TopK(ids, log_probs, unpack_log(columns["rest"]).squeeze(1), self.temperature)


@dataclass(frozen=True, slots=True)
class SampledLogits(Codec):
    """`draws` entries drawn from the teacher's distribution at `temperature`: an unbiased estimate of it.

    For forward KL and cross-entropy only. The draws of an item lie evenly along its cumulative distribution, from one
    random start (systematic sampling, Madow and Madow 1944): as unbiased as independent draws, with a fraction of their
    noise, since an entry of probability p is drawn ⌊p · draws⌋ or ⌈p · draws⌉ times. The start is a function of the
    store's seed, the sample, the view and the position, so that it does not matter in which batch or process it was
    made. After Anshumann et al. 2025, "Sparse Logit Sampling", ACL (arXiv:2503.16870).
    """

    name: ClassVar[str] = "sampled"
    kind: ClassVar[type] = Sampled

    draws: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _whole(self.name, "draws", self.draws)
        _above_zero(self.name, "temperature", self.temperature)

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """2 + log₂(classes / draws) bits a draw or fewer (31 bytes for 16 of 151,936 classes), and 8 bytes of
        statistics."""
        parts = []
        for at, logits in _written_down(values, items):
            log_p = (logits / self.temperature).log_softmax(-1)
            # A sum over a large vocabulary needs the precision; its end is 1 but for rounding.
            cumulative = log_p.double().exp().cumsum(-1)
            points = self._points(items[at]).to(logits.device) * cumulative[:, -1:]
            drawn = torch.searchsorted(cumulative, points, right=True).clamp(max=logits.shape[-1] - 1)
            # Points that ascend along the cumulative distribution give entries that ascend.
            parts.append(pack_ascending(drawn, logits.shape[-1]) | _statistics(logits, log_p, items[at]))
        return _joined(parts)

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """A Sampled with a share of 1 / draws for each draw."""
        ids = unpack_ascending(columns, self.draws, shape[-1])
        shares = torch.full(ids.shape, 1.0 / self.draws)
        return Sampled(ids, shares, columns["entropy"].float().squeeze(1), self.temperature)

    def _points(self, items: Items) -> Tensor:
        """Evenly spaced numbers in [0, 1) from a random start, (items, draws) float64."""
        words = mixed(items.ids + mixed(torch.tensor(items.seed)))
        words = mixed(mixed(words + items.views) + items.positions)
        start = ((words >> 11) & ((1 << 53) - 1)).double() * 2.0**-53
        return (start.unsqueeze(1) + torch.arange(self.draws)) / self.draws


@dataclass(frozen=True, slots=True)
class Features(Codec):
    """Any tensor an item, with 16 bits a number, or 8 and a scale an item."""

    name: ClassVar[str] = "features"
    kind: ClassVar[type] = Tensor
    describes_logits: ClassVar[bool] = False

    bits: int = 16

    def __post_init__(self) -> None:
        if type(self.bits) is not int or self.bits not in (8, 16):
            raise LimbeckError(f"codec 'features': bits must be 8 or 16, got {self.bits!r}")

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """float16, or int8 with one float32 scale an item."""
        assert isinstance(values, Tensor)
        flat = values.float().flatten(1).cpu()
        largest = flat.abs().amax(1, keepdim=True) if flat.numel() else flat.new_zeros(len(flat), 1)
        _finite(largest, items)
        if self.bits == 16:
            if bool((largest > 65_504).any()):
                raise LimbeckError(
                    f"codec 'features' with 16 bits holds numbers up to 65,504, got {float(largest.max()):.3g}; "
                    "use bits: 8, which keeps a scale an item"
                )
            return {"values": flat.half()}
        scale = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        return {"values": (flat / scale).round().to(torch.int8), "scale": scale}

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """float32 (items, *shape); with 8 bits within 1/254 of the item's largest number."""
        values = columns["values"].float()
        return (values if self.bits == 16 else values.mul_(columns["scale"])).view(-1, *shape)


@dataclass(frozen=True, slots=True)
class HeadStates(Codec):
    """The hidden states before a language model's head, 16 bits a number; the head is kept once in the store.

    Exact logits for every divergence at any temperature, at a cost of the model's width instead of its vocabulary.
    """

    name: ClassVar[str] = "hidden"
    kind: ClassVar[type] = LinearHead

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """2 bytes a number of the hidden state."""
        if not isinstance(values, LinearHead):
            raise LimbeckError(
                "codec 'hidden' keeps the states before a language model's head, and this teacher gives plain logits; "
                "use dense, top-k or sampled"
            )
        return Features().encode(values.hidden, items)

    def constants(self, head: LinearHead) -> Columns:
        """The head, as the store keeps it once."""
        kept = {"weight": head.weight.detach().cpu().contiguous()}
        if head.bias is not None:
            kept["bias"] = head.bias.detach().cpu().contiguous()
        bends = torch.tensor([head.scale, math.nan if head.softcap is None else head.softcap], dtype=torch.float64)
        return {**kept, "bends": bends}

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """A LinearHead."""
        scale, softcap = constants["bends"].tolist()
        return LinearHead(
            columns["values"].to(constants["weight"].dtype),
            constants["weight"],
            constants.get("bias"),
            scale,
            None if math.isnan(softcap) else softcap,
        )


@dataclass(frozen=True, slots=True)
class Sequences(Codec):
    """What a teacher writes of a sample: the tokens of its hypotheses, best first.

    `vocabulary` is how many tokens there are, `settings` are those of the decoding, by which the manifest tells one
    store from another.
    """

    name: ClassVar[str] = "sequences"
    kind: ClassVar[type] = Tensor
    describes_logits: ClassVar[bool] = False

    vocabulary: int = NOTHING
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a hypothesis."""
        given = self.settings.get("eos_token_id")
        return () if given is None else tuple(given) if isinstance(given, Sequence) else (given,)

    def encode(self, values: Tensor | LinearHead, items: Items) -> Columns:
        """2 bytes a token (4 above 65,535) of (items, beams, length) int64, -1 behind the last of a hypothesis."""
        if not isinstance(values, Tensor) or values.is_floating_point() or values.dim() != 3:
            raise LimbeckError(
                "codec 'sequences' keeps the tokens that limbeck.generation.generate makes; keep what a model gives "
                "for a batch with another codec"
            )
        flat = values.flatten(1).cpu()
        if self.vocabulary > NOTHING:
            return {"tokens": flat.int()}
        return {"tokens": flat.masked_fill(flat < 0, NOTHING).to(torch.uint16)}

    def decode(self, columns: Columns, shape: tuple[int, ...], constants: Columns) -> Target:
        """What was encoded, (items, beams, length) int64."""
        tokens = columns["tokens"].long().view(-1, *shape)
        return tokens.masked_fill(tokens == NOTHING, -1) if self.vocabulary <= NOTHING else tokens

    def refuses(self, loss: Loss) -> str:
        return (
            f"the loss {loss.name!r} compares what models give for a batch, and the codec 'sequences' keeps what a "
            "teacher writes; learn it as targets, by limbeck.sequences.sequence_targets"
        )


CODECS: dict[str, type[Codec]] = {
    codec.name: codec for codec in (DenseLogits, TopKLogits, SampledLogits, Features, HeadStates, Sequences)
}


def codec_of(entry: Mapping[str, Any]) -> Codec:
    """A codec from `codec: NAME` and its options. Raises LimbeckError for an unknown name or option."""
    name = entry.get("codec")
    if not isinstance(name, str) or name not in CODECS:
        raise LimbeckError(f"unknown codec {name!r}{nearest(str(name), CODECS)}")
    options = {key: value for key, value in entry.items() if key != "codec"}
    known = [field.name for field in fields(CODECS[name])]
    for key in options:
        if key not in known:
            raise LimbeckError(f"codec {name!r} has no option {key!r}" + (nearest(str(key), known) if known else ""))
    return CODECS[name](**options)


def _written_down(values: Tensor | LinearHead, items: Items) -> Iterator[tuple[slice, Tensor]]:
    """The logits of some items at a time, as float32 (items, …, classes).

    A class may have a logit of −inf. Raises LimbeckError for an item with NaN or +inf, or with −inf for every class.
    """
    rows = values.hidden if isinstance(values, LinearHead) else values
    width = values.weight.shape[0] if isinstance(values, LinearHead) else values[:1].numel()
    step = max(1, CHUNK // max(width, 1))
    for start in range(0, max(len(rows), 1), step):
        at = slice(start, start + step)
        if isinstance(values, LinearHead):
            part = LinearHead(values.hidden[at], values.weight, values.bias, values.scale, values.softcap)
            logits = dense_logits(part).float()
        else:
            logits = values[at].float()
        _finite(logits.amax(-1), items[at])
        yield at, logits


def _statistics(logits: Tensor, log_p: Tensor, items: Items) -> Columns:
    """What true divergences can be reported from: the logarithm of the sum of exponentials at temperature 1 (float32),
    the entropy at the store's temperature (float16, nats), and the label's log-probability at temperature 1."""
    log_sum = logits.logsumexp(-1, keepdim=True)
    p = log_p.exp()
    entropy = -(p * log_p).masked_fill(p == 0, 0.0).sum(-1, keepdim=True)
    labels = items.labels.to(logits.device).unsqueeze(-1)
    known = (labels >= 0) & (labels < logits.shape[-1])
    label = torch.where(known, logits.gather(-1, labels.clamp(0, logits.shape[-1] - 1)) - log_sum, math.nan)
    return {"log_sum": log_sum, "entropy": entropy.half(), "label": label.half()}


def _joined(parts: list[Columns]) -> Columns:
    return {name: torch.cat([part[name].cpu() for part in parts]) for name in parts[0]}


def _finite(largest: Tensor, items: Items) -> None:
    """Raises LimbeckError naming the first item whose largest numbers (items, …) are not all finite."""
    good = largest.isfinite()
    if bool(good.all()):
        return
    at = int((~good).reshape(len(good), -1).any(1).nonzero()[0])
    place = int(items.positions[at])
    token = f", token {place}" if place else ""
    raise LimbeckError(
        f"the teacher says nothing finite of sample {int(items.ids[at])} in view {int(items.views[at])}{token}: it "
        "gives NaN or infinite numbers, from which a student would learn noise; repair the teacher (float16 overflows "
        "where bfloat16 does not) or the sample, or leave the sample out"
    )


def _whole(codec: str, name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise LimbeckError(f"codec {codec!r}: {name} must be a whole number above 0, got {value!r}")


def _above_zero(codec: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise LimbeckError(f"codec {codec!r}: {name} must be a number above 0, got {value!r}")
