"""`limbeck serve` at full load, with a new version in the middle.

    python -m benchmarks.serving [--seconds 60] [--clients 16] [--threads 1] [--json FILE]

Two students of the digits are exported. The server, a process of its own, serves a copy of the first; clients in this
process ask as fast as they are answered, one to three pictures at a time, as JSON, form or raw bytes. In the middle the
other artifact is put in the place of the first, as `limbeck export` does. Every answer is compared with what the
artifact of the version that it names gives to that picture, run here, alone; a request without an answer has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write
from limbeck.artifact import open_artifact
from limbeck.bench import processor
from limbeck.files import staged_folder

LARGEST = 1e-5
"""By how much a probability may differ in another batch."""
PICTURES = 64
Expected = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass
class Load:
    """What came of the requests."""

    seconds: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    swapped: float = 0.0
    first_new: float = 0.0

    def figures(self, length: float) -> dict[str, Any]:
        """As a table's row, milliseconds; the longest second around the swap apart."""
        ordered = sorted(self.seconds)

        def at(share: float) -> float:
            return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else math.nan

        return {
            "requests": len(ordered),
            "requests_a_second": round(len(ordered) / length, 1),
            "failed": len(self.failed),
            "wrong": len(self.wrong),
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": at(1.0),
            "answers_by_version": dict(self.answers),
            "new_version_after_s": round(self.first_new - self.swapped, 2),
        }


def version_of(folder: Path) -> str:
    """The version that answers of this artifact name."""
    return hashlib.sha256((folder / "artifact.json").read_bytes()).hexdigest()[:12]


def replace(folder: Path, other: Path) -> None:
    """Puts a copy of an artifact in the place of another, as `limbeck export` does."""
    with staged_folder(folder) as staging:
        shutil.copytree(other, staging, dirs_exist_ok=True)


def request_of(pictures: Sequence[bytes], places: Sequence[int], way: str) -> bytes:
    """A whole HTTP request for some pictures: as `json`, `form`, or `raw`, which takes one."""
    if way == "raw":
        kind, body = "image/png", pictures[places[0]]
    elif way == "json":
        encoded = [base64.b64encode(pictures[at]).decode() for at in places]
        kind, body = "application/json", json.dumps({"inputs": encoded}).encode()
    else:
        head = b'--limit\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\n'
        kind = "multipart/form-data; boundary=limit"
        body = b"".join(head + pictures[at] + b"\r\n" for at in places) + b"--limit--\r\n"
    lines = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def client(port: int, seed: int, until: float, pictures: Sequence[bytes], expected: Expected, load: Load) -> None:
    """Asks until a time, one request after another on one connection."""
    draw = random.Random(seed)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        way = draw.choice(("raw", "json", "form"))
        places = [draw.randrange(len(pictures)) for _ in range(1 if way == "raw" else draw.randint(1, 3))]
        started = time.monotonic()
        try:
            status, found = await ask(reader, writer, request_of(pictures, places, way))
        except (OSError, ValueError, EOFError) as error:
            load.failed.append(repr(error))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        load.seconds.append(time.monotonic() - started)
        if status != 200:
            load.failed.append(f"{status} {found}")
            continue
        load.answers[found["version"]] += 1
        if load.swapped and not load.first_new and found["version"] == list(expected)[1]:
            load.first_new = time.monotonic()
        known = expected.get(found["version"])
        if known is None or not same(found["answers"], [known[at] for at in places]):
            load.wrong.append(f"{found} of {places}")
    writer.close()
    await writer.wait_closed()


def same(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether classes are the same, and probabilities but for what another batch does to the last digits."""
    return len(found) == len(expected) and all(
        one["class"] == other["class"] and math.isclose(one["probability"], other["probability"], abs_tol=LARGEST)
        for one, other in zip(found, expected, strict=True)
    )


async def clients(
    port: int, folder: Path, other: Path, pictures: Sequence[bytes], expected: Expected, *, seconds: float, count: int
) -> Load:
    """The load of so many clients, with the other artifact in the folder from the middle on."""
    load, until = Load(), time.monotonic() + seconds
    running = [asyncio.create_task(client(port, at, until, pictures, expected, load)) for at in range(count)]
    await asyncio.sleep(seconds / 2)
    load.swapped = time.monotonic()
    await asyncio.to_thread(replace, folder, other)
    await asyncio.gather(*running)
    return load


def measure(
    old: Path, new: Path, pictures: Sequence[bytes], *, seconds: float, count: int, threads: int = 1
) -> tuple[dict[str, Any], Load]:
    """Figures of a server under load, which is started and ended."""
    expected = {
        version_of(each): [open_artifact(each, threads=1).predict([picture])[0] for picture in pictures]
        for each in (old, new)
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "artifact"
        shutil.copytree(old, folder)
        command = [sys.executable, "-m", "limbeck", "serve", str(folder), "--port", "0", "--threads", str(threads)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
            assert server.stdout is not None
            try:
                port = port_of(server.stdout)
                load = asyncio.run(clients(port, folder, new, pictures, expected, seconds=seconds, count=count))
            finally:
                server.send_signal(signal.SIGTERM)
                said = server.stdout.read()
                code = server.wait(60)
    return {**load.figures(seconds), "exit_code": code, "server_said": said.splitlines()}, load


def port_of(lines: Any) -> int:
    """The port that the server says it listens on."""
    for line in lines:
        if "http://" in line:
            return int(line.partition("http://")[2].partition("/")[0].rpartition(":")[2])
    raise RuntimeError("the server did not start")


def digits_artifacts(root: Path) -> tuple[Path, Path, list[bytes]]:
    """Two students that learned the digits, one for longer, exported; and pictures of the test split."""
    import torch
    from PIL import Image

    from limbeck.export import export
    from limbeck.models import ModelSpec, Shape, build, save
    from limbeck.sources import load

    torch.set_num_threads(1)
    data, folders = load("digits"), []
    for seed, steps in enumerate((40, 120)):
        torch.manual_seed(seed)
        spec = ModelSpec("conv-student", {})
        model = build(spec, Shape(10, 1, (8, 8)))
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for _ in range(steps):
            rows = data.train.__getitems__(torch.randint(len(data.train), (32,)).tolist())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows["inputs"]), rows["labels"]).backward()
            optimizer.step()
        saved = root / f"student{seed}"
        save(
            model.eval(), saved, spec=spec, classes=data.classes, preprocessing=data.preprocessing,
            data={"source": "digits"},
        )  # fmt: skip
        export(saved, root / f"artifact{seed}")
        folders.append(root / f"artifact{seed}")
    pictures = []
    for pixels in data.test.pixels(np.arange(PICTURES)):
        with io.BytesIO() as file:
            Image.fromarray(pixels[0].numpy()).save(file, "png")
            pictures.append(file.getvalue())
    return folders[0], folders[1], pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/serving.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        old, new, pictures = digits_artifacts(Path(place))
        found, load = measure(
            old, new, pictures, seconds=options.seconds, count=options.clients, threads=options.threads
        )
    for each in (*load.failed[:5], *load.wrong[:5]):
        print(each)
    for name, value in found.items():
        print(f"{name:24}{value}")
    write(options.json, {"machine": processor(), "clients": options.clients, "threads": options.threads, **found})
    if load.failed or load.wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
