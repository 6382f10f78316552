"""Probes: how large each term's gradient is in the student, and whether it points where the labels' does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.balance import on_labels, references_of
from limbeck.distiller import Distiller
from limbeck.models.forward import evaluating
from limbeck.types import Batch

KEPT = 1 << 22
"""Values of a buffer up to which it is put back after a probe, whoever wrote to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Gradients of one batch, in all the student's parameters that are trained, before the terms' weights.

    `norms` (terms,); `cosines` (terms,) with the gradient of the term on labels that is nearest: of the same head of
    the student, else the first. NaN for that term itself, where there is none, and where a gradient is 0.
    """

    names: tuple[str, ...]
    norms: Tensor
    cosines: Tensor

    def entries(self) -> dict[str, float]:
        """`gradient/norm/<term>` and `gradient/cosine/<term>`, as logs have them; what is not finite is left out."""
        measures = {"norm": self.norms.tolist(), "cosine": self.cosines.tolist()}
        return {
            f"gradient/{kind}/{name}": value
            for kind, values in measures.items()
            for name, value in zip(self.names, values, strict=True)
            if abs(value) < float("inf")
        }


def probe(distiller: Distiller, batch: Batch, average: Callable[[Tensor], Tensor] | None = None) -> Probe | None:
    """The gradients of a batch's terms, in eval mode; weights, statistics and random state stay as they are.

    `average` takes a tensor to its mean over the processes, each of which has its part of the batch. None where
    logits are made in chunks, which serve one backward pass, and where the student is not trained.
    """
    terms, parameters = distiller.objective.terms, distiller.learning()
    if distiller.chunked or not parameters:
        return None
    references = references_of(terms)
    # Terms on labels first, so that no gradients but theirs are kept.
    order = sorted(range(len(terms)), key=lambda index: not on_labels(terms[index]))
    norms = torch.zeros(len(terms), device=parameters[0].device)
    cosines = torch.full_like(norms, torch.nan)
    kept: dict[int, Tensor] = {}
    with _untouched(distiller), torch.enable_grad():
        counts = average(distiller.counts(batch)) if average is not None else None
        values = distiller.term_values(batch, None if counts is None else torch.where(counts > 0, counts, 1.0))
        for index in order:
            gradient = _gradient(values[index], parameters)
            gradient = gradient if average is None else average(gradient)
            norms[index] = torch.linalg.vector_norm(gradient)
            reference = references[index]
            if index in references:
                kept[index] = gradient
            if reference is not None and reference != index:
                cosines[index] = torch.dot(gradient, kept[reference]) / (norms[index] * norms[reference])
    return Probe(tuple(term.name for term in terms), norms, cosines)


def _gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient in all parameters as one vector, float32."""
    parts: Sequence[Tensor | None] = [None] * len(parameters)
    if value.requires_grad:
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    both = zip(parts, parameters, strict=True)
    return torch.cat([(torch.zeros_like(own) if part is None else part).flatten().float() for part, own in both])


@contextmanager
def _untouched(distiller: Distiller) -> Iterator[None]:
    """Runs the block in eval mode, and puts back modes, buffers and random state."""
    # Banks of all samples are large, and theirs are losses that keep nothing in eval mode.
    buffers = [(buffer, buffer.clone()) for buffer in distiller.buffers() if buffer.numel() <= KEPT]
    on = [buffer.device for buffer in (*distiller.parameters(), *distiller.buffers()) if buffer.is_cuda][:1]
    with torch.random.fork_rng(devices=on), evaluating(distiller):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
