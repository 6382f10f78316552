"""Several losses on one set of logits as one node: in chunks of items, each chunk made, compared and forgotten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.losses.base import Loss
from limbeck.losses.divergences import Divergence, ForwardKL
from limbeck.losses.response import DivergenceLoss, same_temperature
from limbeck.losses.room import Room
from limbeck.losses.sparse import sparse_divergence
from limbeck.losses.supervised import Supervised
from limbeck.types import LinearHead, Sampled, Target, TopK

CHUNK_BYTES = {"cpu": 256 << 20, "cuda": 2048 << 20}
"""What all buffers of a chunk may take together: products with few rows are slow, and each chunk reads the head and its
gradient once more."""


@dataclass(frozen=True, slots=True, eq=False)
class FusedTerm:
    """One loss on the logits.

    `weights` (items,) is what each item adds to the total: the term's weight, times the mask, divided by the count.
    `target` is what the teacher says, `labels` (items,) int64 class indices, negative where there is none.
    """

    loss: Loss
    weights: Tensor
    target: Target | None = None
    labels: Tensor | None = None


def serves_fused(loss: Loss) -> bool:
    """Whether `fused_losses` computes a loss: cross-entropy without class weights, and the divergences."""
    return isinstance(loss, DivergenceLoss) or (type(loss) is Supervised and loss.class_weights is None)


def fused_losses(
    student: LinearHead | Tensor,
    terms: Sequence[FusedTerm],
    *,
    padded_vocabulary: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Σ over terms and items of weights · value, and the values.

    The gradient is computed with the values, chunk by chunk over the full vocabulary, so that from a LinearHead no
    tensor of (items, vocabulary) is ever made, for student or teacher; it can be used in one backward pass. Statistics
    are in float32 (float64 where the student is).

    Args:
        student: logits (items, vocabulary), or the head that makes them.
        terms: each with a loss that `serves_fused`.
        padded_vocabulary: lets teacher and student differ in the size of the vocabulary: entries beyond the smaller one
            are padding, which divergences leave out on both sides.
        chunk: items at a time; by default as many as have room in 256 MB on a processor, in 2 GB on a GPU.

    Returns:
        The total, a scalar with its graph (0 where there are no items), and for each term its values (items,), without
        weights and graph.

    Raises:
        LimbeckError: shapes, vocabularies or temperatures do not fit.
    """
    if isinstance(student, Tensor):
        leaves: tuple[Tensor, Tensor | None, Tensor | None] = (student, None, None)
    else:
        leaves = (student.hidden, student.weight, student.bias)
    work = _Work(student, terms, padded_vocabulary, chunk)
    total: Tensor = _Fused.apply(*leaves, work)
    return total, work.values


class _Work:
    """What a pass needs and leaves: the terms, and the values."""

    def __init__(
        self, student: LinearHead | Tensor, terms: Sequence[FusedTerm], padded: bool, chunk: int | None
    ) -> None:
        self.scale = 1.0 if isinstance(student, Tensor) else student.scale
        self.softcap = None if isinstance(student, Tensor) else student.softcap
        self.vocabulary = student.shape[1] if isinstance(student, Tensor) else student.weight.shape[0]
        self.terms = terms
        self.padded = padded
        self.chunk = chunk
        self.values: list[Tensor] = []
        for term in terms:
            self._check(term, len(student if isinstance(student, Tensor) else student.hidden))

    def _check(self, term: FusedTerm, items: int) -> None:
        if isinstance(term.loss, DivergenceLoss):
            assert term.target is not None
            theirs = vocabulary_of(term.target)
            if theirs is not None and theirs != self.vocabulary and not self.padded:
                raise LimbeckError(
                    f"{term.loss.name}: the student gives {self.vocabulary} logits, the teacher {theirs}; they must be "
                    "equal (same classes in the same order)"
                )
            same_temperature(term.loss, term.target)
            rows = len(term.target.hidden if isinstance(term.target, LinearHead) else _first(term.target))
        else:
            assert term.labels is not None
            rows = len(term.labels)
        if rows != items:
            what = "teacher" if isinstance(term.loss, DivergenceLoss) else "labels"
            raise LimbeckError(
                f"{term.loss.name}: the student gives {items} items, the {what} {rows}; both must be of the same batch"
            )


