"""`limbeck label`, and runs that learn from what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck.checks import LimbeckError
from limbeck.cli import app
from limbeck.recipe import read_recipe
from limbeck.run import run
from limbeck.store import LabelStore
from limbeck.stores import compare_with_teacher, inspect_store, label_recipe

RECIPE: dict[str, Any] = {
    "name": "stored",
    "data": {"source": "digits", "labelled": 200, "augment": [{"RandomCrop": {"size": 8, "padding": 1}}, "MixUp"]},
    "teacher": {"model": "dense-teacher", "train": {"epochs": 3}, "store": "labels"},
    "student": {"model": "dense-student"},
    "train": {"epochs": 2, "threads": 1},
    "label": {"views": 2},
    "seeds": 1,
}


def quiet(_line: str) -> None:
    pass


def recipe_at(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    content = {**RECIPE, "teacher": {**RECIPE["teacher"], "store": str(folder / "labels")}, **changes}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    return result.exit_code, " ".join((result.output + (result.stderr if result.stderr else "")).split())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a labelled recipe and its run folder `out`."""
    folder = tmp_path_factory.mktemp("stored")
    label_recipe(read_recipe(str(recipe_at(folder))), folder / "out", say=quiet)
    return folder


def test_the_store_of_a_recipe(place: Path) -> None:
    """A store that lacks a view, or the test split that the report reads."""
    store = LabelStore.open(place / "labels")
    train, test = 1294, 359
    assert store.manifest.records == 2 * train + test
    assert store.manifest.plan.teacher == "dense-teacher"
    assert store.manifest.plan.views is not None
    assert store.manifest.plan.views.mixing == "Mixup(alpha=1.0)"


def test_a_run_learns_from_it(place: Path) -> None:
    """A run that trains or runs the teacher although its answers are there, or is not reported as one that did not."""
    lines: list[str] = []
    results = run(read_recipe(str(recipe_at(place))), place / "out", say=lines.append)
    assert any("label store" in line and "2,947 stored answers" in line for line in lines)
    alone = {row.name: row.metrics["accuracy"] for row in results.rows}
    assert alone["distilled"] > alone["alone"]
    assert alone["teacher"] > 0.4
    only = recipe_at(place, teacher={"store": str(place / "labels")}, name="only")
    again = run(read_recipe(str(only)), place / "only", say=quiet)
    same = {row.name: row.metrics["accuracy"] for row in again.rows}
    assert same["distilled"] == alone["distilled"]
    assert not (place / "only" / "teacher").exists()


def test_other_data_or_augmentation_is_refused(place: Path) -> None:
    """A recipe that was changed after its labels were written."""
    for change, message in (
        ("data.augment=crop", "holds PerSample.* and Mixup.*, the recipe asks for Crop"),
        ("data.augment=none", "the recipe asks for samples as they are"),
        ("data.validation=0.3", "was written for pixels prepared with .* this data is prepared with"),
    ):
        with pytest.raises(LimbeckError, match=message):
            run(read_recipe(str(recipe_at(place)), [change]), place / "changed", say=quiet)


def test_another_teacher_in_the_run_folder(place: Path, tmp_path: Path) -> None:
    """A store whose teacher was trained again, with the new one behind it."""
    recipe = read_recipe(str(recipe_at(place)), ["teacher.train.epochs=1"])
    label_recipe(read_recipe(str(recipe_at(tmp_path)), ["teacher.train.epochs=1"]), tmp_path / "out", say=quiet)
    (tmp_path / "out" / "recipe.yaml").unlink()
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (tmp_path / "out" / "teacher").rename(run_folder / "teacher")
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.resolved()), encoding="utf-8")
    with pytest.raises(LimbeckError, match=r"is of 'dense-teacher' with weights \w+…, the teacher given has weights"):
        run(recipe, run_folder, say=quiet)


