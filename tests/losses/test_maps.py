"""Losses on maps and tokens: the contract, and what those that look at positions share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.losses import maps_reference as naive
from tests.losses.contract import PROMISES, Case, Promise
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses import AT, CWD, FSP, MGD, NST, PKD, VID, Loss, at, cwd, fsp, nst, pkd

TOKENS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0]]).bool()
ALL = torch.ones_like(TOKENS)


def each(one: Callable[[Any, Any], float], tokens: Tensor | None = None) -> Callable[..., list[float]]:
    """A naive reference of the items one by one."""

    def values(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
        out = []
        for index, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
            own, taught = naive.alike(mine, theirs)
            if tokens is not None:
                own, taught = (naive.chosen(channels, tokens[index].tolist()) for channels in (own, taught))
            out.append(one(own, taught))
        return out

    return values


def naive_pkd(tokens: Tensor | None = None) -> Callable[..., list[float]]:
    def values(student: Tensor, teacher: Tensor, _labels: Tensor, _loss: Loss) -> list[float]:
        own, taught = ([naive.columns(item) for item in batch] for batch in (student, teacher))
        if tokens is not None:
            keep = tokens.tolist()
            own, taught = ([naive.chosen(*pair) for pair in zip(batch, keep, strict=True)] for batch in (own, taught))
        return naive.pearson(own, taught)

    return values


def naive_fsp(tokens: Tensor | None = None) -> Callable[..., list[float]]:
    def taps_of(taps: list[Tensor], index: int) -> list[Any]:
        pairs = []
        for low, high in pairwise(taps):
            pair = naive.alike(low[index], high[index])
            pairs.append(pair if tokens is None else tuple(naive.chosen(p, tokens[index].tolist()) for p in pair))
        return pairs

    def values(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], _labels: Tensor, loss: Loss) -> list[float]:
        assert isinstance(loss, FSP)
        assert loss.maps is not None
        mapped = []
        for tap, change in zip(student, loss.maps, strict=True):
            weights = list(change.parameters())
            if weights:
                rows = [naive.linear(naive.columns(item), weights[0].tolist()) for item in tap]
                flat = torch.tensor(rows, dtype=torch.float64)
                tap = flat.unflatten(2, tap.shape[2:]) if tap.dim() == 4 else flat.transpose(1, 2)
            mapped.append(tap)
        return [naive.flows(taps_of(mapped, index), taps_of(list(teacher), index)) for index in range(len(teacher[0]))]

    return values


def naive_vid(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    first, second, third = (weight.tolist() for name, weight in loss.named_parameters() if "weight" in name)
    log_scale = dict(loss.named_parameters())["log_scale"].tolist()
    values = []
    for mine, theirs in zip(student, teacher, strict=True):
        own, taught = naive.alike(mine, theirs)
        hidden = naive.relu(naive.linear(naive.relu(naive.linear(own, first)), second))
        values.append(naive.variational(naive.linear(hidden, third), taught, log_scale))
    return values


def naive_mgd(student: Tensor, teacher: Tensor, _labels: Tensor, loss: Loss) -> list[float]:
    weights = [parameter.tolist() for parameter in loss.parameters()]
    values = []
    for mine, theirs in zip(student, teacher, strict=True):
        made = naive.columns(mine)
        for layer in (0, 2):
            weight, bias = weights[layer], weights[layer + 1]
            if mine.dim() == 3:
                made = naive.convolution(made, mine.shape[1], weight, bias)
            else:
                made = naive.linear(made, weight, bias)
            made = naive.relu(made) if layer == 0 else made
        values.append(naive.mean_square(made, naive.columns(theirs)))
    return values


def naive_cwd(tokens: Tensor | None = None) -> Callable[..., list[float]]:
    return each(lambda own, taught: naive.channelwise(own, taught, 4.0), tokens)


MAP, TEXT = (5, 3, 3, 4), (5, 5, 4)
MASKED = {"tokens": TOKENS}
STAGES = ((5, 3, 4, 4), (5, 4, 3, 2), (5, 5, 2, 2))
NARROW = ((5, 2, 4, 4), (5, 4, 3, 2), (5, 3, 4, 1))
TEXTS = ((5, 5, 3), (5, 5, 4))

CASES = [
    Case("at", AT, MAP, MAP, each(naive.attention), mismatch=(4, 3, 3, 4)),
    Case("at-resized", AT, (5, 3, 5, 2), (5, 6, 3, 4), each(naive.attention)),
    Case("at-power", lambda: AT(3.0), MAP, MAP, each(lambda s, t: naive.attention(s, t, 3.0))),
    Case("at-tokens", AT, TEXT, (5, 5, 2), each(naive.attention), mismatch=(5, 7, 4)),
    Case("at-masked", AT, TEXT, TEXT, each(naive.attention, TOKENS), given=MASKED),
    Case("nst", NST, MAP, MAP, each(naive.neurons), mismatch=(4, 3, 3, 4)),
    Case("nst-resized", NST, (5, 9, 4, 2), (5, 6, 2, 3), each(naive.neurons)),
    Case("nst-tokens", NST, (5, 5, 9), (5, 5, 7), each(naive.neurons), mismatch=(5, 7, 4)),
    Case("nst-masked", NST, TEXT, TEXT, each(naive.neurons, TOKENS), given=MASKED),
    Case("cwd", CWD, MAP, MAP, naive_cwd(), mismatch=(5, 4, 3, 4)),
    Case("cwd-resized", CWD, (5, 3, 4, 4), MAP, naive_cwd()),
    Case("cwd-tokens", CWD, TEXT, TEXT, naive_cwd(), mismatch=(5, 5, 3)),
    Case("cwd-masked", CWD, TEXT, TEXT, naive_cwd(TOKENS), given=MASKED),
    Case("pkd", PKD, MAP, MAP, naive_pkd(), couples=True, mismatch=(5, 4, 3, 4)),
    Case("pkd-vectors", PKD, (8, 4), (8, 4), naive_pkd(), couples=True, mismatch=(8, 3)),
    Case("pkd-masked", PKD, TEXT, TEXT, naive_pkd(TOKENS), couples=True, given=MASKED, mismatch=(5, 5, 3)),
    Case("fsp", FSP, STAGES, STAGES, naive_fsp(), mismatch=NARROW),
    Case("fsp-mapped", FSP, NARROW, STAGES, naive_fsp(), mismatch=((4, *STAGES[0][1:]), STAGES[1], STAGES[2])),
    Case("fsp-tokens", FSP, ((5, 5, 2), (5, 5, 4)), TEXTS, naive_fsp(TOKENS), given=MASKED),
    Case("fsp-vectors", FSP, ((5, 3), (5, 2)), ((5, 3), (5, 2)), naive_fsp()),
    Case("vid", VID, MAP, (5, 4, 4, 2), naive_vid, equal=False, mismatch=(4, 4, 4, 2)),
    Case("vid-tokens", VID, TEXT, (5, 5, 3), naive_vid, equal=False, mismatch=(5, 7, 3)),
    Case("vid-vectors", VID, (5, 4), (5, 3), naive_vid, equal=False, mismatch=(4, 3)),
    Case("mgd", MGD, MAP, MAP, naive_mgd, equal=False, mismatch=(5, 4, 3, 4)),
    Case("mgd-tokens", MGD, TEXT, TEXT, naive_mgd, equal=False, mismatch=(5, 5, 3)),
    Case("mgd-vectors", MGD, (5, 4), (5, 4), naive_mgd, equal=False, mismatch=(5, 3)),
]  # fmt: skip

Together = Callable[..., Tensor]
TOGETHER: dict[str, Together] = {
    "at": at, "nst": nst, "cwd": cwd,
    "pkd": lambda student, teacher, tokens=None: pkd(student, teacher, None, tokens),
    "fsp": lambda student, teacher, tokens=None: fsp((student, student), (teacher, teacher), tokens),
}  # fmt: skip
together = pytest.mark.parametrize("loss", TOGETHER.values(), ids=TOGETHER)
over_positions = pytest.mark.parametrize("loss", [at, nst, cwd], ids=lambda loss: loss.__name__)


def pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    student, teacher = torch.randn((2, *shape), generator=torch.Generator().manual_seed(3), dtype=dtype)
    return student, teacher


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_contract(case: Case, promise: Promise) -> None:
    """What every loss on features promises."""
    promise(case)


@together
def test_padding_does_not_count(loss: Together) -> None:
    """Padding that changes a loss or gets a gradient, even where a model leaves NaN there; a text of padding only."""
    student, teacher = pair(5, 5, 4)
    tokens = TOKENS.clone()
    tokens[2] = False
    spoilt = student.masked_fill(~tokens.unsqueeze(2), torch.nan).requires_grad_()
    values = loss(spoilt, teacher.masked_fill(~tokens.unsqueeze(2), torch.nan), tokens)
    torch.testing.assert_close(values, loss(student, teacher, tokens))
    assert values[2] == 0
    (gradient,) = torch.autograd.grad(values.sum(), [spoilt])
    assert bool((gradient[~tokens] == 0).all())
    assert bool(gradient.isfinite().all())
    torch.testing.assert_close(loss(student, teacher, ALL), loss(student, teacher))


@together
def test_a_map_and_its_tokens_are_one(loss: Together) -> None:
    """A sum over channels where positions are meant; a map in channels-last memory read in another order."""
    student, teacher = pair(3, 4, 5, 2)
    values = loss(student, teacher)
    tokens = [feature.flatten(2).transpose(1, 2) for feature in (student, teacher)]
    torch.testing.assert_close(loss(*tokens), values)
    last = [feature.contiguous(memory_format=torch.channels_last) for feature in (student, teacher)]
    torch.testing.assert_close(loss(*last), values)


@over_positions
def test_tokens_of_an_image_beside_a_map(loss: Together) -> None:
    """A ViT that cannot learn from a CNN; a class token taken for the first patch; patches of two sizes."""
    student, teacher = pair(3, 4, 6, 6)
    tokens = student.flatten(2).transpose(1, 2)
    with_class = torch.cat([torch.full((3, 1, 4), 7.0, dtype=torch.float64), tokens], 1)
    small = torch.nn.functional.adaptive_avg_pool2d(teacher, 3)
    for other in (teacher, small):
        for given in (tokens, with_class):
            torch.testing.assert_close(loss(given, other), loss(student, other))
            torch.testing.assert_close(loss(other, given), loss(other, student))
    torch.testing.assert_close(loss(with_class, small.flatten(2).transpose(1, 2)), loss(student, small))


@together
def test_float32_under_autocast(loss: Together) -> None:
    """Products that autocast takes to bfloat16 behind the loss's back."""
    student, teacher = pair(3, 6, 4, 4, dtype=torch.float32)
    expected = loss(student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss(student, teacher), expected, rtol=1e-6, atol=1e-7)


