"""Models that read texts, exported: the same classes and answers as PyTorch, of strings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from tests.export.students import opened, trained
from tests.tasks.test_question_answering import questions
from tests.tasks.test_text_classification import written
from typer.testing import CliRunner

from limbeck.artifact import open_artifact
from limbeck.cli import app
from limbeck.export import export
from limbeck.export.graphs import write_graph
from limbeck.export.plans import of_signals
from limbeck.models import ModelSpec, TextShape, build, forward_of

BERT = {
    "pretrained": False,
    "config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
}


def expected_logits(model: torch.nn.Module, split: Any, count: int) -> torch.Tensor:
    with torch.inference_mode():
        return forward_of(model)(split.__getitems__(list(range(count))))["logits"]


@pytest.mark.parametrize(
    ("name", "options"),
    [("hf:bert", BERT), ("text-lstm", {"width": 8, "units": 8}), ("text-ngrams", {"width": 8, "buckets": 500})],
)
def test_classes_of_texts_are_pytorchs(tmp_path: Path, name: str, options: Any) -> None:
    """Padding that counts, a length that is frozen, special tokens that are forgotten."""
    source = written(tmp_path, "single-label")
    known = opened("text-classification", {"source": str(source), "max_length": 24, "vocabulary": 200})
    model = trained(tmp_path / "student", known, name, options, steps=40)
    card = export(tmp_path / "student", tmp_path / "artifact", samples=60)
    assert card.batch is None
    assert card.graphs["model"].inputs[0].shape == ("batch", "length")
    test = known.data.test
    texts = [test.text(index) for index in range(30)]
    shares = expected_logits(model, test, 30).softmax(-1)
    answers = open_artifact(tmp_path / "artifact", threads=1).predict(texts, batch_size=4)
    assert [each["class"] for each in answers] == [test.classes[at] for at in shares.argmax(-1).tolist()]
    assert [each["probability"] for each in answers] == pytest.approx(shares.amax(-1).tolist(), abs=1e-5)
    assert {each["class"] for each in answers} == {"good", "bad"}
    line = CliRunner().invoke(app, ["predict", str(tmp_path / "artifact"), texts[0]]).stdout
    assert line.startswith(f"{texts[0]}\t{answers[0]['class']}\t{answers[0]['probability']:.3f}")


@pytest.mark.parametrize("problem", ["multi-label", "regression"])
def test_several_labels_and_numbers_of_texts(tmp_path: Path, problem: str) -> None:
    """Probabilities by softmax where each class is by itself, a number that became a class."""
    settings = {"source": str(written(tmp_path, problem)), "max_length": 24, "vocabulary": 200, "problem": problem}
    known = opened("text-classification", settings)
    model = trained(tmp_path / "student", known, "text-static", {"width": 8}, steps=60, learning_rate=2e-2)
    export(tmp_path / "student", tmp_path / "artifact", samples=60)
    logits = expected_logits(model, known.data.test, 20)
    answers = open_artifact(tmp_path / "artifact").predict([known.data.test.text(index) for index in range(20)])
    if problem == "regression":
        assert [each["value"] for each in answers] == pytest.approx(logits.flatten().tolist(), abs=1e-4)
        assert logits.std() > 0.1
        return
    for answer, row in zip(answers, logits.sigmoid().tolist(), strict=True):
        assert list(answer["probabilities"].values()) == pytest.approx(row, abs=1e-5)
        names = zip(known.data.classes, row, strict=True)
        assert answer["classes"] == [name for name, share in names if share > 0.5]


def test_questions_are_answered_as_in_pytorch(tmp_path: Path) -> None:
    """Windows that share other tokens, an answer by its tokens instead of its characters, the first window's alone."""
    settings = {"source": str(questions(tmp_path)), "vocabulary": 200, "max_length": 20, "stride": 3, "validation": 0.2}
    known = opened("question-answering", settings)
    model = trained(tmp_path / "student", known, "hf:bert", BERT, steps=60)
    export(tmp_path / "student", tmp_path / "artifact")
    test = known.data.test
    expected = known.task.predict(model, test, label="test", settings=known.settings)
    assert len(test) > len(test.questions)
    asked = [{"question": each.text, "context": each.context} for each in test.questions]
    answers = open_artifact(tmp_path / "artifact", threads=1).predict(asked, batch_size=3)
    assert [each["answer"] for each in answers] == [expected.answers[each.id] for each in test.questions]
    assert len({each["answer"] for each in answers}) > 2
    for one, answer in zip(asked, answers, strict=True):
        assert one["context"][answer["start"] : answer["end"]] == answer["answer"]
    first = asked[0]
    line = CliRunner().invoke(
        app, ["predict", str(tmp_path / "artifact"), first["question"], "--context", first["context"]]
    )
    assert line.stdout == f"{first['question']}\t{answers[0]['answer']}\n"


def test_a_second_lstm_of_a_process_is_exported_for_any_length_too(tmp_path: Path) -> None:
    """torch remembers which kernel an LSTM had outside of an export, and made the example's length the only one."""
    shape = TextShape(2, 50, 16, 0, "classification")
    rows = {0: "batch", 1: "length"}
    for number in range(2):
        model = build(ModelSpec("text-lstm", {"width": 4, "units": 4}), shape).eval()
        part = of_signals(model, {"input_ids": rows}, ["logits"])
        path = tmp_path / f"{number}.onnx"
        write_graph(part, {"input_ids": torch.randint(1, 50, (2, 7))}, path, static=False)
        longer = torch.randint(1, 50, (3, 11))
        (found,) = onnxruntime.InferenceSession(path).run(None, {"input_ids": longer.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(longer).detach(), rtol=1e-4, atol=1e-5)
