"""Artifacts: exported models as folders, read and run without torch."""

from limbeck.artifact.card import (
    ARTIFACT,
    ArtifactCard,
    GraphCard,
    Parity,
    PictureCard,
    TensorCard,
    TokenCard,
    is_artifact,
    read_artifact_card,
    write_artifact_card,
)
from limbeck.artifact.opening import Artifact, open_artifact

__all__ = [
    "ARTIFACT",
    "Artifact",
    "ArtifactCard",
    "GraphCard",
    "Parity",
    "PictureCard",
    "TensorCard",
    "TokenCard",
    "is_artifact",
    "open_artifact",
    "read_artifact_card",
    "write_artifact_card",
]
