"""An endpoint as a recipe names it: `endpoint:http://localhost:8000/v1`, with what it needs as options."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from limbeck.errors import LimbeckError, nearest
from limbeck.teachers.endpoint.settings import Budget, Endpoint

PREFIX = "endpoint:"


def is_endpoint(name: str) -> bool:
    """Whether a model's name is that of an endpoint."""
    return name.startswith(PREFIX)


def named_endpoint(name: str, options: Mapping[str, Any]) -> tuple[Endpoint, Budget]:
    """The endpoint of a name, and what may be spent on it in one go.

    Args:
        name: `endpoint:` and the url.
        options: `model`, what the endpoint calls the model, and others of `Endpoint` and of `Budget`.

    Raises:
        LimbeckError: the model is not named, an option is unknown, or a value is out of range.
    """
    known = {kind: {field.name for field in dataclasses.fields(kind)} for kind in (Endpoint, Budget)}
    wanted = (known[Endpoint] | known[Budget]) - {"url"}
    if unknown := sorted(set(options) - wanted):
        raise LimbeckError(f"teacher.options.{unknown[0]}: unknown option of an endpoint{nearest(unknown[0], wanted)}")
    if not options.get("model"):
        raise LimbeckError(f"teacher: {name} needs options.model, what the endpoint calls its model")
    given = {kind: {key: value for key, value in options.items() if key in known[kind]} for kind in known}
    return Endpoint(name.removeprefix(PREFIX), **given[Endpoint]), Budget(**given[Budget])
