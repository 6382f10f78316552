"""Export: from a saved model to an artifact that runs without torch, compared with the model on real inputs."""

from limbeck.export.exporting import export

__all__ = ["export"]
