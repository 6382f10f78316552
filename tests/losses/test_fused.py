"""Losses in chunks and from sparse targets: equal to the dense ones, which a naive loop has checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import LimbeckError
from limbeck.losses import KD, FeatureMSE, GeneralizedJSD, ReverseKL, SkewKL, SkewReverseKL, Supervised
from limbeck.losses.base import Loss
from limbeck.losses.fused import FusedTerm, fused_losses, serves_fused
from limbeck.types import LinearHead, Sampled, Target, TopK, dense_logits

ITEMS, WIDTH, VOCABULARY = 7, 5, 11


@dataclass
class Problem:
    """A student's head and a teacher's, labels, and what each item counts."""

    student: LinearHead
    teacher: LinearHead
    labels: Tensor
    weights: Tensor


def problem(items: int = ITEMS, dtype: torch.dtype = torch.float64, size: float = 1.0, **bends: Any) -> Problem:
    generator = torch.Generator().manual_seed(0)

    def head(width: int) -> LinearHead:
        tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) * size for shape in
                   ((items, width), (VOCABULARY, width), (VOCABULARY,))]  # fmt: skip
        return LinearHead(*(each.to(dtype) for each in tensors), **bends)

    labels = torch.randint(0, VOCABULARY, (items,), generator=generator)
    weights = torch.rand(items, generator=generator, dtype=torch.float64)
    if items > 3:
        labels[1], weights[3] = -1, 0.0
    return Problem(head(WIDTH), head(4), labels, weights)


def top_k(head: LinearHead, k: int, temperature: float) -> TopK:
    log_p = (dense_logits(head).double() / temperature).log_softmax(-1)
    kept = log_p.topk(k)
    rest = log_p.scatter(1, kept.indices, -math.inf).logsumexp(1)
    return TopK(kept.indices, kept.values, rest, temperature)


def leaves(head: LinearHead) -> LinearHead:
    fresh = {name: getattr(head, name).clone().requires_grad_() for name in ("hidden", "weight", "bias")}
    return replace(head, **fresh)


def outcome(head: LinearHead, loss: Tensor) -> list[Tensor]:
    assert head.bias is not None
    return [loss.detach(), *torch.autograd.grad(loss, [head.hidden, head.weight, head.bias])]


def fused(given: Problem, terms: list[tuple[Loss, Target | None]], **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    head = leaves(given.student)
    parts = [
        FusedTerm(loss, given.weights * (number + 1), target, given.labels if target is None else None)
        for number, (loss, target) in enumerate(terms)
    ]
    total, values = fused_losses(head, parts, **options)
    return outcome(head, total), values


def plain(given: Problem, terms: list[tuple[Loss, Target | None]]) -> tuple[list[Tensor], list[Tensor]]:
    """The same from written-down logits and autograd."""
    head = leaves(given.student)
    logits = dense_logits(head)
    values = [loss(logits, given.labels if target is None else target) for loss, target in terms]
    total = sum((given.weights.double() * (n + 1) * value).sum() for n, value in enumerate(values))
    assert isinstance(total, Tensor)
    return outcome(head, total), [value.detach() for value in values]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)


def losses(temperature: float) -> list[Loss]:
    return [
        KD(temperature), ReverseKL(temperature), GeneralizedJSD(temperature, 0.3), SkewKL(temperature, 0.2),
        SkewReverseKL(temperature, 0.2),
    ]  # fmt: skip


BENDS = [{}, {"scale": 0.5}, {"softcap": 1.5}, {"scale": 2.0, "softcap": 0.7}]


@pytest.mark.parametrize("bends", BENDS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_chunks_equal_dense(bends: dict[str, float], temperature: float, chunk: int) -> None:
    """A chunk that forgets a soft-cap's or a temperature's slope, or another chunk's part of the head's gradient."""
    given = problem(**bends)
    dense = dense_logits(given.teacher)
    for loss in losses(temperature):
        for target in (given.teacher, dense):
            terms: list[tuple[Loss, Target | None]] = [(Supervised(0.1), None), (loss, target), (Supervised(), None)]
            found, values = fused(given, terms, chunk=chunk)
            expected, expected_values = plain(given, terms)
            close(found, expected)
            close(values, expected_values)


@pytest.mark.parametrize("bends", BENDS[:3], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("k", [1, 4, VOCABULARY])
def test_top_k_equals_the_outcomes_written_down(bends: dict[str, float], temperature: float, k: int) -> None:
    """A tail that is lost, counted twice, or whose gradient goes to the named entries."""
    given = problem(**bends)
    target = top_k(given.teacher, k, temperature)
    others = target if k == VOCABULARY else top_k(given.teacher, k + 1, temperature)
    for loss in losses(temperature):
        # A second target, a label among the named entries, and another temperature, all in one softmax or beside it.
        terms = [(loss, target), (Supervised(0.2), None), (loss, others), (KD(2.0), given.teacher)]
        found, values = fused(given, terms, chunk=3)
        head = leaves(given.student)
        logits = dense_logits(head)
        expected_values = [
            collapsed(loss, logits, target), Supervised(0.2)(logits, given.labels), collapsed(loss, logits, others),
            KD(2.0)(logits, given.teacher),
        ]  # fmt: skip
        total = sum((given.weights.double() * (n + 1) * value).sum() for n, value in enumerate(expected_values))
        close(found, outcome(head, total))
        close(values, [value.detach() for value in expected_values])


def collapsed(loss: Loss, logits: Tensor, target: TopK) -> Tensor:
    """The dense loss on k + 1 classes, of which the last is everything else: pure autograd."""
    temperature = loss.temperature  # type: ignore[attr-defined]
    log_q = (logits / temperature).log_softmax(-1)
    mine, theirs = [log_q.gather(1, target.ids)], [target.log_probs]
    if target.ids.shape[1] < logits.shape[1]:
        mine.append(log_q.scatter(1, target.ids, -math.inf).logsumexp(1, keepdim=True))
        theirs.append(target.log_tail.unsqueeze(1))
    # Logits at temperature T whose softmax at T are these probabilities.
    return loss(torch.cat(mine, 1) * temperature, torch.cat(theirs, 1) * temperature)


def test_all_entries_are_the_dense_distribution() -> None:
    """A top-k of the whole vocabulary that is not the dense loss."""
    given = problem()
    for loss in losses(2.0):
        whole, values = fused(given, [(loss, top_k(given.teacher, VOCABULARY, 2.0))])
        dense, dense_values = plain(given, [(loss, given.teacher)])
        close(whole, dense)
        close(values, dense_values)


def test_a_tail_that_single_precision_rounds_away() -> None:
    """1 − Σ q, which is 0 or noise where the student is sure, in the loss or in its gradient."""
    logits = torch.tensor([[20.0, 0.0, -1.0, -2.0]])
    target = TopK(torch.tensor([[0]]), torch.tensor([[0.9]]).log(), torch.tensor([0.1]).log())
    student = logits.clone().requires_grad_()
    total, values = fused_losses(student, [FusedTerm(KD(1.0), torch.ones(1), target)])
    total.backward()
    exact = logits.double().requires_grad_()
    value = collapsed(KD(1.0), exact, TopK(target.ids, target.log_probs.double(), target.log_tail.double()))
    value.sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(values[0].double(), value.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(student.grad.double(), exact.grad, rtol=1e-5, atol=1e-8)  # type: ignore[union-attr]


def draws(head: LinearHead, count: int, seed: int, temperature: float = 1.0) -> Sampled:
    p = (dense_logits(head).double() / temperature).softmax(-1)
    drawn = torch.multinomial(p, count, replacement=True, generator=torch.Generator().manual_seed(seed))
    shares = torch.zeros_like(p).scatter_add_(1, drawn, torch.full_like(drawn, 1 / count, dtype=p.dtype))
    kept = shares.topk(min(count, VOCABULARY))
    return Sampled(kept.indices, kept.values, -(p * p.log()).sum(1), temperature)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_are_right_on_average(temperature: float) -> None:
    """A biased estimate: over 10,000 draws the mean value and gradient lie within the Monte-Carlo error of KL's."""
    given = problem(items=2)
    rounds, results = 10_000, []
    terms_of = lambda seed: [(KD(temperature), draws(given.teacher, 1, seed, temperature))]  # noqa: E731
    # 10,000 rounds of one draw are made as one batch of as many items.
    hidden = given.student.hidden.repeat(rounds, 1)
    many = draws(replace(given.teacher, hidden=given.teacher.hidden.repeat(rounds, 1)), 1, 5, temperature)
    head = leaves(replace(given.student, hidden=hidden))
    total, values = fused_losses(head, [FusedTerm(KD(temperature), torch.ones(len(hidden)), many)])
    total.backward()
    gradients = head.hidden.grad.view(rounds, 2, WIDTH)  # type: ignore[union-attr]
    exact, exact_values = plain(
        replace(given, weights=torch.ones(2, dtype=torch.float64)), [(KD(temperature), given.teacher)]
    )
    for sample, expected in ((values[0].view(rounds, 2), exact_values[0]), (gradients, exact[1])):
        error = sample.std(0) / math.sqrt(rounds)
        assert bool(((sample.mean(0) - expected).abs() <= 4 * error + 1e-12).all())
    found, _ = fused(given, terms_of(1))
    results.append(found)
    dense, _ = plain(given, terms_of(1))
    close(found[:1], dense[:1])