def test_without_a_store_the_teacher_is_live(tmp_path: Path) -> None:
    """An error, or silence, where the labels were not written yet."""
    lines: list[str] = []
    run(read_recipe(str(recipe_at(tmp_path))), tmp_path / "out", say=lines.append)
    assert any(line.startswith("no label store at") and "so the teacher runs live" in line for line in lines)
    with pytest.raises(LimbeckError, match="holds no label store"):
        run(read_recipe(str(recipe_at(tmp_path, teacher={"store": str(tmp_path / "no")}))), tmp_path / "x", say=quiet)
    with pytest.raises(LimbeckError, match="is only a label store"):
        label_recipe(read_recipe(str(recipe_at(tmp_path, teacher={"store": "no"}))), tmp_path / "y", say=quiet)


def test_the_command(tmp_path: Path) -> None:
    """A command that hides what it costs, or what is wrong."""
    path = recipe_at(tmp_path)
    code, said = call("label", path, "--folder", tmp_path / "out")
    assert code == 0, said
    assert "2,947 samples (views counted), about 0.2 MB" in said
    assert "samples at" in said
    code, said = call("label", "--inspect", tmp_path / "labels", path, "--folder", tmp_path / "out")
    # Options before arguments: the recipe is the first argument.
    assert code == 0, said
    for part in ("dense-teacher", "2,947", "bytes a record", "codec dense", "as they were written", "100.0 % of 256"):
        assert part in said, part
    shard = tmp_path / "labels" / "labels-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-5] ^= 4
    shard.write_bytes(content)
    code, said = call("label", "--inspect", tmp_path / "labels")
    assert code == 2
    assert "is corrupt (its SHA-256 is" in said  # the path itself is cut by the table
    code, said = call("run", path, "--folder", tmp_path / "out")
    assert code == 2
    assert "labels-00000.safetensors: is corrupt" in said
    code, said = call("label")
    assert code == 2
    assert "give a recipe to label with, or --inspect PATH" in said
    code, said = call("label", "--inspect", tmp_path)
    assert code == 2
    assert "holds no label store" in said


def test_a_comparison_finds_another_teacher(place: Path, tmp_path: Path) -> None:
    """An inspection that agrees with anything."""
    store = LabelStore.open(place / "labels")
    recipe = read_recipe(str(recipe_at(place)))
    good = compare_with_teacher(recipe, place / "out", store)
    assert all(finding.ok for finding in good)
    assert any("KL of live from stored" in finding.text for finding in good)
    other = read_recipe(str(recipe_at(place)), ["teacher.train.epochs=1"])
    with_other = tmp_path / "out"
    label_recipe(read_recipe(str(recipe_at(tmp_path)), ["teacher.train.epochs=1"]), with_other, say=quiet)
    bad = compare_with_teacher(other, with_other, store)
    assert [finding.ok for finding in bad] == [False]
    assert "other weights" in bad[0].text
    nobody = compare_with_teacher(other, tmp_path / "nothing", store)
    assert "not looked at" in nobody[0].text
    assert [finding.topic for finding in inspect_store(store)][:3] == ["teacher", "records", "pixels"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("label.signals={logits: {codec: topk}}", "label.signals.logits: unknown codec 'topk'; did you mean 'top-k'"),
        ("label.view=2", "label.view: unknown key; did you mean 'views'"),
        ("label.views=0", "label.views: input should be greater than or equal to 1"),
        ("data.augment=[{MixUp: {alpha: 0}}]", "alpha"),
        ("data.augment=[{MixUp: {beta: 1}}]", "data.augment: MixUp: "),
        ("data.augment=[MixUp, {RandomCrop: {size: 8}}]", "data.augment: MixUp and CutMix mix finished views; put one"),
        ("train.shortcuts=[fold]", "train.shortcuts"),
        ("teacher={train: {epochs: 1}}", "teacher: needs a model, a store, or both"),
    ],
)
def test_mistakes_in_a_recipe(tmp_path: Path, change: str, message: str) -> None:
    """A recipe that labels something else than it says."""
    with pytest.raises(LimbeckError) as caught:
        read_recipe(str(recipe_at(tmp_path)), [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_results_name_the_store(place: Path) -> None:
    """A report that does not say where its teacher's answers came from."""
    run(read_recipe(str(recipe_at(place))), place / "named", say=quiet)
    written = json.loads((place / "named" / "results.json").read_text(encoding="utf-8"))
    assert written["recipe"]["teacher"][0]["store"] == str(place / "labels")
