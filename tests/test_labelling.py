"""Labelling: killed, shared between processes, asked for twice."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import LabelStore, label
from limbeck.errors import LimbeckError
from limbeck.sources import load
from limbeck.sources.views import Crop, Flip
from limbeck.store import DenseLogits, Features, HeadStates, TopKLogits

WORKER = Path(__file__).parent / "labelling_worker.py"


def digits_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def run(folder: Path, *options: str, processes: int = 1) -> subprocess.Popen[bytes]:
    launcher = (
        [] if processes == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    )
    command = [sys.executable, *launcher, str(WORKER), str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment())


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def done(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[:4000]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "store"
    done(run(folder, "--codec=sampled"))
    return folder


def test_killed_at_five_moments_gives_the_same_bytes(uninterrupted: Path, tmp_path: Path) -> None:
    """Half a shard taken for whole, a shard left out, draws that differ after a resume."""
    folder = tmp_path / "store"
    moments = random.Random(0)
    kills = 0
    for wanted in range(5):
        process = run(folder, "--codec=sampled", "--seconds=0.01")
        # A kill is at a random moment of the work, not of Python's start.
        deadline = time.monotonic() + 120
        while len(list(folder.glob("labels-*.json"))) <= wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(moments.random() * 0.15)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills == 5
    assert not (folder / "manifest.json").exists()
    done(run(folder, "--codec=sampled"))
    assert files(folder) == files(uninterrupted)


def test_two_processes_write_the_store_of_one(uninterrupted: Path, tmp_path: Path) -> None:
    """A store that depends on how many worked on it; processes that do not know of each other and all do it all."""
    done(run(tmp_path / "store", "--codec=sampled", processes=2))
    saw = [int(path.read_text()) for path in tmp_path.glob("store-saw-*")]
    total = LabelStore.open(uninterrupted).manifest.records
    first_batch = 8  # each looks at it to know the shapes
    assert len(saw) == 2
    assert sum(saw) == total + 2 * first_batch
    assert min(saw) > total / 3
    assert files(tmp_path / "store") == files(uninterrupted)


def test_a_finished_store_is_not_made_again(tmp_path: Path) -> None:
    """Hours of a teacher spent twice; or labels of another teacher over those of the first."""
    data, lines = load("digits").test, []
    label(digits_net(), data, tmp_path / "store", say=lines.append)
    assert len(lines) == 2
    before = files(tmp_path / "store")
    label(digits_net(), data, tmp_path / "store", say=lines.append)
    assert len(lines) == 2
    for changed, message in (
        ((digits_net(1), data), "weights: '[0-9a-f]+… there"),
        ((digits_net(), load("digits").train), "shards: .* there"),
        ((digits_net(), data.with_view(Crop(1), 0, count=2)), "views: None there"),
    ):
        with pytest.raises(LimbeckError, match=f"holds labels of another plan \\({message}"):
            label(*changed, tmp_path / "store")
    with pytest.raises(LimbeckError, match=r"signals\.logits\.codec: 'dense' there, 'top-k' now"):
        label(digits_net(), data, tmp_path / "store", signals={"logits": TopKLogits()})
    assert files(tmp_path / "store") == before


def test_the_size_is_said_before(tmp_path: Path) -> None:
    """A disk that is full in the morning."""
    lines: list[str] = []
    store = label(digits_net(), load("digits").train, tmp_path / "store", say=lines.append)
    said = float(lines[0].partition("about ")[2].partition(" MB")[0])
    assert said == pytest.approx(store.manifest.bytes / 1e6, abs=0.06)
    assert "a second" in lines[1]


def test_hooks_into_the_teacher(tmp_path: Path) -> None:
    """A feature of the teacher that is stored as something else."""
    net, data = digits_net(), load("digits").test
    store = label(net, data, tmp_path / "store", signals={"logits": DenseLogits(), "2": Features()}, batch_size=64)
    batch = data.__getitems__([5, 300, 7])
    rows = store.rows(batch["ids"])
    expected = net[2](net[1](net[0](batch["inputs"])))
    given = store.read("2", rows)
    assert isinstance(given, torch.Tensor)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_labelled(tmp_path: Path) -> None:
    """A store of one random view, or of half the answers, written for hours before anything is said."""
    data = load("digits").test
    with pytest.raises(LimbeckError, match=r"only some can be stored; say how many: with_view\(view, seed, count=4\)"):
        label(digits_net(), data.with_view(Flip(), 0), tmp_path / "store")
    with pytest.raises(LimbeckError, match="the teacher has no module 'body' to tap"):
        label(digits_net(), data, tmp_path / "store", signals={"body": Features()})
    with pytest.raises(LimbeckError, match="the codec 'top-k' keeps logits; keep a feature with the codec 'features'"):
        label(digits_net(), data, tmp_path / "store", signals={"2": TopKLogits()})
    with pytest.raises(LimbeckError, match="this teacher gives plain logits"):
        label(digits_net(), data, tmp_path / "store", signals={"logits": HeadStates()})
    assert not (tmp_path / "store").exists()
    label(digits_net(), data, tmp_path / "store")
    assert isinstance(LabelStore.open(tmp_path / "store"), LabelStore)
