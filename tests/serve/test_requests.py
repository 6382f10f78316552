"""What clients send: every task by JSON, form and raw body, and what is refused, each with what to do."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.serve.tiny import encoded, png, tiny

from limbeck.artifact import open_artifact
from limbeck.serve import Limits
from limbeck.serve.application import Application
from limbeck.serve.fields import FIELDS
from limbeck.serve.live import Live


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@contextmanager
def serving(folder: Path, *, teacher: Path | None = None, **limits: Any) -> Iterator[TestClient]:
    live = Live(folder, threads=1)
    other = None if teacher is None else Live(teacher, threads=1)
    with TestClient(Application(live, other, limits=Limits(**limits)).asgi) as client:
        yield client


def refused(response: Any, status: int, *parts: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"error"}
    for part in parts:
        assert part in found["error"], found["error"]


def asked(task: str) -> list[Any]:
    """Two inputs as an artifact takes them, one with all that it may have."""
    return {
        "image-classification": [png(1), png(2, (11, 9))],
        "object-detection": [png(1), png(2, (11, 9), format="jpeg")],
        "pose-estimation": [png(1), {"picture": png(2, (20, 30)), "box": [2.0, 3.0, 15.0, 18.5]}],
        "face-recognition": [png(1), {"picture": png(2), "other": png(3)}],
        "text-classification": ["a fine film", {"text": "what a bore", "pair": "it is"}],
        "question-answering": [
            {"question": "what is good", "context": "the film is fine " * 9},
            {"question": "what", "context": "a bore"},
        ],
        "translation": ["a fine film", "what a bore it is"],
        "language-modelling": ["a fine film", "what"],
    }[task]


def as_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return text64(value)
    return {key: as_json(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize("task", sorted(FIELDS))
def test_every_task_answers_as_its_artifact(tmp_path: Path, task: str) -> None:
    """An input that is lost or exchanged on its way, a part that is not read, another answer than `predict` gives."""
    folder = tiny(tmp_path / "artifact", task)
    inputs = asked(task)
    expected = json.loads(json.dumps(open_artifact(folder, threads=1).predict(inputs)))
    assert expected[0] != expected[1]
    with serving(folder) as client:
        found = client.post("/predict", json={"inputs": [as_json(each) for each in inputs]}).json()
        assert set(found) == {"version", "answers"}, found
        assert found["version"] == client.get("/healthz").json()["version"]
        same(found["answers"], expected)
        for each, answer in zip(inputs, expected, strict=True):
            same(client.post("/predict", json={"input": as_json(each)}).json()["answers"], [answer])
            parts = each if isinstance(each, dict) else {FIELDS[task].needed[0]: each}
            files = [
                (key, ("a.png", value) if isinstance(value, bytes) else (None, form_text(value)))
                for key, value in parts.items()
            ]
            same(client.post("/predict", files=files).json()["answers"], [answer])
        first = inputs[0]
        if task == "question-answering":
            return
        kind = "image/png" if isinstance(first, bytes) else "text/plain; charset=utf-8"
        raw = client.post("/predict", content=first, headers={"content-type": kind})
        same(raw.json()["answers"], [expected[0]])


def form_text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def same(found: Any, expected: Any) -> None:
    """Equal but for what another batch does to the last digits."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-5)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, each in expected.items():
            same(found[key], each)
    else:
        assert found == expected


