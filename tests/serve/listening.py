"""A server of this process, as the command starts it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.serve import Limits
from limbeck.serve.application import Application
from limbeck.serve.connections import server_of
from limbeck.serve.live import Live


@contextmanager
def listening(folder: Path, teacher: Path | None = None, **limits: Any) -> Iterator[str]:
    """Serves in a thread, and gives the address."""
    live = Live(folder, threads=1)
    other = None if teacher is None else Live(teacher, threads=1)
    server = server_of(Application(live, other, limits=Limits(**limits)))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
