"""Pairing: what of a student may be compared with what of a teacher, found by looking at how both run."""

from __future__ import annotations

from limbeck.pairing.expand import expand, opened
from limbeck.pairing.pair import Pairing, pair, paired
from limbeck.pairing.survey import Survey, survey

__all__ = ["Pairing", "Survey", "expand", "opened", "pair", "paired", "survey"]
