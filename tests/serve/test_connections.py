"""What reaches the socket itself: bytes that are no HTTP, clients that say nothing, and those that go away."""

from __future__ import annotations

import http.client
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from tests.serve.listening import listening
from tests.serve.tiny import tiny

SECONDS = 0.3
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tiny(tmp_path_factory.mktemp("served") / "artifact", "text-classification")
    with listening(folder, seconds=SECONDS, body=5000) as address:
        yield int(address.rstrip("/").rpartition(":")[2])


def answered(port: int) -> None:
    """A good request is answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/predict", b"a fine film", {"content-type": "text/plain"})
        response = connection.getresponse()
        assert response.status == 200
        assert json.load(response)["answers"]


def told(port: int, sent: bytes, *more: bytes, wait: float = 20) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as client:
        found = b""
        for each in (sent, *more):
            client.sendall(each)
            if more and each is sent:
                found += client.recv(65536)
        try:
            while part := client.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found


def test_who_says_nothing_is_not_waited_for(port: int) -> None:
    """Connections that fill the server's table of files: silent, with half a head, silent or slow after an answer."""
    begun = time.monotonic()
    assert told(port, b"") == b""
    assert told(port, b"POST /pre") == b""
    assert told(port, HEAD) == b""
    first = HEAD + b"Content-Length: 1\r\n\r\na"
    assert told(port, first, b"POST /pre").startswith(b"HTTP/1.1 200")
    assert time.monotonic() - begun < 4 * SECONDS + 8
    assert b" 408 " in told(port, HEAD + b"Content-Length: 50\r\n\r\na")
    answered(port)


def test_bytes_that_are_no_http(port: int) -> None:
    """A server that ends, or keeps something of every broken connection."""
    draw = random.Random(0)
    good = HEAD + b"Content-Length: 11\r\nConnection: close\r\n\r\na fine film"
    for _ in range(80):
        sent = bytearray(good)
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(sent))
            sent[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        status = told(port, bytes(sent)).split(b"\r\n")[0]
        assert not status.startswith(b"HTTP/1.1 5"), (sent, status)
    for sent in (
        b"\x16\x03\x01" + bytes(200),
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\na",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"GET /predict HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ):
        found = told(port, sent)
        assert found == b"" or b" 4" in found.split(b"\r\n")[0], (sent[:80], found)
    answered(port)


def test_clients_that_go_away(port: int) -> None:
    """A place in the queue, or memory, that is kept for who has gone."""
    for length in (b"50", b"4000"):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(HEAD + b"Content-Length: " + length + b"\r\n\r\n" + b"a" * 50)
    answered(port)
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", "/healthz")
        assert json.load(connection.getresponse())["waiting"] == 0
