"""Text classification as a task: from a table of texts to results, report and artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from limbeck.errors import LimbeckError
from limbeck.models import load, read_card
from limbeck.objective import labelled
from limbeck.recipe import Recipe, read_recipe
from limbeck.results import Results
from limbeck.run import run
from limbeck.session import open_data, training_split
from limbeck.sources.texts import Tokenizing, load_texts
from limbeck.stores import compare_with_teacher, label_recipe

GOOD = ("great", "lovely", "superb", "moving", "funny")
BAD = ("awful", "dull", "lazy", "boring", "weak")
THINGS = ("film", "story", "cast", "music", "ending", "plot", "scene", "script")


def sentences(count: int) -> list[tuple[str, int, int]]:
    """Sentences, each with how many good words it has, and how many bad ones."""
    generator = torch.Generator().manual_seed(0)

    def drawn(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    found = []
    for number in range(count):
        good = drawn(4)
        words = [GOOD[drawn(5)] for _ in range(good)] + [BAD[drawn(5)] for _ in range(3 - good)]
        things = [THINGS[drawn(8)] for _ in words]
        found.append((" ".join(f"{a} {b}" for a, b in zip(words, things, strict=True)) + f" {number}", good, 3 - good))
    return found


def written(folder: Path, problem: str) -> Path:
    """A table of texts with a class each, several, or a number."""
    rows = ["sentence\tlabel"]
    for text, good, bad in sentences(360):
        labels = {
            "single-label": "good" if good > bad else "bad",
            "multi-label": "|".join(name for name, n in (("good", good), ("bad", bad)) if n),
            "regression": f"{good - bad}",
        }
        rows.append(f"{text}\t{labels[problem]}")
    path = folder / "texts.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def recipe(folder: Path, problem: str, **changes: object) -> Recipe:
    train = {"epochs": 4, "batch_size": 32, "learning_rate": 0.01, "evaluations": 2}
    data = {"source": str(written(folder, problem)), "vocabulary": 200, "max_length": 24, "problem": problem}
    plain = {
        "name": "tiny", "task": "text-classification", "data": data,
        "teacher": {"model": "text-lstm", "options": {"width": 16, "hidden": 16}, "train": {**train, "epochs": 12}},
        "student": {"model": "text-ngrams", "options": {"buckets": 50, "width": 8}},
        "train": train, "seeds": 2, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


def test_from_a_table_to_report_and_artifact(tmp_path: Path) -> None:
    """A task that trains, but whose rows, examples or saved student are those of pictures."""
    folder = tmp_path / "run"
    results = run(recipe(tmp_path, "single-label"), folder, say=lambda _line: None)
    assert {row.name for row in results.rows} == {"teacher", "alone", "distilled"}
    assert results.named("teacher", "last")[0].metrics["accuracy"] > 0.9
    for row in results.rows:
        assert {"accuracy", "macro_f1", "mcc", "nll"} <= row.metrics.keys()
        assert row.size["parameters"] > 0
        assert row.latency["p50"] > 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert 'class="given"' in page
    assert "limbeck" in page
    # What is saved reads texts as the training did, and says the same of them.
    student, tokenizing = load(folder / "student"), Tokenizing.read(folder / "student")
    data = load_texts(str(tmp_path / "texts.tsv"), tokenizing=tokenizing)
    batch = data.test.__getitems__(list(range(len(data.test))))
    said = student(batch["input_ids"], batch["attention_mask"]).argmax(1)
    accuracy = (said == batch["labels"]).double().mean().item()
    measured = [row.metrics["accuracy"] for row in results.named("distilled", "last")]
    assert any(accuracy == pytest.approx(each) for each in measured)
    assert read_card(folder / "student").task == "text-classification"


@pytest.mark.parametrize(("problem", "measure"), [("multi-label", "micro_f1"), ("regression", "pearson")])
def test_several_labels_and_numbers(tmp_path: Path, problem: str, measure: str) -> None:
    """Terms, metrics or a checkpoint's choice that are those of one class a text."""
    found = run(recipe(tmp_path, problem, seeds=1), tmp_path / "run", say=lambda _line: None)
    (teacher,) = found.named("teacher", "last")
    assert teacher.metrics[measure] > 0.8
    assert {row.checkpoint for row in found.rows if row.name == "alone"} == {"last", "selected"}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Where they differ most" in page


def test_terms_of_one_class_are_refused_where_there_are_several(tmp_path: Path) -> None:
    """Cross-entropy on several labels trains without an error, to nothing."""
    wanted = recipe(tmp_path, "multi-label", terms=[{"loss": "supervised"}, {"loss": "kd"}])
    with pytest.raises(LimbeckError, match=r"labels are multi-label.*supervised-bce"):
        run(wanted, tmp_path / "run", say=lambda _line: None)


