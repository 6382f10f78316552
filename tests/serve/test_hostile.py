"""Whatever is sent, the server answers with a refusal that says why, and then answers a good request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from starlette.testclient import TestClient
from tests.serve.test_requests import as_json, asked, bomb, same, serving
from tests.serve.tiny import png, tiny

from limbeck.serve.fields import FIELDS
from limbeck.serve.fields import PICTURES as PARTS

TASKS = ("image-classification", "object-detection", "pose-estimation", "face-recognition")
KINDS = (
    "application/json", "multipart/form-data; boundary=b", "image/png", "text/plain",
    "application/json", "multipart/form-data; boundary=b", "multipart/form-data; boundary=b; charset=\x00", "image/png",
    "application/octet-stream", "text/plain; charset=utf-16", "multipart/form-data",
    "text/html", "", "application/json; charset=latin-1", "multipart/form-data; boundary=" + "b" * 3000,
    "application/x-www-form-urlencoded",
)  # fmt: skip
QUERIES = ("", "", "?box=1,2,3,4", "?box=nan", "?pair=a", "?context=a%ff", "?teacher=1", "?picture=/etc/passwd")
PICTURES = [png(1, (24, 30)), png(2, (24, 30), format="jpeg"), png(3, (9, 9), format="gif"),
            png(4, (24, 30), format="webp"), png(5, format="bmp"), bomb(5000, 5000), bomb(2**31 - 1, 1),
            png(6, (1, 4000))]  # fmt: skip
WORDS = "afine filmwhatboreis\u0301\u20ac\U0001f600"
BODIES = (b"", b"null", b"[" * 40_000, b'{"a":' * 9000, b"NaN", b'{"input": 1e999}', b"\0" * 60_000,
          b'{"inputs": [' + b",".join([b'"a"'] * 4000) + b"]}")  # fmt: skip
STRINGS = ("/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "C:\\secret.png", "\x00", "\ud800", "﷽" * 40, "")


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TestClient]]:
    root = tmp_path_factory.mktemp("hostile")
    contexts = {task: serving(tiny(root / task, task), body=50_000, pixels=100_000, characters=200) for task in FIELDS}
    opened = {task: each.__enter__() for task, each in contexts.items()}
    yield opened
    for each in contexts.values():
        each.__exit__(None, None, None)


@some.composite
def broken_pictures(draw: some.DrawFn) -> bytes:
    """Pictures that break off, have other bytes in them, or more behind them; some are whole."""
    data = bytearray(draw(some.sampled_from(PICTURES)))
    for _ in range(draw(some.integers(0, 4))):
        data[draw(some.integers(0, len(data) - 1))] = draw(some.integers(0, 255))
    end = draw(some.just(len(data)) | some.integers(0, len(data)))
    return bytes(data[:end]) + draw(some.binary(max_size=20))


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


numbers = some.one_of(
    some.floats(-20, 60), some.integers(), some.floats(), some.sampled_from([1e308, -1e308, 2**64, 10**400])
)
boxes = some.lists(numbers, min_size=3, max_size=5)
scalars = some.one_of(
    broken_pictures().map(text64), some.text(max_size=20), some.text(WORDS, max_size=250), some.sampled_from(STRINGS),
    boxes, numbers, some.none(), some.booleans(),
)  # fmt: skip
parts = ["picture", "other", "box", "text", "pair", "question", "context"]
values = some.recursive(
    scalars,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.sampled_from(parts), inner, max_size=4),
    max_leaves=8,
)


@some.composite
def items(draw: some.DrawFn, task: str) -> Any:
    """Inputs of the task, of which some parts are not what they should be."""
    fields = FIELDS[task]
    found = {}
    for key in (*fields.needed, *fields.more):
        good = (
            broken_pictures().map(text64) if key in PARTS else boxes if key == "box" else some.text(WORDS, max_size=250)
        )
        if draw(some.integers(0, 9)):
            found[key] = draw(good if draw(some.integers(0, 4)) else values)
    if not draw(some.integers(0, 9)):
        found[draw(some.sampled_from([*parts, "", "\ud800"]))] = draw(values)
    return found


@some.composite
def jsons(draw: some.DrawFn, task: str) -> bytes:
    """JSON, mostly of inputs of the task."""
    way = draw(some.integers(0, 9))
    value = draw(values) if way == 0 else {"inputs": draw(some.lists(items(task) | values, min_size=1, max_size=3))}
    if way == 1:
        value = draw(some.dictionaries(some.sampled_from(["inputs", "input", "\ud800"]), values, max_size=2))
    text = json.dumps(value, ensure_ascii=draw(some.booleans()))
    return text.encode("utf-8", "surrogatepass")


@some.composite
def forms(draw: some.DrawFn, task: str) -> bytes:
    """Forms, many with a mistake."""

    def mostly(good: bytes, *bad: bytes) -> bytes:
        return draw(some.sampled_from([good] * 12 + list(bad)))

    body = b""
    fields = FIELDS[task]
    for key in draw(some.lists(some.sampled_from([*fields.needed * 3, *fields.more, *parts[:3]]), max_size=3)):
        head = b'Content-Disposition: form-data; name="' + mostly(key.encode(), b"", b"\xff", b'"') + b'"'
        head += mostly(b"", b'; filename="/etc/passwd"', b'; filename="', b"; filename*=UTF-8''%ff")
        text = some.text(WORDS, max_size=250).map(str.encode)
        content = draw(broken_pictures() if key in PARTS else some.just(b"1,2,13,14") if key == "box" else text)
        if not draw(some.integers(0, 9)):
            content = draw(some.binary(max_size=30))
        body += mostly(b"--b\r\n", b"--b\n", b"b\r\n", b"") + head + mostly(b"\r\n\r\n", b"\n\n", b"\r\n", b"")
        body += content + mostly(b"\r\n", b"")
    return body + mostly(b"--b--\r\n", b"--b", b"")


@some.composite
def requests(draw: some.DrawFn) -> tuple[str, bytes, str, str]:
    """A task, a body, its Content-Type, which is mostly right, and a query."""
    task = draw(some.sampled_from(sorted(FIELDS)))
    raw = broken_pictures() if FIELDS[task].needed[0] == "picture" else some.text(WORDS, max_size=250).map(str.encode)
    ways = {
        "application/json": jsons(task), "multipart/form-data; boundary=b": forms(task), "image/png": broken_pictures(),
        "text/plain": some.text(max_size=250).map(lambda text: text.encode("utf-8", "replace")),
        ("image/png" if FIELDS[task].needed[0] == "picture" else "text/plain; charset=utf-16"): raw,
        "": some.binary(max_size=200) | some.sampled_from(BODIES),
    }  # fmt: skip
    kind = draw(some.sampled_from(sorted(ways)))
    body = draw(ways[kind])
    if not kind or not draw(some.integers(0, 7)):
        kind = draw(some.sampled_from(KINDS))
    return task, body, kind, draw(some.sampled_from(QUERIES))


def check(client: TestClient, body: bytes, kind: str, query: str) -> None:
    """It is answered, or refused in one way; what the server itself does wrong is raised here by the client."""
    response = client.post("/predict" + query, content=body, headers={"content-type": kind})
    found = response.json()
    if response.status_code == 200:
        assert set(found) == {"version", "answers"}
        assert found["answers"]
        return
    assert response.status_code in (400, 408, 413, 415, 422), (response.status_code, found)
    assert set(found) == {"error"}
    assert len(found["error"]) > 10
    assert str(Path.cwd()) not in found["error"]


@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
@given(sent=requests())
def test_whatever_is_sent_is_answered(clients: Any, sent: tuple[str, bytes, str, str]) -> None:
    """A status of 500, a server that stops, an answer that nobody can read."""
    task, body, kind, query = sent
    check(clients[task], body, kind, query)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(task=some.sampled_from(TASKS), data=broken_pictures())
def test_broken_pictures_are_refused(clients: Any, task: str, data: bytes) -> None:
    """An exception of a decoder that nobody thought of."""
    check(clients[task], data, "image/png", "")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(box=some.lists(numbers, min_size=4, max_size=4))
def test_boxes_of_any_numbers(clients: Any, box: list[Any]) -> None:
    """A box that asks for more memory than there is, or divides by nothing."""
    body = {"input": {"picture": text64(PICTURES[0]), "box": box}}
    check(clients["pose-estimation"], json.dumps(body).encode(), "application/json", "")


def test_afterwards_good_requests_are_answered(clients: Any) -> None:
    """A server that the tests above have left in a state in which it answers nobody, or another's question."""
    for task, client in clients.items():
        inputs = asked(task)
        for _ in range(2):
            found = client.post("/predict", json={"inputs": [as_json(each) for each in inputs]})
            assert found.status_code == 200, found.text
            alone = [client.post("/predict", json={"input": as_json(each)}).json()["answers"][0] for each in inputs]
            same(found.json()["answers"], alone)
        assert client.get("/healthz").json()["waiting"] == 0
