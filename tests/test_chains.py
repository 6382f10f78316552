"""Chains of teachers: assistants, generations, students that start from a teacher's layers; and terms' schedules."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import limbeck
from limbeck import students
from limbeck.contest import compare_methods
from limbeck.distiller import Distiller
from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe, read_recipe
from limbeck.results import Results
from limbeck.run import run
from limbeck.session import Session
from limbeck.sources import ImageSet
from limbeck.teachers import Live, Teacher

TINY = (
    "settings={}",
    "train={steps: 3, batch_size: 64, evaluations: 1}",
    "teacher.train={steps: 3, batch_size: 64, evaluations: 1}",
)
CHAIN = (
    "assistants=[{model: dense-teacher}, {model: conv-student, train: {steps: 2}}]",
    "generations=3",
)


def recipe(*changes: str, seeds: int = 1) -> Recipe:
    return read_recipe("digits", [*TINY, f"seeds={seeds}", *changes])


def go(folder: Path, *changes: str, seeds: int = 1) -> Results:
    return run(recipe(*changes, seeds=seeds), folder, say=lambda _line: None)


def weights_of(module: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Lessons:
    """Who taught whom: each training's first weights, and its teacher's."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.students: dict[str, torch.Tensor] = {}
        self.teachers: dict[str, torch.Tensor | None] = {}
        train = Session.train

        def watched(
            session: Session, unit: str, distiller: Distiller, split: ImageSet, *rest: Any, **named: Any
        ) -> Any:
            teacher = distiller.teacher
            self.students[unit] = weights_of(distiller.student).clone()
            self.teachers[unit] = weights_of(next(iter(teacher.modules()))).clone() if teacher is not None else None
            return train(session, unit, distiller, split, *rest, **named)

        patch.setattr(Session, "train", watched)


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lessons]:
    """A finished run with two assistants and three generations over two seeds."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("chains") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        lessons = Lessons(patch)
        go(folder, *CHAIN, seeds=2)
    return folder, lessons


def kept(folder: Path, unit: str) -> torch.Tensor:
    """The weights of a finished training."""
    place = folder / ("teacher" if unit == "teacher" else f"models/{unit}")
    return weights_of(limbeck.load(place / "last"))


def test_each_is_taught_by_the_one_before(chained: tuple[Path, Lessons]) -> None:
    """A student that learns from the teacher past its assistant, or a generation from another seed's student."""
    folder, lessons = chained
    wanted = {"assistant-1-0": "teacher", "assistant-2-0": "assistant-1-0"}
    for seed in (0, 1):
        wanted |= {
            f"distilled-{seed}": "assistant-2-0",
            f"distilled-gen2-{seed}": f"distilled-{seed}",
            f"distilled-gen3-{seed}": f"distilled-gen2-{seed}",
        }
    for unit, mentor in wanted.items():
        taught = lessons.teachers[unit]
        assert taught is not None
        assert torch.equal(taught, kept(folder, mentor)), f"{unit} by {mentor}"
    assert lessons.teachers.keys() - wanted.keys() == {"teacher", "alone-0", "alone-1"}
    assert kept(folder, "assistant-1-0").numel() > kept(folder, "distilled-0").numel()


def test_generations_draw_their_own_weights(chained: tuple[Path, Lessons]) -> None:
    """A born-again student that starts where its teacher did; an alone that does not start where distilled did."""
    first = chained[1].students
    assert torch.equal(first["alone-0"], first["distilled-0"])
    drawn = [first[f"{name}-{seed}"] for name in ("distilled", "distilled-gen2", "distilled-gen3") for seed in (0, 1)]
    assert all(not torch.equal(a, b) for index, a in enumerate(drawn) for b in drawn[:index])


