"""Detectors, exported: the same boxes as PyTorch, in pixels of the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.export.students import opened, trained
from tests.models.detection.scenes import FAMILIES, spec_of
from tests.tasks.test_object_detection import pictures

from limbeck.artifact import open_artifact
from limbeck.export import export
from limbeck.pictures import on_canvas
from limbeck.tasks.object_detection import Detected, predict

FILL = (124, 116, 104)
"""ImageNet's mean colour."""


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    root = pictures(tmp_path_factory.mktemp("squares") / "data", {"train": 32, "val": 8, "test": 12})
    return opened("object-detection", {"source": f"yolo:{root}", "size": [64, 96], "augment": "none"}), root


@pytest.mark.parametrize("family", ["fcos", "retinanet", "ssdlite"])
def test_dense_detectors_find_the_same(squares: tuple[Any, Path], tmp_path: Path, family: str) -> None:
    """Boxes of the canvas instead of the picture, overlapping ones that stay, a score of the class alone."""
    known, root = squares
    model = trained(tmp_path / "student", known, *FAMILIES[family], steps=60, learning_rate=1e-2)
    card = export(tmp_path / "student", tmp_path / "artifact")
    assert card.batch is None
    compared(model, known, root, tmp_path / "artifact")


@pytest.mark.parametrize(("family", "batch"), [("rt_detr", None), ("d_fine", 1)])
def test_detectors_of_sets_find_the_same(
    squares: tuple[Any, Path], tmp_path: Path, family: str, batch: int | None
) -> None:
    """Queries in another order, a batch that the exporter froze without saying so."""
    known, root = squares
    spec = spec_of(family, width=32, queries=20)
    model = trained(tmp_path / "student", known, spec.name, dict(spec.options), steps=120, learning_rate=1e-3)
    card = export(tmp_path / "student", tmp_path / "artifact")
    assert card.batch == batch
    assert card.parity is not None
    assert card.parity.agreement >= 0.999
    compared(model, known, root, tmp_path / "artifact")


def compared(model: Any, known: Any, root: Path, artifact: Path) -> None:
    """What the artifact finds in the files is what the task finds in the split."""
    test = known.data.test
    expected = predict(model, test, label="test")
    assert isinstance(expected, Detected)
    assert sum(map(len, expected.found)) >= 12
    places = {root / "images" / "test" / f"{number}.png": number for number in range(12)}
    answers = open_artifact(artifact, threads=1).predict(list(places), batch_size=5)
    # The split has the pictures in the order of its reader: by their pixels they are told apart.
    seen = [pixels.numpy().tobytes() for pixels in test.pixels(list(range(12)))]
    order = [seen.index(_as_seen(path, test).tobytes()) for path in places]
    for answer, place in zip(answers, order, strict=True):
        found, objects = expected.found[place], answer["objects"]
        assert [each["class"] for each in objects] == [known.data.classes[kind] for kind in found.classes.tolist()]
        assert [each["score"] for each in objects] == pytest.approx(found.scores.tolist(), abs=1e-5)
        for one, box in zip(objects, found.boxes.tolist(), strict=True):
            assert one["box"] == pytest.approx(box, abs=1e-3)


def _as_seen(path: Path, test: Any) -> Any:
    with Image.open(path) as image:
        return on_canvas(image, None, test.preprocessing.size, test.fit, FILL, str(path)).transpose(2, 0, 1)
