"""Which model a report says to ship: of rows that were made up, where the right answer is known."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.browser import Browser, chromium

from limbeck.measures import measure_of
from limbeck.report import write
from limbeck.report.shipping import recommended, sentences, shipping
from limbeck.report.tradeoffs import on_front
from limbeck.report.tried import FitPage, Tried, write_fit
from limbeck.results import Results, Row


def row(name: str, accuracy: float, ms: float | None, size: float, seed: int = 0) -> Row:
    precision = "int8" if "int8" in name else "fp32"
    latency: dict[str, Any] = {
        "runtime": "onnxruntime 1",
        "device": "a processor",
        "precision": precision,
        "threads": 1,
    }
    latency |= {"p50": ms, "p99": 2 * ms, "throughput": 1000 / ms} if ms else {"refused": "the median is not known"}
    sizes = {"bytes": size, "parameters": size / 4, "flops": 10 * size}
    return Row(name, seed, "last", {"accuracy": accuracy}, sizes, latency, {"train_seconds": 1.0})


def results(*rows: Row, tolerance: float = 0.01, compare: tuple[str, ...] = ("pruned",)) -> Results:
    recipe = {"name": "made-up", "compare": list(compare), "quantize": {"tolerance": tolerance}}
    return Results(recipe, {"python": "3"}, list(rows))


TEACHER = row("teacher", 0.95, 4.0, 4e6)


def chosen(found: Results) -> str:
    group = recommended(found)
    return "" if group is None else group.name


def test_the_fastest_within_tolerance_of_the_best_is_shipped() -> None:
    found = results(
        TEACHER, row("alone", 0.80, 1.0, 1e6), row("distilled", 0.90, 1.0, 1e6), row("pruned", 0.905, 2.0, 2e6)
    )
    assert chosen(found) == "distilled"
    assert "within 1.0 points of the best candidate (pruned, 90.5 %) nothing is faster" in sentences(found)[0]
    assert "4.0 × the time and 4.0 × the bytes" in sentences(found)[0]
    assert chosen(results(*found.rows, tolerance=0.001)) == "pruned"


def test_of_about_equally_fast_ones_the_smallest_is_shipped() -> None:
    rows = (TEACHER, row("distilled", 0.90, 1.0, 1e6), row("distilled+int8", 0.899, 1.04, 0.25e6))
    assert chosen(results(*rows)) == "distilled+int8"
    slower = row("distilled+int8", 0.899, 1.06, 0.25e6)
    found = results(*rows[:2], slower)
    assert chosen(found) == "distilled"
    assert sentences(found)[1] == "If bytes matter most, distilled+int8 has 250 kB at accuracy 89.9 %."


def test_of_equally_small_ones_the_best_is_named() -> None:
    small = row("alone+int8", 0.80, 1.2, 0.25e6), row("distilled+int8", 0.90, 1.2, 0.25e6)
    found = results(TEACHER, row("distilled", 0.90, 1.0, 1e6), *small)
    assert sentences(found)[1].startswith("If bytes matter most, distilled+int8 has")


def test_the_mean_over_seeds_decides_and_the_fp32_teacher_is_no_candidate() -> None:
    lucky = [row("pruned", 0.99, 0.5, 1e5, 0), row("pruned", 0.70, 0.5, 1e5, 1)]
    steady = [row("distilled", 0.90, 1.0, 1e6, seed) for seed in (0, 1)]
    assert chosen(results(TEACHER, *lucky, *steady)) == "distilled"
    assert chosen(results(row("teacher", 0.99, 0.1, 1.0), *steady)) == "distilled"


def test_a_latency_that_is_not_known_ships_nothing_and_is_said() -> None:
    found = results(TEACHER, row("distilled", 0.9, None, 1e6), row("pruned", 0.9, 1.0, 1e6))
    assert chosen(found) == "pruned"
    assert sentences(found)[-1] == "No latency is quoted of distilled: the median is not known."
    nothing = results(row("teacher", 0.9, None, 1.0), row("distilled", 0.9, None, 1.0))
    assert chosen(nothing) == ""
    assert "not said" in sentences(nothing)[0]


def test_a_run_that_compares_nothing_has_no_such_section() -> None:
    found = results(TEACHER, row("distilled", 0.9, 1.0, 1e6), compare=())
    assert shipping(found) is None
    assert sentences(found) == []


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12))
def test_the_front_is_those_that_none_beats(points: list[tuple[int, int]]) -> None:
    """Against the definition, over all pairs."""
    costs, ranks = [float(cost) for cost, _ in points], [float(rank) for _, rank in points]
    front = on_front(costs, ranks)
    kept = {points[index] for index in front}
    beaten = {
        one for one, other in itertools.permutations(points, 2)
        if other[0] <= one[0] and other[1] >= one[1] and other != one
    }  # fmt: skip
    assert kept == set(points) - beaten
    assert len(kept) == len(front)
    assert [costs[index] for index in front] == sorted(costs[index] for index in front)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    names = ("alone", "distilled", "pruned", "pruned+distilled", "int8", "distilled+int8", "pruned+distilled+int8")
    rows = [
        row(name, 0.8 + 0.01 * at, 1.0 + 0.1 * at, 1e6 / (at + 1), seed)
        for at, name in enumerate(names)
        for seed in (0, 1)
    ]
    found = results(TEACHER, *rows)
    write(found, folder, folder / "report.html")
    tried = [
        Tried(f"a-model-with-a-long-name-{at}", {"latency": at + 1.0, "bytes": 1e5, "flops": 1e6, "parameters": 1e4},
              0.9 - at / 100, 100, "chosen" if at == 0 else "over", "over the budget: 3 ms of 1 ms") for at in range(6)
    ]  # fmt: skip
    page = FitPage("made-up: 1 ms", ["It fits."], measure_of("accuracy"), tried, {"latency": 1.0}, "a processor",
                   [("teacher", "95 %")], "name: made-up", {"python": "3"})  # fmt: skip
    write_fit(page, folder / "fit.html")
    return [folder / "report.html", folder / "fit.html"]


def test_the_figures_of_a_fit_share_no_id(tmp_path: Path) -> None:
    """Two figures in one page whose clip paths have one name hide each other's points."""
    tried = [
        Tried(str(at), {"latency": at + 1.0, "bytes": 1e5 * (at + 1)}, 0.9 - at / 100, 1, "tried", "") for at in (0, 1)
    ]
    page = FitPage("two", [], measure_of("accuracy"), tried, {"latency": 1.0, "bytes": 1e6}, "", [], "", {})
    write_fit(page, tmp_path / "fit.html")
    ids = re.findall(r'\bid="([^"]+)"', (tmp_path / "fit.html").read_text(encoding="utf-8"))
    assert sum("clip" in each or each.endswith("figure_1") for each in ids) >= 2
    assert len(ids) == len(set(ids))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with chromium(tmp_path_factory.mktemp("profile")) as window:
        yield window