def test_chains_are_in_results_notes_and_report(chained: tuple[Path, Lessons]) -> None:
    """What an assistant or a generation cost, or gained, kept from the reader."""
    folder, _ = chained
    results = Results.read(folder / "results.json")
    counts = {name: len(results.named(name)) for name in dict.fromkeys(row.name for row in results.rows)}
    generations = ("alone", "distilled", "distilled-gen2", "distilled-gen3")
    assert counts == {"teacher": 1, "assistant-1": 1, "assistant-2": 1, **dict.fromkeys(generations, 2)}
    sizes = {row.name: row.size["parameters"] for row in results.rows}
    assert sizes["teacher"] > sizes["assistant-1"] > sizes["assistant-2"] == sizes["distilled"]
    pairs = {(claim.a, claim.b) for claim in results.claims}
    assert pairs == {
        ("distilled", "alone"), ("distilled-gen2", "alone"), ("distilled-gen2", "distilled"),
        ("distilled-gen3", "alone"), ("distilled-gen3", "distilled"),
    }  # fmt: skip
    notes = " ".join(results.notes)
    for words in (
        "assistant-1: dense-teacher learned from the teacher", "assistant-2: conv-student learned from assistant-1",
        "distilled-gen3: the students of distilled-gen2 teach", "s of training each",
    ):  # fmt: skip
        assert words in notes
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "distilled student of generation 3" in page
    assert "assistant-2" in page