def test_a_teacher_with_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    """A teacher that reads the student's token ids as its own is a random one."""
    first = tmp_path / "first"
    run(recipe(tmp_path, "single-label", seeds=1), first, say=lambda _line: None)
    saved = first / "teacher" / "last"
    own = recipe(tmp_path, "single-label", seeds=1, teacher={"model": str(saved)})
    other = own.model_copy(update={"data": own.data.model_copy(update={"tokenizer": "characters", "max_length": 96})})
    found = run(other, tmp_path / "second", say=lambda _line: None)
    accuracy = [Results.read(place / "results.json").named("teacher", "last")[0].metrics["accuracy"]
                for place in (first, tmp_path / "second")]  # fmt: skip
    assert accuracy[0] == pytest.approx(accuracy[1])
    assert found.named("distilled", "last")


def test_a_smaller_teacher_as_the_student(tmp_path: Path) -> None:
    """`from: teacher` that builds the teacher again, or drops the tokens that the data has most."""
    config = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
              "max_position_embeddings": 64}  # fmt: skip
    train = {"steps": 6, "batch_size": 16, "evaluations": 1}
    teacher = {"model": "hf:bert", "options": {"pretrained": False, "config": config}, "train": train}
    student = {"from": "teacher", "layers": 2, "vocabulary": 60}
    wanted = recipe(tmp_path, "single-label", seeds=1, teacher=teacher, student=student, train=train)
    assert wanted.resolved()["student"]["from"] == "teacher"
    found = run(wanted, tmp_path / "run", say=lambda _line: None)
    sizes = {row.name: row.size["parameters"] for row in found.rows}
    assert sizes["distilled"] < 0.6 * sizes["teacher"]
    module = load(tmp_path / "run" / "student")
    assert module.config.num_hidden_layers == 2


def test_a_small_student_starts_from_the_teachers_embeddings(tmp_path: Path) -> None:
    """`start` that is read and not used; embeddings of other tokens."""
    config = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32,
              "max_position_embeddings": 64}  # fmt: skip
    train = {"steps": 2, "batch_size": 16, "evaluations": 1, "learning_rate": 1e-9}
    teacher = {"model": "hf:bert", "options": {"pretrained": False, "config": config}, "train": train}
    student = {"model": "text-static", "options": {"width": 32}, "start": {"embeddings": "table"}}
    run(recipe(tmp_path, "single-label", seeds=1, teacher=teacher, student=student, train=train), tmp_path / "run",
        say=lambda _line: None)  # fmt: skip
    table = load(tmp_path / "run" / "teacher" / "last").get_input_embeddings().weight
    mine = load(tmp_path / "run" / "student").embedding.weight
    similar = torch.nn.functional.cosine_similarity(table @ table[7], mine @ mine[7], dim=0)
    assert similar > 0.99


