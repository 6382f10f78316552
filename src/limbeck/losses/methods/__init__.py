"""The table of losses: what each is called, what it needs, where it comes from, what to weigh it with."""

from __future__ import annotations

from limbeck.losses.methods.answers import ANSWERS
from limbeck.losses.methods.method import Method

METHODS: tuple[Method, ...] = (*ANSWERS,)

__all__ = ["METHODS", "Method"]
