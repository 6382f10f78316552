"""Artifacts behind HTTP, without torch: batches, limits, new versions without an interruption, and a page to try it."""

from limbeck.serve.limits import Limits
from limbeck.serve.running import serve

__all__ = ["Limits", "serve"]
