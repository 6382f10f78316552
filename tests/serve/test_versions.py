"""New versions: taken whole, refused with a reason, and never in the middle of an answer."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from starlette.testclient import TestClient
from tests.serve.tiny import tiny

from limbeck.artifact import ARTIFACT, read_artifact_card, write_artifact_card
from limbeck.artifact.card import checksum
from limbeck.errors import LimbeckError
from limbeck.files import staged_folder
from limbeck.serve.application import Application
from limbeck.serve.live import Live

TASK = "text-classification"


def replace(folder: Path, other: Path) -> None:
    """As `limbeck export` does."""
    with staged_folder(folder) as staging:
        shutil.copytree(other, staging, dirs_exist_ok=True)


def looks(live: Live) -> list[str | None]:
    """Of a folder that changed: one that waits until it is quiet, one that judges it, one that has nothing to do."""
    return [live.look() for _ in range(3)]


def answer(live: Live) -> Any:
    return live.current.artifact.predict(["a fine film"])[0]["probability"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny(tmp_path / "served", TASK)


def test_a_new_version_is_taken_once_its_folder_is_quiet(folder: Path, tmp_path: Path) -> None:
    """A folder that is read while it is written, a version that keeps its predecessor's name or answers."""
    live = Live(folder, threads=1)
    assert looks(live) == [None] * 3
    first, old = live.current.name, answer(live)
    held = live.current
    replace(folder, tiny(tmp_path / "next", TASK, seed=1))
    waits, taken, done = looks(live)
    assert (waits, done) == (None, None)
    assert taken is not None
    assert taken.endswith(f"version {live.current.name} answers in the place of {first}")
    assert live.current.name != first
    assert answer(live) != old
    assert held.artifact.predict(["a fine film"])[0]["probability"] == old
    assert live.changes == {"taken": 1, "refused": 0}


def test_a_link_that_is_turned_is_a_new_version(tmp_path: Path) -> None:
    """A link that is followed once and for all, or again for each file, while it is turned."""
    for seed in (0, 1):
        tiny(tmp_path / f"v{seed}", TASK, seed=seed)
    link = tmp_path / "current"
    link.symlink_to(tmp_path / "v0")
    live = Live(link, threads=1)
    first = live.current.name
    (tmp_path / "new").symlink_to(tmp_path / "v1")
    os.replace(tmp_path / "new", link)
    assert live.current.artifact.folder == tmp_path / "v0"
    looks(live)
    assert live.current.artifact.folder == tmp_path / "v1"
    assert live.current.name != first
    assert live.rejected is None


def without_numbers(folder: Path) -> None:
    """A model whose answers are not finite."""
    path = folder / "model.onnx"
    model = onnx.load(path)
    for index, each in enumerate(model.graph.initializer):
        if each.name == "table":
            filled = numpy_helper.to_array(each) * np.float32(np.nan)
            model.graph.initializer[index].CopyFrom(numpy_helper.from_array(filled, "table"))
    onnx.save(model, path)
    card = json.loads((folder / ARTIFACT).read_text())
    (folder / ARTIFACT).write_text(json.dumps(card | {"sha256": card["sha256"] | {"model.onnx": checksum(path)}}))


def broken(tmp_path: Path, way: str) -> Path:
    """A version that does not work."""
    if way == "of another task":
        return tiny(tmp_path / "broken", "translation")
    found = tiny(tmp_path / "broken", TASK, seed=2)
    if way == "cut off":
        (found / "model.onnx").write_bytes((found / "model.onnx").read_bytes()[:-30])
    elif way == "without a model":
        (found / "model.onnx").unlink()
    elif way == "without a card":
        (found / ARTIFACT).unlink()
    elif way == "with half a card":
        (found / ARTIFACT).write_text((found / ARTIFACT).read_text()[:50])
    elif way == "not finite":
        without_numbers(found)
    elif way == "without classes":
        card = read_artifact_card(found)
        write_artifact_card(found, type(card)(**{**{k: getattr(card, k) for k in card.__slots__}, "classes": ()}))
    return found


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("cut off", "is not the file that was exported"),
        ("without a model", "missing"),
        ("without a card", "no artifact.json"),
        ("with half a card", "not valid JSON"),
        ("of another task", "is for translation, expected text-classification"),
        ("not finite", "not finite numbers"),
        ("without classes", ""),
    ],
)
def test_a_version_that_does_not_work_is_refused(folder: Path, tmp_path: Path, way: str, message: str) -> None:
    """A server that takes it, ends, tells its paths to strangers, or never looks again."""
    live = Live(folder, threads=1)
    first, old = live.current.name, answer(live)
    replace(folder, broken(tmp_path, way))
    _, refused, after = looks(live)
    assert refused is not None
    assert f"is refused, {first} goes on: " in refused
    assert message in refused
    assert after is None
    assert (live.current.name, answer(live)) == (first, old)
    assert live.rejected is not None
    assert str(tmp_path) not in live.rejected.error
    assert live.changes == {"taken": 0, "refused": 1}
    with TestClient(Application(live, look_seconds=9).asgi) as client:
        said = client.get("/healthz").json()
        assert said["status"] == "ok"
        assert said["version"] == first
        assert said["refused"]["error"] == live.rejected.error
        assert client.post("/predict", json={"input": "a fine film"}).json()["version"] == first
        assert 'limbeck_versions{model="student",result="refused"} 1.0' in client.get("/metrics").text
    replace(folder, tiny(tmp_path / "good", TASK, seed=3))
    looks(live)
    assert live.current.name != first
    assert live.rejected is None


def test_a_copy_that_took_its_time_is_taken_in_the_end(folder: Path, tmp_path: Path) -> None:
    """A card that came before its model, and is never looked at again because it is the same card."""
    live = Live(folder, threads=1)
    first = live.current.name
    other = tiny(tmp_path / "next", TASK, seed=1)
    shutil.copy(other / ARTIFACT, folder / ARTIFACT)
    assert "is not the file that was exported" in str(looks(live)[1])
    shutil.copy(other / "model.onnx", folder / "model.onnx")
    looks(live)
    assert live.current.name != first
    assert live.rejected is None


def test_the_old_version_put_back_is_no_news(folder: Path, tmp_path: Path) -> None:
    """A refusal that is shown for ever."""
    live = Live(folder, threads=1)
    shutil.copytree(folder, tmp_path / "kept")
    shutil.rmtree(folder)
    assert "no such folder" in str(looks(live)[1])
    replace(folder, tmp_path / "kept")
    assert looks(live) == [None] * 3
    assert live.rejected is None
    assert live.changes["taken"] == 0


def test_what_cannot_be_served_is_refused_at_the_start(folder: Path, tmp_path: Path) -> None:
    """A teacher of another task, whose answers nobody could set beside."""
    with pytest.raises(LimbeckError, match=r"is for translation, expected text-classification"):
        Live(tiny(tmp_path / "other", "translation"), task=TASK)
    with pytest.raises(LimbeckError, match="no such folder"):
        Live(tmp_path / "nowhere")