@pytest.mark.parametrize("width", [360, 1200])
@pytest.mark.parametrize("which", [0, 1])
def test_the_pages_can_be_clicked_through_on_a_phone_and_a_desk(
    browser: Browser, pages: list[Path], which: int, width: int
) -> None:
    """A link that leads nowhere, a table that makes the page scroll sideways, a figure wider than the screen."""
    browser.call("POST", "/window/rect", width=width, height=900)
    browser.open(pages[which].as_uri())
    # What still glides from the last link is not where the driver saw it.
    browser.run("document.documentElement.style.scrollBehavior = 'auto'")
    links = browser.run("return [...document.querySelectorAll('nav a')].map(each => each.getAttribute('href'))")
    assert len(links) >= 3
    for link in links:
        centred = "{behavior: 'instant', block: 'center', inline: 'center'}"
        browser.run(f"document.querySelector(arguments[0]).scrollIntoView({centred})", f"nav a[href='{link}']")
        browser.click(f"nav a[href='{link}']")
        assert browser.run("return location.hash") == link
        assert browser.run("return !!document.querySelector(arguments[0])", link), link
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    right = "Math.max(...[...document.querySelectorAll('figure svg')].map(each => each.getBoundingClientRect().right))"
    assert browser.run(f"return {right} <= innerWidth")
    details = "return [...document.querySelectorAll('details')].length"
    for index in range(browser.run(details)):
        browser.run("document.querySelectorAll('details summary')[arguments[0]].click()", index)
        assert browser.run("return document.querySelectorAll('details')[arguments[0]].open", index)
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