def vocabulary_of(target: Target) -> int | None:
    """How many entries a target speaks of; None where it names only some."""
    if isinstance(target, Tensor):
        return target.shape[-1]
    return target.weight.shape[0] if isinstance(target, LinearHead) else None


def _first(target: Tensor | TopK | Sampled) -> Tensor:
    return target if isinstance(target, Tensor) else target.ids


class _Fused(torch.autograd.Function):
    """The total as one node that holds its gradient."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, weight: Tensor | None, bias: Tensor | None, work: _Work) -> Tensor:
        wanted = ctx.needs_input_grad
        with torch.autocast(source.device.type, enabled=False):
            total, ctx.gradients = _pass(source, weight, bias, work, wanted)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise LimbeckError("fused losses have no second derivative; leave create_graph False")
        if ctx.gradients is None:
            raise LimbeckError("fused losses serve one backward pass; call forward again, or backward on the sum")
        gradients, ctx.gradients = ctx.gradients, None
        # A pass over the whole head's gradient for a factor of 1 is not worth it, waiting for a GPU to say so neither.
        if upstream.device.type == "cpu" and upstream.item() == 1.0:
            return (*gradients, None)
        return (*(None if each is None else each * upstream.to(each.dtype) for each in gradients), None)


def _pass(
    source: Tensor, weight: Tensor | None, bias: Tensor | None, work: _Work, wanted: Sequence[bool]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The total and the gradients of source, weight and bias."""
    items, device = len(source), source.device
    product = _product_dtype(source)
    precise = torch.float64 if source.dtype is torch.float64 else torch.float32
    hidden = source if weight is None else source.to(product)
    head = None if weight is None else weight.to(product)
    size = work.chunk or _chunk_size(items, work, precise, device)
    work.values = [torch.zeros(items, dtype=precise, device=device) for _ in work.terms]
    grad_source = torch.empty_like(source) if wanted[0] else None
    grad_weight = None if weight is None or not wanted[1] else torch.zeros(weight.shape, dtype=precise, device=device)
    grad_bias = None if bias is None or not wanted[2] else torch.zeros(bias.shape, dtype=precise, device=device)
    room = Room(size, work.vocabulary, precise, device)
    total = torch.zeros((), dtype=precise, device=device)
    for start in range(0, items, size):
        at = slice(start, min(start + size, items))
        logits = room.take("student", at.stop - at.start)
        if head is None:
            logits.copy_(source[at])
        else:
            _linear(hidden[at], head, bias, logits)
        if work.scale != 1.0:
            logits.mul_(work.scale)
        if work.softcap is not None:
            logits.div_(work.softcap).tanh_().mul_(work.softcap)
        gradient = _chunk(logits, work, at, room)
        for term, values in zip(work.terms, work.values, strict=True):
            total += torch.dot(values[at], term.weights[at].to(precise))
        if work.scale != 1.0:
            gradient.mul_(work.scale)
        if head is None:
            if grad_source is not None:
                grad_source[at] = gradient
            continue
        if grad_bias is not None:
            grad_bias += gradient.sum(0)
        rounded = gradient.to(product)
        if grad_source is not None:
            grad_source[at] = rounded @ head
        if grad_weight is not None:
            if product is precise:
                grad_weight.addmm_(rounded.T, hidden[at])
            else:
                grad_weight += rounded.T @ hidden[at]
    cast = (
        grad_source,
        None if grad_weight is None or weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
    )
    return total, cast


