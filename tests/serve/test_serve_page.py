"""The page: whole by itself, readable by everybody, and it shows what the server answers."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.browser import Browser, chromium
from tests.serve.listening import listening
from tests.serve.tiny import encoded, png, tiny

from limbeck.artifact import open_artifact
from limbeck.serve.fields import FIELDS
from limbeck.serve.page import PARTS, page


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_asks_nobody_but_its_server() -> None:
    """A script or a font from elsewhere, a style that its own policy forbids, a page that no phone shows."""
    found = page()
    tags = Tags()
    tags.feed(found.html)
    assert not tags.open
    assert not re.search(r"https?:|//\w|@import|url\(", found.html.replace("/* ", ""))
    addresses = [value for _, values in tags.found for key, value in values.items() if key in ("src", "href", "action")]
    assert addresses == ["data:,"]
    assert ("html", {"lang": "en"}) in tags.found
    assert any(values.get("name") == "viewport" for _, values in tags.found)
    policy = found.headers["content-security-policy"]
    for tag, kind in (("script", "script-src"), ("style", "style-src")):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", found.html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", found.html)
    assert not any("style" in values or any(key.startswith("on") for key in values) for _, values in tags.found)


def test_the_script_is_valid_and_knows_every_task() -> None:
    """A mistake in its syntax; a task whose fields it does not know, or calls otherwise than the server."""
    node = shutil.which("node")
    script = (PARTS / "page.js").read_text(encoding="utf-8")
    for task, fields in FIELDS.items():
        [line] = re.findall(rf'^  "{task}": (\[.*\]),$', script, re.MULTILINE)
        assert re.findall(r'\["(\w+)", "', line) == [*fields.needed, *fields.more]
    if node is None:
        pytest.skip("no JavaScript engine here: node")
    done = subprocess.run([node, "--check", str(PARTS / "page.js")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as window:
        yield window


def opened(browser: Browser, address: str, width: int = 1200) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.call("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=size)
    browser.open(address)
    browser.wait("#versions", "version ")


def nothing_is_wrong(browser: Browser) -> None:
    """No error in the console, no scrolling to the side, every field with a label."""
    problems = [each for each in browser.call("POST", "/se/log", type="browser") if each["level"] == "SEVERE"]
    wanted = ("422", "ERR_CONNECTION_REFUSED")  # what these tests bring about
    assert not [each for each in problems if not any(part in each["message"] for part in wanted)], problems
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.run(
        "return [...document.querySelectorAll('input, textarea')].every((each) => each.labels.length === 1)"
    )


def test_a_dropped_picture_is_answered_beside_the_teacher(browser: Browser, tmp_path: Path) -> None:
    """Two answers in each other's place, bars of other lengths, a drop that opens the picture instead."""
    student = tiny(tmp_path / "student", "image-classification")
    teacher = tiny(tmp_path / "teacher", "image-classification", seed=1)
    (tmp_path / "a.png").write_bytes(png(3, (40, 60)))
    with listening(student, teacher) as address:
        opened(browser, address)
        assert browser.text("h1") == "Image classification"
        browser.write("#field-picture", str(tmp_path / "a.png"))
        browser.wait("#status", "answered in")
        for name, folder in (("student", student), ("teacher", teacher)):
            [answer] = open_artifact(folder).predict([tmp_path / "a.png"])
            shown = browser.text(f"section.{name} .bars").split("\n")
            assert shown[0] == answer["class"]
            assert shown[1] == f"{100 * answer['probability']:.1f} %"
            width = browser.run(f"return document.querySelector('.{name} .fill').style.width")
            assert float(width.rstrip("%")) == pytest.approx(100 * answer["probability"], abs=0.01)
        nothing_is_wrong(browser)
        browser.run(
            """const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "b.png", {type: "image/png"}));
            document.querySelector("#answers").replaceChildren();
            const drop = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
            document.querySelector(".drop").dispatchEvent(drop);""",
            base64.b64encode(png(4)).decode(),
        )
        assert browser.wait("section.student", open_artifact(student).predict([png(4)])[0]["class"])
        (tmp_path / "broken.png").write_bytes(png(3)[:60])
        browser.write("#field-picture", str(tmp_path / "broken.png"))
        browser.wait("#status.bad", "not a readable")
        nothing_is_wrong(browser)


