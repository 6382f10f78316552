"""Processes that were launched together know of each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.processes import on_cpu, processes


def test_alone_there_is_one() -> None:
    state = processes()
    assert state.num_processes == 1
    assert state.is_main_process


def test_accelerate_can_be_told_to_use_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's word for the CPU that is not heard where there is a GPU."""
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    assert not on_cpu()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert on_cpu()


def test_two_processes_share_a_run(tmp_path: Path) -> None:
    """Two processes that each do the whole run, say everything twice and write over one another's files."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "limbeck", "run", "digits"]
    changes = ["train.epochs=1", "teacher.train.epochs=1", "settings={}", "seeds=1", f"--folder={tmp_path / 'run'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *launcher, *changes], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    assert done.stdout.count("data: digits") == 1
    assert done.stdout.count("distilled, seed 0: ") == 1
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows if row["checkpoint"] == "last"] == ["teacher", "alone", "distilled"]