@together
def test_a_teacher_from_inference_mode(loss: Together) -> None:
    """ "Inference tensors cannot be saved for backward", in the first step with a live teacher."""
    student, teacher = pair(3, 6, 4, 4, dtype=torch.float32)
    with torch.inference_mode():
        under = teacher.clone()
    loss(student.requires_grad_(), under).sum().backward()
    assert student.grad is not None


@over_positions
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1, 1)])
def test_one_position_is_refused(loss: Together, shape: tuple[int, ...]) -> None:
    """A term that is 0 throughout a training, because it was tapped behind the pooling."""
    with pytest.raises(LimbeckError, match=r"several positions.*before the pooling"):
        loss(*pair(*shape))


@together
def test_what_does_not_fit_is_named(loss: Together) -> None:
    """A mask of other texts, features of two batches, and features of no known kind."""
    with pytest.raises(LimbeckError, match=r"mask of shape \(5, 5\).*got \(5, 4\)"):
        loss(*pair(5, 5, 4), TOKENS[:, :4])
    with pytest.raises(LimbeckError, match=r"shape|batch"):
        loss(pair(5, 5, 4)[0], pair(4, 5, 4)[0])
    with pytest.raises(LimbeckError, match="tap another module"):
        loss(*pair(2, 3, 4, 4, 4))