def test_a_form_has_several_pictures_each_with_its_box(tmp_path: Path) -> None:
    """Boxes that go to the wrong picture; one box for two pictures."""
    folder = tiny(tmp_path / "artifact", "pose-estimation")
    first, second = png(1, (20, 20)), png(2, (30, 40))
    inputs = [{"picture": first, "box": [1, 2, 9, 12]}, {"picture": second, "box": [5, 6, 30, 20]}]
    with serving(folder) as client:
        pictures = [("picture", ("1.png", first)), ("picture", ("2.png", second))]
        boxes = [("box", (None, "1,2,9,12")), ("box", (None, "5, 6, 30, 20"))]
        found = client.post("/predict", files=[*pictures, *boxes])
        same(found.json()["answers"], json.loads(json.dumps(open_artifact(folder).predict(inputs))))
        refused(client.post("/predict", files=[*pictures, boxes[0]]), 422, "1 of 'box' and 2 inputs")
        one = {"content-type": "image/png"}
        found = client.post("/predict?box=5,6,30,20", content=second, headers=one)
        same(found.json()["answers"][0]["box"], [5.0, 6.0, 30.0, 20.0])
        for box, message in (
            ("1,2,3", "expected left, top, right, bottom"),
            ("1,2,3,x", "expected left, top, right, bottom"),
            ("nan,2,3,4", "expected finite numbers"),
            ("0,0,inf,4", "expected finite numbers"),
            ("9,9,2,2", "less than a pixel"),
            ("0,0,1e300,9", "far outside"),
        ):
            refused(client.post(f"/predict?box={box}", content=second, headers=one), 422, message)
        for value in (True, {"left": 1}, [1, 2, 3, "9" * 5000], [1, 2, 3, 10**400], [True, 2, 3, 4], [[1], 2, 3, 4]):
            body = {"input": {"picture": text64(second), "box": value}}
            refused(client.post("/predict", json=body), 422, "box: ")


def test_the_teacher_answers_beside(tmp_path: Path) -> None:
    """The student's answer twice, or a teacher that nobody asked for and everybody waits for."""
    student = tiny(tmp_path / "student", "image-classification")
    teacher = tiny(tmp_path / "teacher", "image-classification", seed=1)
    picture = {"input": text64(png(5))}
    with serving(student, teacher=teacher) as client:
        both = client.post("/predict?teacher=1", json=picture).json()
        same(both["answers"], open_artifact(student).predict([png(5)]))
        same(both["teacher"]["answers"], open_artifact(teacher).predict([png(5)]))
        assert both["version"] != both["teacher"]["version"]
        assert "teacher" not in client.post("/predict", json=picture).json()
        assert client.get("/healthz").json()["teacher"]["version"] == both["teacher"]["version"]
    with serving(student) as client:
        refused(client.post("/predict?teacher=1", json=picture), 422, "start it with --teacher")
        refused(client.post("/predict?teacher=maybe", json=picture), 422, "expected 1 or 0")


def test_no_name_of_a_file_is_ever_read(tmp_path: Path) -> None:
    """A client that reads the server's disk: a path as a string, in a form's field, in the query, as base64."""
    folder = tiny(tmp_path / "artifact", "face-recognition")
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    path = str(secret)
    with serving(folder) as client:
        for value in (
            path,
            {"picture": path},
            {"picture": text64(png(1)), "other": path},
            "secretpng",
            "file://" + path,
        ):
            refused(client.post("/predict", json={"input": value}), 422, "input 0: ")
        refused(client.post("/predict", json={"input": text64(path.encode())}), 422, "not a readable picture")
        refused(client.post("/predict", files=[("picture", (None, path))]), 422, "not a readable picture")
        refused(client.post("/predict", files=[("picture", (path, b""))]), 422, "is empty")
        raw = {"content-type": "image/png"}
        refused(client.post("/predict", content=path, headers=raw), 422, "not a readable picture")
        answer = client.post(f"/predict?picture={path}&other={path}", content=png(1), headers=raw).json()["answers"]
        same(answer, open_artifact(folder).predict([png(1)]))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9999)) + chunk(b"IEND", b"")
    )