def test_a_chain_goes_on(chained: tuple[Path, Lessons], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the last generation that costs the assistants; other assistants in the same folder."""
    folder = Path(shutil.copytree(chained[0], tmp_path / "digits"))
    shutil.rmtree(folder / "models" / "distilled-gen3-1")
    (folder / "results.json").unlink()
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    lessons = Lessons(monkeypatch)
    results = go(folder, *CHAIN, seeds=2)
    assert list(lessons.students) == ["distilled-gen3-1"]
    old = Results.read(chained[0] / "results.json")
    assert [row.metrics for row in results.rows] == [row.metrics for row in old.rows]
    with pytest.raises(LimbeckError, match=r"another recipe \(generations: 3 there, 2 now\)"):
        go(folder, CHAIN[0], "generations=2", seeds=2)
    with pytest.raises(LimbeckError, match=r"another recipe \(assistants"):
        go(folder, CHAIN[1], seeds=2)


def test_settings_have_their_own_assistants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The direct lesson cannot be compared with the chain, or takes the chain's assistant."""
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    lessons = Lessons(monkeypatch)
    changes = ("assistants=[{model: conv-student}]", "settings={direct: {assistants: []}, all: {data.labelled: all}}")
    results = go(tmp_path, *changes)
    names = dict.fromkeys(row.name for row in results.rows)
    assert {name for name in names if name.startswith("assistant")} == {"assistant-1", "assistant-1@all"}
    teacher = lessons.teachers["distilled@direct-0"]
    assert teacher is not None
    assert torch.equal(teacher, kept(tmp_path, "teacher"))


def test_a_comparison_has_one_assistant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method with an assistant of its own, so that nobody knows what was compared."""
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    lessons = Lessons(monkeypatch)
    chain = recipe("assistants=[{model: conv-student}]", "generations=2")
    results = compare_methods(chain, tmp_path, ("dist",), say=lambda _line: None)
    assert list(lessons.students) == ["teacher", "assistant-1-0", "alone-0", "kd-0", "dist-0"]
    for unit in ("kd-0", "dist-0"):
        taught = lessons.teachers[unit]
        assert taught is not None
        assert torch.equal(taught, kept(tmp_path, "assistant-1-0"))
    assert "one generation" in results.notes[0]


def test_mistakes_show_before_anything_is_trained(tmp_path: Path) -> None:
    """A typo in the assistant, found after the teacher's hours."""
    for wrong in (
        "assistants=[{model: conv-studnt}]",
        "assistants=[{model: conv-student, options: {droput: 0.1}}]",
        "terms=[{loss: feature-mse, student: layer2, teacher: layer9}]",
    ):
        with pytest.raises(LimbeckError, match="did you mean"):
            go(tmp_path / "run", wrong)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.yaml"]
    with pytest.raises(LimbeckError, match=r"assistants\.0\.modle: unknown key; did you mean 'model'"):
        recipe("assistants=[{modle: conv-student}]")
    with pytest.raises(LimbeckError, match="generations"):
        recipe("generations=0")


STARTED = ("teacher.model=resnet14", "student={model: resnet8, start: {layers: last}}", "data.augment=none")


def test_a_student_starts_from_its_teachers_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `start` that is read and does nothing, or that alone does not share."""
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    lessons = Lessons(monkeypatch)
    go(tmp_path, *STARTED)
    teacher = limbeck.load(tmp_path / "teacher" / "last")
    student = limbeck.load(tmp_path / "models" / "distilled-0" / "last")
    names = [name for name, _ in student.named_parameters()]
    sizes = [parameter.numel() for parameter in student.parameters()]
    first = dict(zip(names, lessons.students["distilled-0"].split(sizes), strict=True))
    wanted = dict(teacher.named_parameters())
    assert torch.equal(first["layer1.0.conv1.weight"], wanted["layer1.1.conv1.weight"].detach().flatten())
    assert torch.equal(first["fc.weight"], wanted["fc.weight"].detach().flatten())
    assert torch.equal(lessons.students["alone-0"], lessons.students["distilled-0"])


def test_starts_that_cannot_be(tmp_path: Path) -> None:
    """A student that is to start from layers that nobody has; a typo in where to start."""
    with pytest.raises(LimbeckError, match="copy_layers"):
        go(tmp_path / "run", "student.start={layers: [7]}", "teacher.model=resnet14", "student.model=resnet8")
    with pytest.raises(LimbeckError, match=r"start\.layer: unknown key; did you mean 'layers'"):
        recipe("student.start={layer: every}")
    ensemble = "teacher=[{model: resnet14, train: {steps: 1}}, {model: resnet14, train: {steps: 1}}]"
    with pytest.raises(LimbeckError, match="weights from one teacher that runs, and there are 2"):
        go(tmp_path / "run", ensemble, "student={model: resnet8, start: {}}")


def test_schedules_of_a_recipes_terms_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warm-up, an end or a final weight that a recipe names and a training ignores."""
    seen: dict[str, list[list[float]]] = {}
    name, train, forward = "", Session.train, Distiller.forward

    def named(session: Session, unit: str, *rest: Any, **options: Any) -> Any:
        nonlocal name
        name = unit
        return train(session, unit, *rest, **options)

    def watched(distiller: Distiller, *rest: Any) -> Any:
        if distiller.training:
            seen.setdefault(name, []).append(list(distiller.objective.weights))
        return forward(distiller, *rest)

    monkeypatch.setattr(Session, "train", named)
    monkeypatch.setattr(Distiller, "forward", watched)
    monkeypatch.setattr("limbeck.report.write", lambda _results, _folder, path: path.write_text("page"))
    terms = [
        "{loss: supervised, weight: 0.2, final: 0.6}", "{loss: kd, weight: 0.9, until: 0.5}",
        "{loss: dist, weight: 2, warmup: 0.2}",
    ]  # fmt: skip
    go(tmp_path, f"terms=[{', '.join(terms)}]", "train={steps: 8, batch_size: 64, evaluations: 1}")
    supervised, kd, dist = zip(*seen["distilled-0"], strict=True)
    half_cosine = [0.2 + 0.4 * 0.5 * (1 - torch.cos(torch.tensor(torch.pi * step / 8)).item()) for step in range(8)]
    assert supervised == pytest.approx(half_cosine)
    assert kd == (0.9,) * 4 + (0.0,) * 4
    assert dist == pytest.approx([2 * min(1.0, step / 20 / 0.2) for step in range(8)]), "an epoch has 20 batches"
    assert seen["alone-0"] == [[1.0]] * 8


def test_a_source_must_run(tmp_path: Path) -> None:
    """An error deep in a loader where a teacher has no layers to give."""

    class Silent(Teacher):
        def __call__(self, batch: Any) -> Any:
            raise AssertionError

        def require(self, names: Any) -> None:
            pass

    with pytest.raises(LimbeckError, match="there are 0; name one teacher"):
        students._only_module(Silent())
    module = nn.Linear(2, 2)
    assert students._only_module(Live(module)) is module