@pytest.mark.parametrize("width", [360, 1200])
def test_boxes_and_joints_are_drawn_where_they_are(browser: Browser, tmp_path: Path, width: int) -> None:
    """A box in pixels of the screen, or of the picture as it lies in its file; a page that is wider than a phone."""
    picture = encoded(np.full((400, 800, 3), 200, np.uint8))
    (tmp_path / "grey.png").write_bytes(picture)
    pixel = "return [...document.querySelector('canvas').getContext('2d').getImageData(...arguments, 1, 1).data]"
    folder = tiny(tmp_path / "boxes", "object-detection")
    with listening(folder) as address:
        opened(browser, address, width)
        browser.write("#field-picture", str(tmp_path / "grey.png"))
        browser.wait("#status", "answered in")
        [found] = open_artifact(folder).predict([picture])[0]["objects"]
        left, top, right, bottom = found["box"]
        assert browser.run(pixel, round(left), round(top + bottom) // 2)[:3] == [0x0B, 0x62, 0xC4]
        assert browser.run(pixel, round(left + right) // 2, round(bottom) - 1)[:3] == [0x0B, 0x62, 0xC4]
        assert browser.run(pixel, 799, 399)[:3] == [200, 200, 200]
        assert found["class"] in browser.text("table")
        nothing_is_wrong(browser)
    folder = tiny(tmp_path / "joints", "pose-estimation")
    with listening(folder) as address:
        opened(browser, address, width)
        browser.write("#field-box", "100, 50, 300, 350")
        browser.write("#field-picture", str(tmp_path / "grey.png"))
        browser.wait("#status", "answered in")
        [answer] = open_artifact(folder).predict([{"picture": picture, "box": [100, 50, 300, 350]}])
        last = list(answer["joints"].values())[-1]  # drawn over the others
        drawn = browser.run(pixel, round(last["x"]), round(last["y"]))[:3]
        assert drawn == [0x0F, 0x7B, 0x4A]
        assert browser.run(pixel, 100, 200)[:3] == [0x0B, 0x62, 0xC4]
        nothing_is_wrong(browser)


def test_texts_are_asked_and_answers_marked(browser: Browser, tmp_path: Path) -> None:
    """An answer marked one letter off behind an emoji, a text that is a tag, a server that has gone."""
    folder = tiny(tmp_path / "qa", "question-answering")
    context = "\N{DOG} the film <b>is</b> fine \N{OWL} what a bore it is"
    with listening(folder) as address:
        opened(browser, address, 360)
        browser.click("#ask")
        browser.wait("#status.bad", "Give this first: Question")
        browser.run("document.querySelector('#field-context').value = arguments[0]", context)
        browser.write("#field-question", "what is good")
        browser.click("#ask")
        browser.wait("#status", "answered in")
        [answer] = open_artifact(folder).predict([{"question": "what is good", "context": context}])
        assert answer["answer"]
        assert browser.text("mark") == answer["answer"].strip()
        assert browser.text("section .big") == answer["answer"].strip()
        nothing_is_wrong(browser)
    browser.click("#ask")
    browser.wait("#status.bad", "Is it still running?")
    for task, field in (("text-classification", "text"), ("translation", "text"), ("language-modelling", "text")):
        folder = tiny(tmp_path / task, task)
        with listening(folder) as address:
            opened(browser, address)
            browser.write(f"#field-{field}", "a fine film")
            browser.click("#ask")
            browser.wait("#status", "answered in")
            [answer] = open_artifact(folder).predict(["a fine film"])
            assert answer.get("class", answer.get("text")) in browser.text("section.student")
            nothing_is_wrong(browser)


def test_two_faces_are_compared(browser: Browser, tmp_path: Path) -> None:
    """The second picture that is not sent."""
    folder = tiny(tmp_path / "faces", "face-recognition")
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    with listening(folder) as address:
        opened(browser, address)
        browser.write("#field-picture", str(tmp_path / "1.png"))
        browser.wait("#status", "answered in")
        browser.write("#field-other", str(tmp_path / "2.png"))
        [answer] = open_artifact(folder).predict([{"picture": png(1), "other": png(2)}])
        browser.wait("section", f"cosine {answer['cosine']:.4f}")
        nothing_is_wrong(browser)
