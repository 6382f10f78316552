"""The command as a process: without torch, under load while its artifact is replaced, and ended while it answers."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.artifact.test_artifact_files import BLOCKED, MISSING
from tests.serve.test_requests import same
from tests.serve.tiny import png, tiny
from typer.testing import CliRunner

from benchmarks.serving import measure, port_of
from limbeck.artifact import open_artifact
from limbeck.cli import app

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def started(*arguments: object, script: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server on a free port."""
    words = [str(each) for each in (*arguments, "--port", 0)]
    command = [sys.executable, "-c", script.format(missing=MISSING, arguments=["serve", *words])] if script else [
        sys.executable, "-m", "limbeck", "serve", *words]  # fmt: skip
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT) as process:
        try:
            yield process, port_of(process.stdout)
        finally:
            process.terminate()
            process.wait(60)


def post(port: int, body: bytes, kind: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("POST", "/predict", body, {"content-type": kind})
        response = connection.getresponse()
        return response.status, json.load(response)


def test_a_machine_without_torch_serves(tmp_path: Path) -> None:
    """One import too many, of a library that such a machine does not have."""
    for task, body, kind in (
        ("object-detection", png(1), "image/png"),
        ("text-classification", b"a fine film", "text/plain"),
    ):
        folder = tiny(tmp_path / task, task)
        given = body if kind == "image/png" else body.decode()
        expected = open_artifact(folder).predict([given])
        with started(folder, "--teacher", folder, script=BLOCKED) as (process, port):
            status, found = post(port, body, kind)
            assert status == 200
            same(found["answers"], expected)
            for path in ("/", "/healthz", "/metrics"):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                with contextlib.closing(connection):
                    connection.request("GET", path)
                    assert connection.getresponse().status == 200
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_asked_before_the_end_is_answered(tmp_path: Path, number: int) -> None:
    """A request that is cut off, a server that goes on for ever, an exit code that says it failed."""
    # Some seconds of writing.
    folder = tiny(tmp_path / "artifact", "language-modelling", max_new_tokens=5000, positions=9000, never=[0, 1, 10])
    with started(folder, "--threads", 1) as (process, port):
        found: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: found.append(post(port, b"a fine film", "text/plain")))
        begun = time.monotonic()
        asking.start()
        time.sleep(0.3)
        process.send_signal(number)
        assert asking.is_alive()
        asking.join(60)
        assert process.wait(60) == 0
        assert found
        status, answer = found[0]
        assert status == 200
        assert len(answer["answers"][0]["text"].split()) == 5000
        assert time.monotonic() - begun < 30
        with pytest.raises(OSError, match="refused"):
            post(port, b"a", "text/plain")


def test_a_new_version_under_load_fails_no_request(tmp_path: Path) -> None:
    """A request that is dropped, answered by half of each, or by another version than it names."""
    old, new = (tiny(tmp_path / f"v{seed}", "image-classification", seed) for seed in (0, 1))
    pictures = [png(seed) for seed in range(16)]
    figures, load = measure(old, new, pictures, seconds=5, count=8)
    assert not load.failed, load.failed[:3]
    assert not load.wrong, load.wrong[:3]
    assert figures["exit_code"] == 0
    assert len(load.answers) == 2
    assert min(load.answers.values()) > 20
    assert figures["new_version_after_s"] < 2.4


def test_the_load_notices_wrong_answers_and_failures(tmp_path: Path) -> None:
    """A measurement that finds nothing, whatever happens: answers of two artifacts taken for each other's."""
    from benchmarks import serving

    one, other = (open_artifact(tiny(tmp_path / f"v{seed}", "image-classification", seed)) for seed in (0, 1))
    right = one.predict([png(1)])
    assert serving.same(right, one.predict([png(1)]))
    assert not serving.same(right, other.predict([png(1)]))
    assert not serving.same(right, one.predict([png(2)]))
    assert not serving.same(right, [])


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    [line] = result.stderr.splitlines()
    assert line.startswith("limbeck: ")
    return line


def test_what_cannot_be_served_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, of a port that is taken, limits that contradict each other, or a library that is not there."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "let at least as many wait" in refused(folder, "--max-inputs", 9, "--max-waiting", 8)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "cannot listen there" in refused(folder, "--port", taken.getsockname()[1])
    assert "cannot listen there" in refused(folder, "--host", "no.such.host.invalid", "--port", 0)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'serve needs uvicorn, which is not here: pip install "limbeck[serve]"' in refused(folder)


def test_the_help_teaches() -> None:
    """A command that nobody can use without its page."""
    text = " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout.split())
    for part in ("curl -F picture=@3.png", "--teacher", "taken without a stop", "/healthz", "--max-megapixels"):
        assert part in text


def test_base64_of_a_large_body_is_read_beside_the_loop(tmp_path: Path) -> None:
    """A body of megabytes that is read in another way than a small one."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    picture = png(1, (700, 700))
    with started(folder) as (_process, port):
        body = json.dumps({"input": base64.b64encode(picture).decode()}).encode()
        assert len(body) > 1_000_000
        status, found = post(port, body, "application/json")
        assert status == 200
        same(found["answers"], open_artifact(folder).predict([picture]))
        status, found = post(port, b"a" * 17_000_000, "application/json")
        assert status == 413
        assert "16 MB" in found["error"]
