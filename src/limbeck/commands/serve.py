"""The command that serves an artifact over HTTP, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.terminal import clear_errors, say


def serve(
    folder: Annotated[Path, typer.Argument(help="An artifact that `limbeck export` wrote.")],
    teacher: Annotated[
        Path | None,
        typer.Option("--teacher", help="Another artifact of the same task, whose answers are shown beside."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads of each model.  [default: all]")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Inputs that are run together, at most.")] = 32,
    wait_ms: Annotated[
        float, typer.Option("--wait-ms", min=0, max=1000, help="How long a request waits for others to be run with.")
    ] = 2.0,
    max_mb: Annotated[float, typer.Option("--max-mb", min=0.001, help="Megabytes of a request.")] = 16.0,
    max_megapixels: Annotated[
        float,
        typer.Option("--max-megapixels", min=0.001, max=89, help="Million pixels of a request's pictures."),
    ] = 50.0,
    max_inputs: Annotated[int, typer.Option("--max-inputs", min=1, help="Inputs of a request.")] = 32,
    max_characters: Annotated[int, typer.Option("--max-characters", min=1, help="Characters of a text.")] = 20_000,
    max_waiting: Annotated[
        int, typer.Option("--max-waiting", min=1, help="Inputs that may wait; others get 503 and come back later.")
    ] = 256,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds in which a request must arrive, and be answered.")
    ] = 30.0,
) -> None:
    """Serve an artifact over HTTP, with a page to try it on. Torch is not needed.

    limbeck serve runs/digits/student-onnx --teacher runs/digits/teacher-onnx

    curl --data-binary @3.png -H 'Content-Type: image/png' localhost:8000/predict

    curl -F picture=@3.png -F picture=@7.png localhost:8000/predict

    curl -H 'Content-Type: application/json' -d '{"inputs": ["a fine film"]}' localhost:8000/predict

    A new version is taken without a stop: export into FOLDER again, and later requests are answered by it. One that
    does not work is refused, and the old one goes on; /healthz says why, and every answer names its version.
    """
    with clear_errors():
        from limbeck.serve import Limits
        from limbeck.serve import serve as run

        limits = Limits(
            body=round(max_mb * 2**20),
            pixels=round(max_megapixels * 1e6),
            inputs=max_inputs,
            characters=max_characters,
            waiting=max_waiting,
            seconds=timeout,
        )
        run(
            folder, teacher, host=host, port=port, threads=threads, batch=batch, wait=wait_ms / 1000, limits=limits,
            say=say,
        )  # fmt: skip
