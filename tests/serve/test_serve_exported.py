"""Students as `limbeck export` writes them, asked by many at a time: the same answers as alone."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient
from tests.export.students import opened, trained
from tests.serve.test_requests import same
from tests.tasks.test_text_classification import written

from limbeck.artifact import open_artifact
from limbeck.export import export
from limbeck.serve.application import Application
from limbeck.serve.live import Live

BERT = {
    "pretrained": False,
    "config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
}


def together(folder: Path, inputs: list[Any], kind: str) -> None:
    """Compares what is answered to many at a time with the artifact's own answers, one by one."""
    artifact = open_artifact(folder, threads=1)
    expected = [artifact.predict([each])[0] for each in inputs]
    assert len({each["class"] for each in expected}) > 1
    with TestClient(Application(Live(folder, threads=1), wait=0.01).asgi) as client, ThreadPoolExecutor(12) as threads:

        def ask(given: Any) -> Any:
            return client.post("/predict", content=given, headers={"content-type": kind}).json()

        for found, answer in zip(threads.map(ask, inputs), expected, strict=True):
            same(found["answers"], [answer])
        text = client.get("/metrics").text
    batches = float(text.partition('limbeck_batch_inputs_count{model="student"} ')[2].split()[0])
    assert batches < len(inputs)


def test_pictures_of_many(tmp_path: Path) -> None:
    """Answers that are exchanged within a batch."""
    digits = opened("image-classification", {"source": "digits"})
    trained(tmp_path / "student", digits, "conv-student", steps=40)
    export(tmp_path / "student", tmp_path / "artifact", samples=60)
    pictures = []
    for pixels in digits.data.test.pixels(np.arange(80)):
        with io.BytesIO() as file:
            Image.fromarray(pixels[0].numpy()).save(file, "png")
            pictures.append(file.getvalue())
    together(tmp_path / "artifact", pictures, "image/png")


def test_texts_of_many(tmp_path: Path) -> None:
    """What fills a row in a batch of longer texts, and changes the answer."""
    source = written(tmp_path, "single-label")
    known = opened("text-classification", {"source": str(source), "max_length": 24, "vocabulary": 200})
    trained(tmp_path / "student", known, "hf:bert", BERT, steps=40)
    export(tmp_path / "student", tmp_path / "artifact", samples=60)
    texts = [known.data.test.text(index) for index in range(40)]
    texts = [text if at % 2 else f"{text} {text} {text}" for at, text in enumerate(texts)]
    together(tmp_path / "artifact", texts, "text/plain")