def test_sampled_gradients_are_autograds() -> None:
    """A gradient by hand that is not that of the value."""
    given = problem()
    target = draws(given.teacher, 4, 0)
    found, _ = fused(given, [(KD(1.0), target), (Supervised(), None), (KD(1.0), top_k(given.teacher, 3, 1.0))], chunk=2)
    expected, _ = plain(given, [(KD(1.0), target), (Supervised(), None), (KD(1.0), top_k(given.teacher, 3, 1.0))])
    close(found, expected)


@pytest.mark.parametrize("theirs", [8, 14])
def test_a_padded_vocabulary_takes_no_probability(theirs: int) -> None:
    """Entries that only pad a head and take a part of the mass, on either side."""
    given = problem()
    weight, bias = torch.randn(14, 4, dtype=torch.float64), torch.randn(14, dtype=torch.float64)
    teacher = LinearHead(given.teacher.hidden, weight[:theirs], bias[:theirs])
    common = min(theirs, VOCABULARY)
    head = leaves(given.student)
    logits, taught = dense_logits(head), dense_logits(teacher)
    labels = given.labels.clamp(max=common - 1)
    for loss in losses(2.0):
        for target in (teacher, taught):
            total, values = fused_losses(
                head,
                [FusedTerm(loss, given.weights, target), FusedTerm(Supervised(), given.weights, None, labels)],
                padded_vocabulary=True,
            )
            value = loss(logits[:, :common], taught[:, :common])
            hard = Supervised()(logits, labels)
            expected = (given.weights.double() * (value + hard)).sum()
            close(outcome(head, total), [expected.detach(), *torch.autograd.grad(
                expected, [head.hidden, head.weight, head.bias], retain_graph=True)])  # fmt: skip
            close(values, [value.detach(), hard.detach()])
    with pytest.raises(LimbeckError, match=f"kd: the student gives 11 logits, the teacher {theirs}"):
        fused_losses(given.student, [FusedTerm(KD(1.0), given.weights, teacher)])