def test_pictures_that_are_larger_than_they_look_are_refused(tmp_path: Path) -> None:
    """Memory for gigabytes of pixels, or a line of pixels that is resized to a picture of gigabytes."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    raw = {"content-type": "image/png"}
    with serving(folder, pixels=10_000) as client:
        for width, height in ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (101, 100)):
            refused(client.post("/predict", content=bomb(width, height), headers=raw), 413, "0.01 million pixels")
        assert client.post("/predict", content=png(1, (100, 100)), headers=raw).status_code == 200
        refused(client.post("/predict", content=png(1, (1, 9000)), headers=raw), 422, "too long and narrow")
        half = text64(png(1, (60, 80)))
        assert client.post("/predict", json={"inputs": [half, half]}).status_code == 200
        refused(client.post("/predict", json={"inputs": [half] * 3}), 413, "input 2: ", "several requests")
    with serving(tiny(tmp_path / "faces", "face-recognition"), pixels=10_000) as client:
        half = text64(png(1, (60, 90)))
        refused(client.post("/predict", json={"input": {"picture": half, "other": half}}), 413, "input 0: other")
    heavy = png(1)[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))) + png(1)[33:]
    with serving(folder) as client:
        refused(client.post("/predict", content=heavy, headers=raw), 422, "not a readable picture")


@pytest.mark.parametrize("format", ["tiff", "ppm", "pdf", "ico", "eps"])
def test_formats_that_strangers_may_not_send(tmp_path: Path, format: str) -> None:
    """Readers that run other programs, or that hardly anybody looks after."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    with serving(folder) as client:
        data = png(1, (16, 16), format=format)
        refused(client.post("/predict", content=data, headers={"content-type": "image/x"}), 422, "PNG")


