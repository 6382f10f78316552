"""Balance between terms: weights as given, learned from each term's noise, or measured at their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.terms import Term

Balancing = Literal["fixed", "uncertainty", "gradient"]
"""How terms are balanced: see `Uncertainty` and `GradientNorms`; `fixed` leaves the weights as they are."""

AVERAGED = 0.9
"""What a probe leaves of the average before it."""


class Balance(nn.Module):
    """Factors on the terms' weights, beside what the loss gets for having them."""

    def factors(self) -> Tensor:
        """What each term's weight is multiplied by, (terms,), without gradient."""
        raise NotImplementedError

    def forward(self, means: Tensor, weights: Sequence[float], shares: Tensor | None) -> Tensor | None:
        """What is added to Σ weight · factor · mean; None where nothing is.

        Args:
            means: of the terms, (terms,), without gradient.
            weights: before the factors.
            shares: this batch's share of each term's items in the step, (terms,); None where it is the whole step.
        """
        return None

    def observe(self, norms: Tensor) -> None:
        """Told the norm of each term's gradient in the student's parameters, (terms,), before its weight."""


class Uncertainty(Balance):
    """Each term's weight learned as its noise: Σ w · exp(−s) · L + s / 2, with s = log σ² trained with the student.

    `weight` stays as a factor of the user's. A term whose weight is 0, or which has no items in a step, leaves its s
    alone.

    Kendall, Gal and Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses", arXiv:1705.07115,
    equation 10 with the factor 1 of classification for every term.
    """

    def __init__(self, terms: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(terms))

    def factors(self) -> Tensor:
        """exp(−s), (terms,)."""
        return self.log_variances.detach().neg().exp()

    def forward(self, means: Tensor, weights: Sequence[float], shares: Tensor | None) -> Tensor:
        """Σ s / 2, and a part of value 0 that gives s its gradient of Σ w · exp(−s) · L, which is computed without."""
        log_variances = self.log_variances
        precisions = log_variances.neg().exp()
        given = means.new_tensor(weights)
        here = (given != 0).to(means.dtype) if shares is None else (given != 0) * shares.to(means)
        noise = (given * means * (precisions - precisions.detach())).sum()
        return noise + 0.5 * (log_variances * here).sum()


class GradientNorms(Balance):
    """Each teacher's term scaled so that its gradient's norm is its weight times that of the labels' term.

    Norms are those before weights, in the student's parameters, averaged exponentially over the probes that `observe`
    is told of; until a term was seen its factor is 1. Terms on labels, and those that have none beside them, keep their
    weight. Of GradNorm (Chen et al. 2018, arXiv:1711.02257) this has the idea that weights are to make gradients
    comparable. There the weights are themselves trained, towards the mean norm of all tasks in the last shared layer,
    tasks that learn slowly get larger ones, and all are scaled to add up; here the labels are the measure, and nothing
    is trained.
    """

    norms: Tensor
    seen: Tensor
    _adjusted: Tensor
    _reference: Tensor

    def __init__(self, references: Sequence[int | None], taught: Sequence[bool]) -> None:
        super().__init__()
        self.register_buffer("norms", torch.ones(len(references)))
        self.register_buffer("seen", torch.zeros(len(references), dtype=torch.bool))
        adjusted = [one is not None and teaches for one, teaches in zip(references, taught, strict=True)]
        self.register_buffer("_adjusted", torch.tensor(adjusted), persistent=False)
        self.register_buffer("_reference", torch.tensor([one or 0 for one in references]), persistent=False)

    def factors(self) -> Tensor:
        """Norm of the labels' term / norm of the term, (terms,)."""
        known = self._adjusted & self.seen & self.seen[self._reference]
        return torch.where(known, self.norms[self._reference] / self.norms, 1.0)

    @torch.no_grad()
    def observe(self, norms: Tensor) -> None:
        norms = norms.to(self.norms)
        useful = norms.isfinite() & (norms > 0)  # a batch without labels says nothing of the labels' term
        averaged = torch.where(self.seen, AVERAGED * self.norms + (1 - AVERAGED) * norms, norms)
        self.norms.copy_(torch.where(useful, averaged, self.norms))
        self.seen.logical_or_(useful)


def balance_of(how: Balancing, terms: Sequence[Term]) -> Balance | None:
    """The balance of settled terms; None for `fixed`.

    Raises:
        LimbeckError: there is no such balancing, or gradients have nothing to be measured against.
    """
    if how == "fixed":
        return None
    if how == "uncertainty":
        return Uncertainty(len(terms))
    if how != "gradient":
        raise LimbeckError(f"balance: unknown {how!r}{nearest(how, get_args(Balancing))}")
    references = references_of(terms)
    if all(reference is None for reference in references):
        raise LimbeckError(
            "balance='gradient' measures the teacher's terms against one on labels, but there is none; add "
            "Term(Supervised()), or take balance='uncertainty'"
        )
    return GradientNorms(references, [term.uses_teacher or term.own for term in terms])


def on_labels(term: Term) -> bool:
    """Whether a term compares with the labels and nothing else."""
    return not term.uses_teacher and not term.own and "labels" in term.loss.inputs


def references_of(terms: Sequence[Term]) -> list[int | None]:
    """For each term the one on labels that it is measured against: on the same signal of the student, or the first."""
    labelled = [index for index, term in enumerate(terms) if on_labels(term)]
    first = labelled[0] if labelled else None
    return [next((index for index in labelled if terms[index].student == term.student), first) for term in terms]
