"""Smaller models of the same kind: prune what matters least, quantize what is left."""

from limbeck.compress.importance import Criterion
from limbeck.compress.masks import zero_smallest
from limbeck.compress.prune import Pruned, Removed, prune
from limbeck.compress.schedule import rounds

__all__ = ["Criterion", "Pruned", "Removed", "prune", "rounds", "zero_smallest"]