def test_a_picture_that_breaks_off_spoils_no_other_request(tmp_path: Path) -> None:
    """One broken input of a batch that fails them all, or is answered as if it were whole."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    whole = png(3, (40, 40))
    with serving(folder) as client:
        found = client.post("/predict", json={"inputs": [text64(whole), text64(whole[: len(whole) // 2])]})
        refused(found, 422, "input 1: ")
        assert client.post("/predict", json={"input": text64(whole)}).status_code == 200
    exif = Image.Exif()
    exif[0x0112] = 6
    with io.BytesIO() as file:
        Image.fromarray(np.zeros((20, 10), np.uint8)).save(file, "jpeg", exif=exif)
        turned = file.getvalue()
    with serving(tiny(tmp_path / "pose", "pose-estimation")) as client:
        found = client.post("/predict", content=turned, headers={"content-type": "image/jpeg"}).json()
        assert found["answers"][0]["box"] == [0.0, 0.0, 20.0, 10.0]


def test_limits_are_named_in_what_is_refused(tmp_path: Path) -> None:
    """A limit that is not kept, or that leaves its victim without a word of it."""
    folder = tiny(tmp_path / "artifact", "text-classification")
    with serving(folder, body=2000, inputs=3, characters=50, waiting=3) as client:
        post = client.post
        refused(post("/predict", json={"inputs": ["a"] * 4}), 422, "4 inputs, 3 are the most")
        refused(post("/predict", json={"inputs": []}), 422, "no input")
        refused(
            post("/predict", json={"input": "a" * 51}), 422, "has 51 characters, 50 are the most", "--max-characters"
        )
        refused(post("/predict", json={"input": {"text": "a", "pair": "a" * 51}}), 422, "pair: has 51 characters")
        refused(post("/predict", json={"input": "a" * 2001}), 413, "--max-mb")
        refused(
            post("/predict", content=iter([b"a" * 1500] * 2), headers={"content-type": "text/plain"}), 413, "may have"
        )
        assert post("/predict", json={"inputs": ["a" * 50] * 3}).status_code == 200
        refused(client.get("/predict"), 405, "POST inputs to it")
        refused(client.post("/healthz"), 405, "GET it")
        refused(client.get("/etc/passwd"), 404, "there are /")


def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    """A traceback instead of a sentence, of JSON that is none or is something else, or of another task."""
    folder = tiny(tmp_path / "artifact", "text-classification")
    with serving(folder) as client:

        def post(content: bytes | str, kind: str = "application/json", **more: str) -> Any:
            return client.post("/predict", content=content, headers={"content-type": kind, **more})

        for body, message in (
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b"[" * 200_000, "nested too deep"),
            (b"\xff\xfe", "not UTF-8"),
            (b'{"input": NaN}', "NaN is no JSON"),
            (b'{"input": ' + b"9" * 5000 + b"}", "not valid JSON"),
        ):
            refused(post(body), 400, message)
        for value, message in (
            ([], "expected {"),
            (None, "expected {"),
            ({"inputs": "a"}, "expected a list, got str"),
            ({"inputs": ["a"], "input": "a"}, "nothing beside it"),
            ({"inputs": [1]}, "input 0: expected an object with text, pair if you like, got int"),
            ({"inputs": ["a", None]}, "input 1: expected an object"),
            ({"input": {}}, "has no 'text'; this server is for text classification"),
            ({"input": {"text": None}}, "has no 'text'"),
            ({"input": {"text": 1}}, "text: expected a text, got int"),
            ({"input": {"text": "a", "oops": "b"}}, "unknown part 'oops'"),
            ({"input": "\ud800"}, "half of a surrogate pair"),
        ):
            refused(post(json.dumps(value)), 422, message)
        refused(post(b"\xff", "text/plain"), 422, "not UTF-8")
        refused(post(png(), "image/png"), 415, "does not read a picture")
        refused(post(b"a", "application/x-www-form-urlencoded"), 415, "is not read")
        refused(client.post("/predict", content=b"a"), 415, "is not read")
        refused(post(b"a", "application/json", **{"content-encoding": "gzip"}), 415, "compressed")
        refused(post(b"a", "multipart/form-data"), 400, "no boundary")
        refused(post(b"a", "multipart/form-data; boundary=b"), 400, "the form is not valid")
        cut = b'--b\r\nContent-Disposition: form-data; name="text"\r\n\r\na'
        refused(post(cut, "multipart/form-data; boundary=b"), 400, "the form breaks off")
        refused(post(b"--b--\r\n", "multipart/form-data; boundary=b"), 422, "no input")
        refused(post(b"--b\r\n\r\na\r\n--b--\r\n", "multipart/form-data; boundary=b"), 400, "without a name")
        assert post(json.dumps({"input": "a fine film"})).status_code == 200


def test_metrics_count_requests_and_batches(tmp_path: Path) -> None:
    """Numbers that stand still, or that Prometheus cannot read."""
    from prometheus_client.parser import text_string_to_metric_families

    folder = tiny(tmp_path / "artifact", "text-classification")
    with serving(folder) as client:
        for _ in range(3):
            client.post("/predict", json={"inputs": ["a", "fine"]})
        client.post("/predict", json={})
        response = client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain")
        values = {
            (each.name, *sorted(each.labels.items())): each.value
            for family in text_string_to_metric_families(response.text)
            for each in family.samples
        }
        assert values["limbeck_requests_total", ("status", "200")] == 3
        assert values["limbeck_requests_total", ("status", "422")] == 1
        assert values[("limbeck_request_seconds_count",)] == 4
        assert values["limbeck_batch_inputs_sum", ("model", "student")] == 6
        assert values["limbeck_batch_inputs_bucket", ("le", "2.0"), ("model", "student")] == 3
        version = client.get("/healthz").json()["version"]
        info = ("limbeck_model_info", ("model", "student"), ("task", "text-classification"), ("version", version))
        assert values[info] == 1
        assert values[("limbeck_waiting_inputs",)] == 0


def test_pictures_of_every_kind_that_is_read(tmp_path: Path) -> None:
    """Grey, palettes, transparency, 16 bit: refused although the artifact reads them, or another answer."""
    folder = tiny(tmp_path / "artifact", "image-classification")
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (12, 12, 3)).astype(np.uint8)
    made = [encoded(noise, kind) for kind in ("png", "jpeg", "gif", "bmp", "webp")]
    made += [encoded(noise[..., 0]), encoded(draw.integers(0, 65536, (9, 9)).astype(np.uint16))]
    made += [encoded(draw.integers(0, 256, (12, 12, 4)).astype(np.uint8))]
    with serving(folder) as client:
        found = client.post("/predict", json={"inputs": [text64(each) for each in made]}).json()
        same(found["answers"], open_artifact(folder).predict(made))
        wide = draw.integers(0, 2**31 - 1, (9, 9)).astype(np.int32)
        deep = client.post("/predict", content=encoded(wide, "tiff"), headers={"content-type": "image/tiff"})
        refused(deep, 422, "not a readable picture")
