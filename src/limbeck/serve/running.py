"""A server from its start to its end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from limbeck.errors import LimbeckError
from limbeck.serve.limits import Limits

NEEDED = ("onnxruntime", "prometheus_client", "python_multipart", "starlette", "uvicorn")
"""Libraries that a server needs beside those of an artifact."""


def serve(
    folder: Path, teacher: Path | None = None, *, host: str = "127.0.0.1", port: int = 8000, threads: int | None = None,
    batch: int = 32, wait: float = 0.002, limits: Limits | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Serves an artifact until the process is told to end (SIGTERM, or Ctrl+C); what is asked by then is answered.

    Args:
        teacher: an artifact of the same task, whose answers are given beside.
        port: 0 takes a free one.
        threads: CPU threads of each model; None leaves it to ONNX Runtime.
        batch: inputs that are run together, at most.
        wait: seconds that a request waits for others to be run with.

    Raises:
        LimbeckError: a library is missing, an artifact cannot be served, or the address cannot be had.
    """
    for each in NEEDED:
        try:
            import_module(each)
        except ImportError:
            raise LimbeckError(f'serve needs {each}, which is not here: pip install "limbeck[serve]"') from None
    from limbeck.serve.application import Application
    from limbeck.serve.connections import server_of
    from limbeck.serve.live import Live

    limits = limits or Limits()
    live = Live(folder, threads=threads)
    other = None if teacher is None else Live(teacher, threads=threads, task=live.card.task)
    application = Application(live, other, limits=limits, batch=batch, wait=wait, say=say)
    listening = _listening(host, port)
    name = f"[{host}]" if ":" in host else host
    beside = "" if other is None else f", beside {other.current.name} of {teacher}"
    say(f"{live.card.task}, version {live.current.name} of {folder}{beside}")
    say(f"open    http://{name}:{listening.getsockname()[1]}/  (also /predict, /healthz, /metrics)\nend it  Ctrl+C")
    # uvicorn raises the signal again once it has ended well; nothing is left to do for it then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with listening:
        server_of(application).run(sockets=[listening])
    say("ended")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Of the protocol by its name: asyncio sends small packets at once on such sockets alone.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(2048)
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise LimbeckError(f"{host}:{port}: cannot listen there ({reason}); give another --host or --port") from None
    return listening
