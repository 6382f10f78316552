"""The page as a whole: complete, closed to the network, safe, and forgiving of what a run lacks."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.errors import LimbeckError
from limbeck.files import write_json
from limbeck.metrics import classification_details, classification_metrics, fidelity, paired
from limbeck.report import render, verdict, write
from limbeck.results import Results, Row

HOSTILE = "<script>alert('x')</script>"


class Page(HTMLParser):
    """Tags, addresses, ids and visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag and its attributes."""
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on"), f"a script in {tag} {name}"

    def handle_data(self, data: str) -> None:
        """Collects text."""
        self.text += data


def make(folder: Path, classes: list[str], seeds: int = 3) -> Results:
    """A small run with everything: teacher, alone and distilled in two settings, details and examples."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % len(classes)
    teacher = torch.randn(200, len(classes), generator=generator)
    teacher[torch.arange(200), labels] += 3
    rows, accuracies = [], {}
    for name, gain in [("teacher", None), ("alone", 1.0), ("distilled", 2.0), ("distilled@all", 2.2)]:
        for seed in range(1 if gain is None else seeds):
            logits = teacher
            if gain is not None:
                logits = torch.randn(200, len(classes), generator=generator)
                logits[torch.arange(200), labels] += gain
            file = f"details/{name}-{seed}.json"
            history = [
                {"step": s, "epoch": s / 2, "loss": 3.0 / s, "term/kd": 1.0 / s, "eval_accuracy": 0.1 * s}
                for s in range(1, 6)
            ]
            write_json(folder / file, {**classification_details(logits, labels, classes), "history": history})
            metrics = classification_metrics(logits, labels)
            if gain is not None:
                metrics |= fidelity(logits, teacher, labels)
            accuracies.setdefault(name, []).append(metrics["accuracy"])
            size = {"parameters": 1e6 if gain is None else 1.2e5, "bytes": 4e6 if gain is None else 4.8e5}
            latency = {"p50": 4.0 if gain is None else 1.0, "device": "some CPU"}
            rows.append(Row(name, seed, "last", metrics, size, latency, {"train_seconds": 12.5}, file))
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "png")
    example = {
        "png": base64.b64encode(buffer.getvalue()).decode(),
        "label": classes[0], "teacher": classes[0], "teacher_confidence": 0.9,
        "student": classes[1], "student_confidence": 0.6,
    }  # fmt: skip
    write_json(folder / "details" / "examples.json", {"classes": classes, "lost": [example], "kept": [], "won": []})
    claims = [paired("accuracy", "distilled", "alone", accuracies["distilled"], accuracies["alone"])]
    recipe = {"name": "small run", "task": "image-classification", "seeds": seeds}
    return Results(recipe, {"torch": "2.0"}, rows, claims, ["3 classes, balanced"])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A run's folder and its results."""
    folder = tmp_path_factory.mktemp("run")
    return folder, make(folder, ["cat", "dog", "bird"])


def test_nothing_is_loaded_from_outside(run: tuple[Path, Results]) -> None:
    """A page that is blank on a train, or tells a server that it was opened."""
    html = render(run[1], run[0])
    page = Page(html)
    assert page.addresses, "the test sees the figures' and the navigation's addresses"
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert "script" not in page.tags


def test_the_page_shows_the_rows(run: tuple[Path, Results]) -> None:
    """Numbers in the page that are not those of results.json; a section that got lost."""
    results = run[1]
    glued = Page(render(results, run[0])).text
    assert re.search("\\(p\xa0[<=]\xa00", glued), "a p-value is not torn apart at the end of a line"
    text = glued.replace("\xa0", " ")
    assert all(sentence in text for sentence in verdict(results))
    accuracies = [row.metrics["accuracy"] for row in results.named("distilled")]
    tensor = 100 * torch.tensor(accuracies, dtype=torch.float64)
    assert f"{tensor.mean():.2f} ± {tensor.std():.2f}" in text
    assert f"{100 * results.named('teacher')[0].metrics['accuracy']:.2f}" in text
    assert f"{results.named('distilled')[0].metrics['nll']:.3f}" not in text, "the mean of seeds, not the first"
    for words in ("120 k", "1.00 M", "480 kB", "12.50", "some CPU", "3 classes, balanced", "name: small run", "torch"):
        assert words in text
    for heading in ("Results", "What accuracy costs", "Learning", "Precision, recall", "F1 by class", "Lost"):
        assert heading in text
    assert "Distilled minus alone" in text
    assert "Distilled minus teacher" in text


def test_headings_ids_and_names(run: tuple[Path, Results]) -> None:
    """A page that a screen reader cannot walk: skipped levels, one id twice, figures without words."""
    html = render(run[1], run[0])
    page = Page(html)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in zip([0, *levels], levels, strict=False))
    assert len(page.ids) == len(set(page.ids))
    assert all(f'id="{address[1:]}"' in html for address in page.addresses if address.startswith("#"))
    assert html.count("<figure aria-label=") == page.tags.count("figure") == page.tags.count("svg") > 5
    assert all(re.search(r'alt="[^"]+"', image) for image in re.findall("<img[^>]*>", html))


