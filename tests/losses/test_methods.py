"""The table of losses is complete, and the page that shows it agrees with it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import limbeck.losses as losses
from limbeck.losses import METHODS, Loss, Method

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def row(method: Method) -> str:
    """The line of a method in the table of docs/methods.md."""
    paper = f"[{method.paper}]({method.link})" if method.link else method.paper
    weight = (
        f"{method.weight:g}, labels {method.supervised_weight:g}" if method.supervised_weight else f"{method.weight:g}"
    )
    cells = (
        f"`{method.name}`",
        f"`{method.module.__name__}`",
        method.says,
        paper,
        f"{weight} ({method.weights})",
        method.needs,
    )
    return f"| {' | '.join(cells)} |"


def test_every_public_loss_is_in_the_table() -> None:
    """A loss that nobody finds, because `limbeck methods` and the page leave it out."""
    public = {getattr(losses, name) for name in losses.__all__}
    modules = {item for item in public if inspect.isclass(item) and issubclass(item, Loss)} - {Loss}
    assert {method.module for method in METHODS} == modules
    assert len({method.name for method in METHODS}) == len(METHODS) == len(modules)


def test_the_page_shows_the_table() -> None:
    """A page that says what the code no longer does. A missing line is printed as it should be."""
    missing = [row(method) for method in METHODS if row(method) not in PAGE.splitlines()]
    assert not missing, "\n".join(missing)
    named = re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE, flags=re.MULTILINE)
    assert named == [method.name for method in METHODS]


def test_every_method_builds_with_its_defaults() -> None:
    """A name in a recipe that needs settings which no recipe gives."""
    for method in METHODS:
        loss = method.module()
        assert loss.name == method.name
        assert ("teacher" in loss.inputs) == (method.family != "labels")


def test_every_function_says_what_it_computes() -> None:
    """A public function without its shapes, its errors or its paper."""
    for name in losses.__all__:
        function = getattr(losses, name)
        if inspect.isfunction(function):
            text = inspect.getdoc(function) or ""
            assert "Raises" in text, name
            assert "(batch" in text or "as in `kd`" in text, name
            if name not in {"cross_entropy", "binary_cross_entropy", "squared_error"}:
                assert "arXiv:" in text, name


def test_the_page_settles_the_loss_that_does_not_exist() -> None:
    """A reader in search of the "MacLeish loss" who finds nothing, or something invented."""
    section = PAGE.split("MacLeish", 1)[1]
    assert "no such" in section.lower()
    assert "NLL" in section