def test_dense_students_too() -> None:
    """One node for a classifier's terms, with another gradient than the separate ones."""
    given = problem()
    logits = dense_logits(given.student).detach().requires_grad_()
    teacher = dense_logits(given.teacher)
    parts = [FusedTerm(Supervised(), given.weights, None, given.labels), FusedTerm(KD(4.0), given.weights, teacher)]
    total, _ = fused_losses(logits, parts, chunk=3)
    expected = (given.weights.double() * (Supervised()(logits, given.labels) + KD(4.0)(logits, teacher))).sum()
    close(
        [total.detach(), *torch.autograd.grad(total, logits)],
        [expected.detach(), *torch.autograd.grad(expected, logits)],
    )


def test_nothing_to_compare_is_zero_with_a_graph() -> None:
    """NaN, or a loss that cannot go backward, from a batch without a valid token."""
    given = problem(items=0)
    head = leaves(given.student)
    total, values = fused_losses(head, [FusedTerm(KD(1.0), given.weights, given.teacher)])
    assert total.item() == 0.0
    total.backward()
    assert head.weight.grad is not None
    assert not head.weight.grad.any()
    assert values[0].shape == (0,)


def test_only_what_learns_gets_a_gradient() -> None:
    """A frozen head that gets a gradient of the size of the vocabulary; a teacher that learns."""
    given = problem()
    frozen = replace(given.student, hidden=given.student.hidden.clone().requires_grad_())
    teacher = leaves(given.teacher)
    total, _ = fused_losses(frozen, [FusedTerm(KD(1.0), given.weights, teacher)])
    total.backward()
    assert frozen.hidden.grad is not None
    assert frozen.weight.grad is None
    assert teacher.hidden.grad is teacher.weight.grad is None
    expected, _ = plain(given, [(KD(1.0), given.teacher)])
    close([frozen.hidden.grad], [expected[1]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_near_and_extremes_are_finite(dtype: torch.dtype) -> None:
    """Statistics in half precision, or infinity from a large logit."""
    exact = problem(size=0.5)
    given = problem(size=0.5, dtype=dtype)
    terms = [(KD(2.0), given.teacher), (Supervised(), None), (ReverseKL(2.0), top_k(given.teacher, 3, 2.0))]
    found, _ = fused(given, terms)
    expected, _ = plain(
        exact, [(KD(2.0), exact.teacher), (Supervised(), None), (ReverseKL(2.0), top_k(exact.teacher, 3, 2.0))]
    )
    close([each.double() for each in found], expected, 1e-4 if dtype is torch.float32 else 0.1)
    assert found[2].dtype is dtype
    huge = problem(size=60.0, dtype=dtype)
    for loss in losses(1.0):
        for target in (huge.teacher, top_k(huge.teacher, 3, 1.0), dense_logits(huge.teacher)):
            result, values = fused(huge, [(loss, target), (Supervised(), None)])
            assert all(bool(each.isfinite().all()) for each in (*result, *values))


def test_autocast_multiplies_in_half_and_sums_in_single() -> None:
    """A bf16 run that fails on mixed dtypes, or that loses its statistics."""
    given = problem(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, values = fused(given, [(KD(1.0), given.teacher), (Supervised(), None)])
    expected, _ = plain(problem(), [(KD(1.0), problem().teacher), (Supervised(), None)])
    close([each.double() for each in found], expected, 0.15)
    assert found[1].dtype is values[0].dtype is torch.float32


class Largest(TorchDispatchMode):
    """The most elements that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def test_the_logits_are_never_written_down() -> None:
    """A tensor of (items, vocabulary), which is what runs out of memory."""
    items, width, vocabulary, chunk = 64, 4, 256, 8
    hidden = torch.randn(items, width, requires_grad=True)
    head = LinearHead(hidden, torch.randn(vocabulary, width, requires_grad=True), None, 1.5, 2.0)
    teacher = LinearHead(torch.randn(items, width), torch.randn(vocabulary, width))
    small = top_k(teacher, 4, 1.0)
    for target in (teacher, small):
        terms = [FusedTerm(loss, torch.ones(items), target) for loss in losses(1.0)]
        terms.append(FusedTerm(Supervised(), torch.ones(items), None, torch.zeros(items, dtype=torch.int64)))
        with Largest() as largest:
            fused_losses(head, terms, chunk=chunk)[0].backward()
        assert largest.elements <= chunk * vocabulary
    with Largest() as largest:
        F.cross_entropy(dense_logits(head), torch.zeros(items, dtype=torch.int64)).backward()
    assert largest.elements >= items * vocabulary


def test_the_upstream_gradient_counts_and_backward_runs_once() -> None:
    """A loss that is scaled afterwards (accumulation, fp16) and trains as if it were not; a gradient used twice."""
    given = problem()
    head = leaves(given.student)
    total, _ = fused_losses(head, [FusedTerm(KD(1.0), given.weights, given.teacher)])
    scaled = torch.autograd.grad(0.25 * total, [head.hidden, head.weight], retain_graph=True)
    expected, _ = plain(given, [(KD(1.0), given.teacher)])
    close([each * 4 for each in scaled], expected[1:3])
    with pytest.raises(LimbeckError, match="one backward pass"):
        total.backward()
    again, _ = fused_losses(head, [FusedTerm(KD(1.0), given.weights, given.teacher)])
    with pytest.raises(LimbeckError, match="second derivative"):
        torch.autograd.grad(again, head.hidden, create_graph=True)


def test_what_does_not_fit_is_named() -> None:
    """Targets of another temperature or another batch, taken as they are."""
    given = problem()
    with pytest.raises(LimbeckError, match="kd: its temperature is 4, but the targets were stored at temperature 1"):
        fused_losses(given.student, [FusedTerm(KD(4.0), given.weights, top_k(given.teacher, 3, 1.0))])
    with pytest.raises(LimbeckError, match="the student gives 7 items, the teacher 2"):
        fused_losses(given.student, [FusedTerm(KD(1.0), given.weights, problem(items=2).teacher)])
    with pytest.raises(LimbeckError, match="sampled targets estimate forward KL only"):
        fused_losses(given.student, [FusedTerm(ReverseKL(1.0), given.weights, draws(given.teacher, 2, 0))])
    assert serves_fused(Supervised(0.1))
    assert not serves_fused(Supervised(class_weights=[1.0, 2.0]))
    assert not serves_fused(FeatureMSE())