def test_joints_of_each_model_and_what_examples_are(run: tuple[Path, Results], tmp_path: Path) -> None:
    """Numbers that a run wrote and nobody reads; a sentence over pairs of faces that is true of poses."""
    folder, results = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for row in results.rows:
        details = json.loads((tmp_path / row.details).read_text(encoding="utf-8"))
        share = {"teacher": 1.0, "alone": 0.25, "distilled": 0.5}.get(row.name.partition("@")[0], 0.0)
        parts = [
            {"name": "<nose>", "annotated": 40, "share": share + 0.1 * (row.seed - 1) * (row.name == "alone")},
            {"name": "tail", "annotated": 0, "share": None},
        ]
        table = {"title": "PCK & more", "note": "Of each.", "what": "joint", "parts": parts}
        write_json(tmp_path / row.details, {**details, "breakdown": table})
    png = base64.b64encode(b"x" * 30).decode()
    compared = [{"caption": "one", "panels": [{"title": "truth", "png": png}]}]
    write_json(tmp_path / "details" / "examples.json", {"heading": "Pairs & <others>.", "compared": compared})
    page = render(results, tmp_path)
    section = page.partition('id="breakdown"')[2].partition("</table>")[0]
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", section, re.DOTALL)
    heads = re.findall(r"<th scope=\"col\">(.*?)</th>", section)[1:]
    assert [name for name, _ in rows] == ["&lt;nose&gt;", "tail"]
    values = [re.findall(r"<td>(.*?)</td>", cells) for _, cells in rows]
    by_model = dict(zip(heads, values[0][1:], strict=True))
    assert values[0][0] == "40"
    assert {by_model[name] for name in by_model if "alone" in name.lower()} == {"25.0"}
    assert sorted(by_model.values())[:2] == ["100.0", "25.0"]
    assert set(values[1][1:]) == {"–"}
    assert "Pairs &amp; &lt;others&gt;." in page
    assert "differ most" not in page
    assert "PCK &amp; more</h2>" in page
    assert 'id="breakdown"' not in render(results, folder)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """A class, a model, a note or a recipe that runs a script in the reader's browser."""
    results = make(tmp_path, [HOSTILE, '"><img src=x onerror=alert(1)>', "$\\frac{$"], seeds=1)
    rows = [*results.rows, Row(f"distilled@{HOSTILE}", 0, "last", {"accuracy": 0.5}, details=HOSTILE)]
    recipe = {"name": HOSTILE, "about": "</pre>" + HOSTILE}
    html = render(Results(recipe, {HOSTILE: HOSTILE}, rows, results.claims, [HOSTILE]), tmp_path)
    page = Page(html)
    assert "script" not in page.tags
    assert "x" not in page.addresses
    assert page.text.count(HOSTILE) > 5


def test_pictures_must_be_base64(run: tuple[Path, Results], tmp_path: Path) -> None:
    """An address smuggled in where a picture belongs."""
    example = {"label": "a", "teacher": "a", "teacher_confidence": 1, "student": "b", "student_confidence": 1}
    write_json(tmp_path / "details" / "examples.json", {"lost": [{**example, "png": "x' onerror='y"}]})
    with pytest.raises(LimbeckError, match=r"examples\.json: not the details of a run \(lost\.0\.png"):
        render(run[1], tmp_path)


def test_missing_details_are_named_and_left_out(run: tuple[Path, Results], tmp_path: Path) -> None:
    """A report that cannot be written again once the details were deleted, or hides that they were."""
    text = Page(render(run[1], tmp_path)).text
    assert "details/teacher-0.json is not beside the results" in text
    assert "F1 by class" not in text
    assert "Learning" not in text
    assert "What accuracy costs" in text


@pytest.mark.parametrize(
    "details",
    [
        {"classes": ["a"], "confusion": [[1, 2], [3, 4]]},
        {"classes": ["a", "b"], "per_class": {"f1": [0.1], "support": [1]}},
        ["not a dictionary"],
    ],
)
def test_broken_details_are_named(tmp_path: Path, details: object) -> None:
    """A traceback from inside the plotting library."""
    write_json(tmp_path / "d.json", details)
    with pytest.raises(LimbeckError, match=r"d\.json: not the details of a run"):
        render(Results({}, {}, [Row("teacher", 0, "last", {}, details="d.json")]), tmp_path)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda rows: [],
        lambda rows: rows[:1],
        lambda rows: [row for row in rows if row.name == "distilled"],
        lambda rows: [Row(row.name, row.seed, row.checkpoint, {}) for row in rows],
        lambda rows: [Row(row.name, row.seed, "selected", row.metrics) for row in rows],
    ],
    ids=["no rows", "one row", "one model", "no metrics", "no size and no last checkpoint"],
)
def test_runs_that_lack_parts(run: tuple[Path, Results], reduce: Callable[[list[Row]], list[Row]]) -> None:
    """A crash where a run measured less than everything."""
    folder, results = run
    html = render(Results({}, {}, reduce(results.rows)), folder)
    assert "<h1>" in html
    assert verdict(Results({}, {}, reduce(results.rows)))[0] in Page(html).text.replace("\xa0", " ")


def test_many_classes_become_a_table(tmp_path: Path) -> None:
    """A confusion matrix of hundreds of unreadable cells."""
    text = Page(render(make(tmp_path, [f"class {i}" for i in range(25)]), tmp_path)).text
    assert "Distilled minus alone: the largest changes" in text
    assert "taken for" in text


def test_written_whole_and_the_same_each_time(run: tuple[Path, Results], tmp_path: Path) -> None:
    """Two reports of one run that differ, or a half-written page after a full disk."""
    folder, results = run
    write(results, folder, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(results, folder)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
