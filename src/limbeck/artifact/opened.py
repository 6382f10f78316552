"""What an open artifact has: its card, its graphs and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.artifact.card import ArtifactCard, PictureCard, TokenCard
from limbeck.artifact.running import Graph
from limbeck.artifact.texts import Texts
from limbeck.errors import LimbeckError


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An artifact whose files are open. `texts` is its tokenizer, where it has one."""

    folder: Path
    card: ArtifactCard
    graphs: Mapping[str, Graph]
    texts: Texts | None

    @property
    def model(self) -> Graph:
        """The only graph of most tasks."""
        return self.graphs["model"]

    @property
    def pixels(self) -> PictureCard:
        """How pictures are prepared. Raises LimbeckError where the card does not say."""
        if self.card.pixels is None:
            raise LimbeckError(f"{self.folder}: does not say how pictures are prepared; export the model again")
        return self.card.pixels

    @property
    def tokens(self) -> TokenCard:
        """How texts are prepared, beside the tokenizer."""
        return self.tokenizer.card

    @property
    def tokenizer(self) -> Texts:
        """The tokenizer. Raises LimbeckError where there is none."""
        if self.texts is None:
            raise LimbeckError(f"{self.folder}: has no tokenizer; export the model again")
        return self.texts

    def setting(self, name: str) -> Any:
        """A setting of the reading of answers. Raises LimbeckError where the card does not have it."""
        if name not in self.card.reading:
            raise LimbeckError(f"{self.folder}: its card does not say {name!r}; export the model again")
        return self.card.reading[name]