def test_a_small_student_with_tokens_of_its_own_starts_from_what_the_teacher_makes_of_them(tmp_path: Path) -> None:
    """Embeddings of other tokens than the student's, as the two number them otherwise; padding or special tokens in
    the means."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "fine", "poor", "##ly", "well", "dull"]
    folder = tmp_path / "bert"
    vocabulary = WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="[UNK]")
    theirs = Tokenizer(vocabulary)
    theirs.normalizer, theirs.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    theirs.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=theirs, **names).save_pretrained(str(folder))
    config = BertConfig(vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=64, num_labels=2)  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder))
    teacher = {"model": f"hf:{folder}"}
    student = {"model": "text-static", "options": {"width": 32}, "start": {"embeddings": "encoded"}}
    train = {"steps": 1, "batch_size": 16, "evaluations": 1, "learning_rate": 1e-9}
    wanted = recipe(tmp_path, "single-label", seeds=1, teacher=teacher, student=student, train=train)
    wanted = wanted.model_copy(update={"data": wanted.data.model_copy(update={"tokenizer": "wordpiece"})})
    run(wanted, tmp_path / "run", say=lambda _line: None)
    own = Tokenizing.read(tmp_path / "run" / "student")
    mine = load(tmp_path / "run" / "student").embedding.weight
    with torch.no_grad():
        expected = []
        for text in own.token_texts():
            ids = PreTrainedTokenizerFast.from_pretrained(str(folder))(text, return_tensors="pt")["input_ids"]
            states = model.bert(ids).last_hidden_state[0]
            words = [row for row, token in zip(states, ids[0].tolist(), strict=True) if token not in (0, 1, 2, 3)]
            expected.append(torch.stack(words).mean(0) if words else states.mean(0))
    table = torch.stack(expected)
    assert torch.allclose(mine * (table.std() / mine.std()), table, atol=1e-2)


@pytest.mark.parametrize(
    ("student", "why"),
    [
        ({}, "needs a model, or `from: teacher`"),
        ({"model": "text-lstm", "from": "teacher"}, "not both"),
        ({"model": "text-lstm", "layers": 2}, "student.layers: is a size of a student `from: teacher`"),
    ],
)
def test_a_student_has_one_origin(tmp_path: Path, student: dict[str, object], why: str) -> None:
    """Sizes that are read and not used."""
    with pytest.raises(LimbeckError, match=why):
        recipe(tmp_path, "single-label", student=student)


def test_keys_of_pictures_are_refused(tmp_path: Path) -> None:
    """A normalisation of texts that does nothing."""
    with pytest.raises(LimbeckError, match=r"teacher\.0\.normalize: is not of the task text-classification"):
        recipe(tmp_path, "single-label", teacher={"model": "text-lstm", "normalize": "imagenet"})
    with pytest.raises(LimbeckError, match=r"data\.augment: unknown key"):
        recipe(tmp_path, "single-label", data={"source": "x.tsv", "augment": "crop"})


def test_from_stored_labels(tmp_path: Path) -> None:
    """Labels of texts that nobody finds again, or whose check asks for pixels."""
    place = tmp_path / "labels"
    teacher = {"model": "text-lstm", "options": {"width": 16, "hidden": 16}, "store": str(place),
               "train": {"steps": 20, "batch_size": 32, "learning_rate": 0.01}}  # fmt: skip
    wanted = recipe(tmp_path, "single-label", seeds=1, teacher=teacher)
    (store,) = label_recipe(wanted, tmp_path / "run", say=lambda _line: None)
    found = compare_with_teacher(wanted, tmp_path / "run", store)
    assert found
    assert all(each.ok for each in found), found
    stored = run(wanted, tmp_path / "run", say=lambda _line: None)
    live = wanted.model_copy(update={"teacher": [wanted.teacher[0].model_copy(update={"store": None})]})
    alive = run(live, tmp_path / "live", say=lambda _line: None)
    mine, theirs = (each.named("distilled", "last")[0].metrics["nll"] for each in (stored, alive))
    assert mine == pytest.approx(theirs, abs=5e-3)


@pytest.mark.parametrize("problem", ["multi-label", "regression"])
def test_some_labels_are_hidden(tmp_path: Path, problem: str) -> None:
    """Texts without a label that are counted as labelled, because their labels are no classes."""
    path = written(tmp_path, problem)
    rows = path.read_text(encoding="utf-8").splitlines()
    rows[1:] = [row if number % 2 else row.partition("\t")[0] + "\t" for number, row in enumerate(rows[1:])]
    text = "\n".join(rows) + "\n"
    (tmp_path / "splits").mkdir()
    path = tmp_path / "splits" / "train.tsv"
    path.write_text(text, encoding="utf-8")
    full = written(tmp_path, problem).read_text(encoding="utf-8").splitlines()
    for number, name in enumerate(("val", "test")):
        part = [full[0], *full[1 + 20 * number : 21 + 20 * number]]
        (tmp_path / "splits" / f"{name}.tsv").write_text("\n".join(part) + "\n", encoding="utf-8")
    settings = {"source": f"table:{tmp_path / 'splits'}", "vocabulary": 200, "problem": problem, "labelled": 0.5}
    wanted = recipe(tmp_path, problem, data=settings)
    data = open_data(wanted, lambda _line: None)
    split = training_split(wanted, data, 0)
    known = int(labelled(data.train.labels).sum())
    assert 0 < known < len(data.train)
    assert int(labelled(split.labels).sum()) == round(known / 2)
    assert bool((labelled(data.train.labels) | ~labelled(split.labels)).all())


def test_a_teacher_is_trained_on_tokens_of_its_own(tmp_path: Path) -> None:
    """A ready-made teacher that is trained further in the run, on the token ids of its student."""
    run(recipe(tmp_path, "single-label", seeds=1), tmp_path / "first", say=lambda _line: None)
    train = {"steps": 2, "batch_size": 16, "learning_rate": 1e-5}
    teacher = {"model": str(tmp_path / "first" / "teacher" / "last"), "train": train}
    wanted = recipe(tmp_path, "single-label", seeds=1, teacher=teacher, train=train)
    data = wanted.data.model_copy(update={"tokenizer": "characters", "max_length": 96})
    found = run(wanted.model_copy(update={"data": data}), tmp_path / "second", say=lambda _line: None)
    assert found.named("teacher", "last")[0].metrics["accuracy"] > 0.9
    own, theirs = (Tokenizing.read(tmp_path / "second" / each) for each in ("student", "teacher/last"))
    assert own.identity() != theirs.identity()
