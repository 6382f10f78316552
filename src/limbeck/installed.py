"""Models that travel inside installed Python packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from limbeck.errors import LimbeckError

PREFIX = "package:"


def resolved(name: str) -> str:
    """A folder or hub id as it is; of `package:NAME` the folder in that installed package that holds a `config.json`.
    None of the package's code runs.

    Raises:
        LimbeckError: there is no such package, or no model in it.
    """
    if not name.startswith(PREFIX):
        return name
    package = name.removeprefix(PREFIX)
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise LimbeckError(f"{name}: no package {package!r} is installed; pip install it, or give a folder or a hub id")
    for place in found.submodule_search_locations:
        configurations = sorted(Path(place).rglob("config.json"), key=lambda path: len(path.parts))
        for each in configurations:
            if any(each.parent.glob("*.safetensors")):
                return str(each.parent)
    raise LimbeckError(f"{name}: the package holds no folder with config.json and safetensors weights")