def _chunk_size(items: int, work: _Work, dtype: torch.dtype, device: torch.device) -> int:
    """How many items have room at a time; the chunks are of equal size, as a small last one would be slow."""
    dense = sum(isinstance(term.target, Tensor | LinearHead) for term in work.terms)
    bent = work.softcap is not None or len({getattr(term.loss, "temperature", 1.0) for term in work.terms}) > 1
    buffers = (4 if dense else 1) + bent
    room = CHUNK_BYTES.get(device.type, CHUNK_BYTES["cuda"])
    most = max(16, room // (buffers * dtype.itemsize * work.vocabulary))
    chunks = max(1, -(-items // most))
    return max(1, -(-items // chunks))


def _product_dtype(source: Tensor) -> torch.dtype:
    kind = source.device.type
    if torch.is_autocast_enabled(kind) and source.dtype is not torch.float64:
        return torch.get_autocast_dtype(kind)
    return source.dtype


def _linear(hidden: Tensor, weight: Tensor, bias: Tensor | None, into: Tensor) -> None:
    """`hidden @ weight.T + bias`, written to `into`, whose dtype may be wider than the product's."""
    if hidden.dtype is into.dtype:
        torch.mm(hidden, weight.T, out=into)
    else:
        into.copy_(hidden @ weight.T)
    if bias is not None:
        into.add_(bias)


def _chunk(logits: Tensor, work: _Work, at: slice, room: Room) -> Tensor:
    """Writes the values of the chunk's items and gives the weighted gradient in its logits, before the scale.

    Terms that share a temperature and a vocabulary share one softmax.
    """
    groups: dict[tuple[float, int], list[int]] = defaultdict(list)
    for index, term in enumerate(work.terms):
        temperature, vocabulary = 1.0, work.vocabulary
        if isinstance(term.loss, DivergenceLoss):
            assert term.target is not None
            temperature = term.loss.temperature
            vocabulary = min(vocabulary, vocabulary_of(term.target) or vocabulary)
        groups[temperature, vocabulary].append(index)
    gradient: Tensor | None = None
    for number, ((temperature, vocabulary), indices) in enumerate(groups.items()):
        last = number == len(groups) - 1
        # The last softmax may take the logits' own place where nobody needs them after it.
        in_place = last and gradient is None and work.softcap is None and vocabulary == work.vocabulary
        found = _group(logits, work, indices, at, room, temperature, vocabulary, in_place, number)
        if gradient is None and vocabulary == work.vocabulary:
            gradient = found
        elif gradient is None:
            gradient = room.take("gradient", len(logits)).zero_()
            gradient[:, :vocabulary] = found
        else:
            gradient[:, :vocabulary] += found
    assert gradient is not None
    if work.softcap is not None:
        gradient.mul_(logits.div_(work.softcap).square_().neg_().add_(1.0))
    return gradient


def _group(
    logits: Tensor, work: _Work, indices: Sequence[int], at: slice, room: Room,
    temperature: float, vocabulary: int, in_place: bool, number: int,
) -> Tensor:  # fmt: skip
    """The gradient of the terms that share one softmax."""
    items = len(logits)
    dense = [i for i in indices if isinstance(work.terms[i].target, Tensor | LinearHead)]
    scaled = logits[:, :vocabulary]
    if temperature != 1.0:
        scaled = torch.div(scaled, temperature, out=room.take(f"scaled {number}", items, vocabulary))
    top = scaled.amax(1, keepdim=True)
    named = {i: _named_logits(scaled, work.terms[i], at) for i in indices if i not in dense}
    mean = {i: scaled.mean(1) for i in indices if getattr(work.terms[i].loss, "label_smoothing", 0.0)}
    overwrite = (in_place or temperature != 1.0) and not dense
    powers = scaled if overwrite else room.take(f"powers {number}", items, vocabulary)
    torch.sub(scaled, top, out=powers)
    powers.exp_()
    # The mass outside the largest k is summed as such: 1 − Σ q would lose it where it is small.
    anchor = next((term.target.ids[at] for i in indices if isinstance((term := work.terms[i]).target, TopK)), None)
    if anchor is None:
        at_anchor, rest = None, None
        summed = powers.sum(1, keepdim=True)
    else:
        at_anchor = powers.gather(1, anchor)
        powers.scatter_(1, anchor, 0.0)
        rest = powers.sum(1, keepdim=True)
        summed = rest + at_anchor.sum(1, keepdim=True)
    log_sum = (top + summed.log()).squeeze(1)
    outside, inside, spread = (torch.zeros_like(log_sum) for _ in range(3))
    additions: list[Tensor] = []
    points: list[tuple[Tensor, Tensor]] = []
    for i in indices:
        term = work.terms[i]
        # T² for the loss, 1/T for the slope in the logits.
        weights = term.weights[at].to(log_sum.dtype) * temperature
        if isinstance(term.loss, Supervised):
            labels, picked = named[i]
            assert term.labels is not None
            known = term.labels[at] >= 0
            smooth = term.loss.label_smoothing
            weights = torch.where(known, weights, 0.0)
            value = log_sum - (1.0 - smooth) * picked.squeeze(1)
            if smooth:
                value = value - smooth * mean[i]
                spread += weights * (smooth / vocabulary)
            work.values[i][at] = torch.where(known, value, 0.0)
            outside += weights
            inside += weights
            points.append((labels, (-(1.0 - smooth) * weights).unsqueeze(1)))
            continue
        assert isinstance(term.loss, DivergenceLoss)
        assert term.target is not None
        rule = term.loss.divergence
        if i in dense:
            value, slope, share = _dense(term.target, scaled, log_sum, weights, rule, temperature, at, room)
            additions.append(slope)
            outside += share
            inside += share
        else:
            ids, picked = named[i]
            target = _rows(term.target, at)
            assert isinstance(target, TopK | Sampled)
            anchored = isinstance(target, TopK) and anchor is not None and target.ids.data_ptr() == anchor.data_ptr()
            tail = (rest.log() - summed.log()).squeeze(1) if anchored and rest is not None else None
            log_q = picked - log_sum.unsqueeze(1)
            value, found = sparse_divergence(target, log_q, rule, tail)
            amounts = found.at_ids
            if not anchored:
                amounts = amounts + log_q.exp() * (found.inside - found.outside).unsqueeze(1)
            points.append((ids, amounts * weights.unsqueeze(1)))
            outside += weights * found.outside
            inside += weights * (found.inside if anchored else found.outside)
        work.values[i][at] = value * temperature**2
    gradient = powers.mul_(outside.unsqueeze(1) / summed)
    if anchor is not None and at_anchor is not None:
        points.append((anchor, at_anchor * (inside.unsqueeze(1) / summed)))
    for addition in additions:
        gradient += addition
    if mean:
        gradient -= spread.unsqueeze(1)
    for ids, amounts in points:
        gradient.scatter_add_(1, ids, amounts)
    return gradient


def _named_logits(scaled: Tensor, term: FusedTerm, at: slice) -> tuple[Tensor, Tensor]:
    """The entries that a sparse target or the labels name, (items, k), and the student's logits there."""
    if isinstance(term.loss, Supervised):
        assert term.labels is not None
        ids = term.labels[at].clamp(min=0).unsqueeze(1)
    else:
        assert isinstance(term.target, TopK | Sampled)
        ids = term.target.ids[at]
    return ids, scaled.gather(1, ids)


def _dense(
    target: Target, scaled: Tensor, log_sum: Tensor, weights: Tensor, rule: Divergence,
    temperature: float, at: slice, room: Room,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Values, weighted slope, and what q counts in the gradient, against a teacher's whole distribution."""
    items, vocabulary = scaled.shape
    theirs = room.take("teacher", items, vocabulary)
    if isinstance(target, LinearHead):
        rows = target.hidden[at]
        bias = None if target.bias is None else target.bias[:vocabulary]
        _linear(rows.to(target.weight.dtype), target.weight[:vocabulary], bias, theirs)
        if target.scale != 1.0:
            theirs.mul_(target.scale)
        if target.softcap is not None:
            theirs.div_(target.softcap).tanh_().mul_(target.softcap)
    else:
        assert isinstance(target, Tensor)
        theirs.copy_(target[at, :vocabulary])
    if temperature != 1.0:
        theirs.div_(temperature)
    if not isinstance(rule, ForwardKL):
        log_p = theirs.sub_(theirs.logsumexp(1, keepdim=True))
        log_q = scaled - log_sum.unsqueeze(1)
        value, slope = rule(log_p, log_q)
        return value, slope.mul_(weights.unsqueeze(1)), -slope.sum(1)
    # The commonest case in as few passes as it takes: Σ p · (log p − log q) from p · (t − s).
    top = theirs.amax(1, keepdim=True)
    p = torch.sub(theirs, top, out=room.take("p", items, vocabulary)).exp_()
    summed = p.sum(1, keepdim=True)
    p.div_(summed)
    gap = theirs.sub_(scaled)
    if isinstance(target, Tensor):
        gap.masked_fill_(p == 0, 0.0)
    value = torch.bmm(p.unsqueeze(1), gap.unsqueeze(2)).view(-1) - (top + summed.log()).squeeze(1) + log_sum
    return value, p.mul_(-weights.unsqueeze(1)), weights


def _rows(target: Target, at: slice) -> Target:
    if isinstance(target, TopK):
        return TopK(target.ids[at], target.log_probs[at], target.log_tail[at], target.temperature)
    assert isinstance(target, Sampled)
    return Sampled(target.ids[at], target.shares[at], target.entropy[at], target.temperature)
