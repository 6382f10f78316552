"""One entry of the table of losses."""

from __future__ import annotations

from dataclasses import dataclass

from limbeck.losses.base import Loss


@dataclass(frozen=True, slots=True)
class Method:
    """One loss: its entry in `limbeck methods` and docs/methods.md.

    `module` builds with its defaults. `needs` is what a batch must have beside the student's signal. `arxiv`
    is the paper's arXiv id; empty where it has none. `weight` goes with `supervised_weight` on the labels:
    the pair that `weights` gives the source of. `warmup` is over how many epochs the weight rises from 0.
    """

    module: type[Loss]
    family: str
    needs: str
    says: str
    paper: str
    arxiv: str
    weight: float
    supervised_weight: float
    weights: str
    warmup: float = 0.0

    @property
    def name(self) -> str:
        """What a recipe calls the loss."""
        return self.module.name

    @property
    def link(self) -> str:
        """The paper's page; empty where arXiv has none."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else ""
