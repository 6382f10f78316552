"""Errors that name what is wrong, where, and what to do. Nothing is imported here that a deployed model lacks."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimbeckError(ValueError):
    """A mistake in what the user gave. The command line prints its one line and exits with code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Ends an error message: `; did you mean 'x'?` where a known name is near, the list of known names otherwise."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
