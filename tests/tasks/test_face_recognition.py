"""Face recognition as a task: from folders of persons to results, report, label store and artifact."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tests.sources.test_faces import write

from limbeck.doctor import examine
from limbeck.errors import LimbeckError
from limbeck.losses import ArcFace, ClassCentres, EmbeddingCosine
from limbeck.metrics.gallery import FILE, Alignment, fit_alignment
from limbeck.models import ModelSpec, build, load, read_card
from limbeck.recipe import Recipe, read_recipe
from limbeck.results import Results
from limbeck.run import run
from limbeck.sources.faces import load_faces
from limbeck.store import LabelStore
from limbeck.stores import label_recipe
from limbeck.students import distiller_of
from limbeck.tasks import FACE_RECOGNITION, Opening
from limbeck.tasks.face_pairs import flipped
from limbeck.tasks.face_recognition import FaceSettings
from limbeck.tasks.recognised import Recognised, predict
from limbeck.teachers import Live, Onnx, Stored
from limbeck.terms import Term

TRAIN = {"steps": 12, "batch_size": 16, "learning_rate": 0.003, "evaluations": 1, "threads": 1}
SCALED = {"scale": 16, "margin": 10}


def quiet(_line: str) -> None:
    pass


def recipe(folder: Path, faces: Path, **changes: Any) -> Recipe:
    teacher = {
        "model": "embedding:iresnet10", "options": {"widths": [4, 4, 8, 8], "width": 12}, "train": TRAIN,
        "terms": [{"loss": "cosface", "scale": 16, "margin": 0.1}],
    }  # fmt: skip
    given = {"labelled": 0.5, "augment": "crop-flip", "validation": 0.3, **changes.pop("data", {})}
    plain = {
        "name": "tiny-faces", "task": "face-recognition", "teacher": {**teacher, **changes.pop("teacher", {})},
        "data": {"source": f"folder:{faces}", **given},
        "student": {"model": "embedding:conv-student", "options": {"width": 8}},
        "terms": [{"loss": "arcface", **SCALED}, {"loss": "embedding-cosine", "weight": 5}, {"loss": "rkd"},
                  {"loss": "class-centres", **SCALED}],
        "label": {"signals": {"embedding": {"codec": "features", "bits": 8}}, "views": 2},
        "train": TRAIN, "seeds": 1, **changes,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return read_recipe(str(path))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of made persons."""
    return write(tmp_path_factory.mktemp("faces"), persons=18, each=3)


@pytest.fixture(scope="module")
def finished(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    run(recipe(folder, faces), folder / "out", say=quiet)
    return folder / "out"


def test_from_folders_to_report_and_artifact(finished: Path) -> None:
    """Numbers that are missing, a report without curves or pairs, an artifact that is no embedding model."""
    results = Results.read(finished / "results.json")
    measured = {"accuracy", "auc", "eer", "tar_far2", "tar_far3", "rank1"}
    for row in results.rows:
        assert measured <= row.metrics.keys()
        assert all(-1 <= value <= 1 for value in row.metrics.values())
        if row.name != "teacher":
            assert {"agreement", "gallery_tar_far2", "gallery_rank1", "teacher_cosine"} <= row.metrics.keys()
            assert row.metrics["gallery_map"] == 1.0  # 8 numbers a picture against 12
    assert {claim.metric for claim in results.claims} >= {"tar_far2", "accuracy", "rank1"}
    assert any("false accept rate of 0.001 needs 1,000 pairs" in note for note in results.notes)
    report = (finished / "report.html").read_text(encoding="utf-8")
    assert "True accepts against false accepts" in report
    assert "TAR at FAR 1e-2" in report
    assert "on which student and teacher differ most" not in report
    student = load(finished / "student")
    assert student(torch.zeros(2, 3, 16, 16))["embedding"].shape == (2, 8)
    card = read_card(finished / "student")
    assert card.classes == ()
    assert card.shape is not None
    assert card.shape.head == "embedding"
    assert Alignment.read(finished / "student").matrix.shape == (8, 12)


def test_flipped_pairs_are_shown_side_by_side(faces: Path) -> None:
    """Pairs on which nothing changed, a picture of another pair, or colours that say right of what is wrong."""
    test = load_faces(f"folder:{faces}", validation=0.3).test
    generator = torch.Generator().manual_seed(0)
    own = torch.nn.functional.one_hot(test.labels, len(test.classes)).float()
    sharp, blurred, blind = (
        Recognised(test, own + noise * torch.randn(own.shape, generator=generator)) for noise in (0.0, 0.5, 2.0)
    )
    for alone, titles in (
        (blind, ["truth", "teacher", "alone", "distilled"]),
        (None, ["truth", "teacher", "distilled"]),
    ):
        shown = flipped(test, blurred, sharp, alone)["compared"]
        assert 0 < len(shown) <= 8
        for each in shown:
            panels = {panel["title"]: panel for panel in each["panels"]}
            assert list(panels) == titles
            said = {title: panel["text"].partition(":")[0] for title, panel in panels.items()}
            other = "alone" if alone is not None else "teacher"
            assert said[other] != said["distilled"]
            assert said["teacher"] == said["truth"]
            assert each["caption"].startswith("Gained" if said["distilled"] == said["truth"] else "Lost")
            assert (" and " in each["caption"]) == (said["truth"] == "two persons")
            pictures = {
                title: Image.open(io.BytesIO(base64.b64decode(panel["png"]))).convert("RGB")
                for title, panel in panels.items()
            }
            assert all(picture.width <= 320 for picture in pictures.values())
            frames = {title: picture.getpixel((0, 0)) for title, picture in pictures.items()}
            assert (frames["distilled"] == frames["teacher"]) == (said["distilled"] == said["truth"])
            inside = {title: picture.crop((4, 4, 232, 116)).tobytes() for title, picture in pictures.items()}
            assert len({pixels[: 3 * 112] for pixels in inside.values()}) == 1


def test_flipped_pairs_come_by_how_far_apart_they_are(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs that are nearest to both thresholds, which say least."""
    test = load_faces(f"folder:{faces}", validation=0.3).test
    generator = torch.Generator().manual_seed(0)
    teacher, alone, distilled = (
        Recognised(test, torch.randn(len(test), 12, generator=generator)) for _ in ("teacher", "alone", "distilled")
    )
    monkeypatch.setattr("limbeck.tasks.face_pairs._compared", lambda _split, _models, pair, gained: (pair, gained))
    for other in (alone, None):
        said = flipped(test, distilled, teacher, other)
        assert f"otherwise than the {'student alone' if other else 'teacher'}" in said["heading"]
        one, two = distilled.verified, (other or teacher).verified
        gaps = {
            pair: abs((one.scores[pair] - one.thresholds[pair]) - (two.scores[pair] - two.thresholds[pair]))
            for pair in range(len(one.scores))
            if one.accepted[pair] != two.accepted[pair]
        }
        expected = []
        for gained in (True, False):
            kind = [pair for pair in gaps if bool(one.accepted[pair] == one.same[pair]) == gained]
            expected += [(pair, gained) for pair in sorted(kind, key=lambda pair: -gaps[pair])[:4]]
        assert len(gaps) > len(expected) >= 5
        assert said["compared"] == expected


def test_a_run_that_was_stopped_goes_on(finished: Path, faces: Path, tmp_path: Path) -> None:
    """Class centres, of the loss or of the teacher, that are others after a restart."""
    again = tmp_path / "out"
    shutil.copytree(finished, again)
    shutil.rmtree(again / "models" / "distilled-0")
    shutil.rmtree(again / "models" / "alone-0")
    for name in ("results.json", "report.html"):
        (again / name).unlink()
    run(recipe(tmp_path, faces), again, say=quiet)
    for name in ("alone-0", "distilled-0"):
        mine, theirs = (
            load_file(place / "models" / name / "last" / "model.safetensors") for place in (again, finished)
        )
        assert all(torch.equal(mine[key], value) for key, value in theirs.items())


def test_students_learn_from_stored_embeddings(finished: Path, faces: Path, tmp_path: Path) -> None:
    """A store without its views or the test pictures; a run that trains a teacher although all answers are there."""
    wanted = recipe(tmp_path, faces, teacher={"store": str(tmp_path / "labels")})
    shutil.copytree(finished / "teacher", tmp_path / "out" / "teacher")
    (tmp_path / "out" / "recipe.yaml").write_text(yaml.safe_dump(wanted.resolved()), encoding="utf-8")
    label_recipe(wanted, tmp_path / "out", say=quiet)
    store = LabelStore.open(tmp_path / "labels")
    data = FACE_RECOGNITION.load(wanted.data, Opening())
    assert store.manifest.records == 2 * len(data.train) + len(data.test)
    assert store.signals["embedding"].codec.options() == {"codec": "features", "bits": 8}
    said = {"model": "", "store": str(tmp_path / "labels"), "train": None, "terms": None, "options": {}}
    only = recipe(tmp_path, faces, teacher=said)
    results = run(only, tmp_path / "only", say=quiet)
    assert not (tmp_path / "only" / "teacher").exists()
    live = {row.name: row.metrics for row in Results.read(finished / "results.json").rows if row.checkpoint == "last"}
    stored = {row.name: row.metrics for row in results.rows if row.checkpoint == "last"}
    assert stored["alone"]["auc"] == live["alone"]["auc"]
    assert stored["teacher"]["auc"] == pytest.approx(live["teacher"]["auc"], abs=0.02)
    # Nobody runs, so that the training pictures as they are have no embedding of the teacher.
    assert "gallery_rank1" not in stored["distilled"]
    assert "agreement" in stored["distilled"]
    assert not (tmp_path / "only" / "student" / FILE).exists()
    assert any("gallery was not searched" in note for note in results.notes)


def test_the_gallery_is_searched_as_it_is_where_that_works(finished: Path, faces: Path, tmp_path: Path) -> None:
    """A map between embeddings of one space, which takes away that no gallery must change; none where it is needed."""
    data = FACE_RECOGNITION.load(recipe(tmp_path, faces).data, Opening())
    teacher = predict(load(finished / "teacher" / "last"), data.test)
    assert isinstance(teacher, Recognised)
    itself = teacher.fidelity(teacher)
    assert itself["gallery_map"] == 0.0
    assert itself["agreement"] == 1.0
    assert itself["teacher_cosine"] == pytest.approx(1.0)
    assert itself["gallery_rank1"] == teacher.metrics()["rank1"]
    assert itself["gallery_tar_far2"] == teacher.metrics()["tar_far2"]
    assert teacher.training is not None
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q
    turned = Recognised(data.test, teacher.embeddings @ turn, teacher.training @ turn)
    found = turned.fidelity(teacher)
    assert found["gallery_map"] == 1.0
    assert found["teacher_cosine"] > 0.99
    assert turned.metrics() == pytest.approx(teacher.metrics())


def test_the_teachers_gallery_is_searched_with_the_students_queries(faces: Path) -> None:
    """A gallery of the student's own embeddings, which is no longer the old one; queries of the teacher's."""
    test = load_faces(f"folder:{faces}", validation=0.3).test
    assert test.pairs is not None
    generator = torch.Generator().manual_seed(0)
    persons = torch.randn(len(test.classes), 12, generator=generator)

    def noisy(clean: torch.Tensor, by: float) -> torch.Tensor:
        return clean + by * torch.randn(clean.shape, generator=generator)

    theirs = noisy(persons[test.labels], 0.9)
    training = torch.randn(60, 12, generator=generator)
    taught = Recognised(test, theirs, training)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    mine = noisy(theirs, 1.3)
    for student, mapped in (
        (Recognised(test, mine, noisy(training, 0.3)), False),
        (Recognised(test, mine @ turn, noisy(training, 0.3) @ turn), True),
    ):
        queries = student.embeddings
        if mapped:
            assert student.training is not None
            queries = fit_alignment(student.training, training)(queries)
        found = student.fidelity(taught)
        assert found["gallery_map"] == float(mapped)
        unit_queries, gallery = (torch.nn.functional.normalize(each.double(), dim=1) for each in (queries, theirs))
        first = {int(who): at for at, who in reversed(list(enumerate(test.labels.tolist())))}
        asked = [at for at in range(len(test)) if at not in first.values()]
        right = [
            int(test.labels[at]) == max(first, key=lambda who, at=at: float(unit_queries[at] @ gallery[first[who]]))
            for at in asked
        ]
        assert found["gallery_rank1"] == pytest.approx(sum(right) / len(right))
        scores = (unit_queries[test.pairs.first] * gallery[test.pairs.second]).sum(1).numpy()
        same = test.pairs.same.numpy()
        accepted = [(scores[same] >= at).mean() for at in scores if (scores[~same] >= at).mean() <= 0.01]
        assert found["gallery_tar_far2"] == pytest.approx(max(accepted, default=0.0))
        # Else the test could not tell one from the other.
        own = student.metrics()
        assert found["gallery_rank1"] != pytest.approx(own["rank1"])
        assert found["gallery_tar_far2"] != pytest.approx(own["tar_far2"])


def test_terms_are_fitted_to_data_and_teacher(finished: Path, tmp_path: Path) -> None:
    """Class centres of hidden persons, in another order than the labels, of pictures that nobody labelled, or of more
    pictures of a person than ten."""
    settings = recipe(tmp_path, write(tmp_path / "many", persons=14, each=12)).data
    assert isinstance(settings, FaceSettings)
    data = FACE_RECOGNITION.load(settings, Opening())
    split = FACE_RECOGNITION.training(settings, data, 0, None)
    model = load(finished / "teacher" / "last")
    fitted = FACE_RECOGNITION.fitted(
        [Term(ArcFace()), Term(ClassCentres()), Term(EmbeddingCosine())], split, Live(model)
    )
    assert fitted[0].loss.classes == len(split.classes) == len(data.train.classes) // 2
    assert [term.student for term in fitted] == ["embedding"] * 3
    assert [term.teacher for term in fitted] == ["", "embedding", "embedding"]
    with torch.no_grad():
        embeddings = model(data.train.__getitems__(range(len(data.train)))["inputs"])["embedding"]
    for at, person in enumerate(split.classes):
        everything = (data.train.labels == data.train.classes.index(person)).nonzero()[:, 0]
        own = everything[:10]
        assert len(everything) == 12
        mean = torch.nn.functional.normalize(embeddings[own], dim=1).mean(0)
        mean = mean / mean.norm()
        torch.testing.assert_close(fitted[1].loss.head.W[:, at], mean, rtol=1e-3, atol=1e-4)


def test_alone_without_a_term_on_labels(faces: Path, tmp_path: Path) -> None:
    """A student alone that is to classify with logits that it has not."""
    only = recipe(tmp_path, faces, terms=[{"loss": "embedding-l2"}])
    data = FACE_RECOGNITION.load(only.data, Opening())
    split = FACE_RECOGNITION.training(only.data, data, 0, None)
    student = build(ModelSpec(only.student.model, only.student.options), FACE_RECOGNITION.shape(data))
    alone = distiller_of(student, None, only, split)
    assert [term.name for term in alone.objective.terms] == ["arcface"]
    batch = split.__getitems__(list(range(len(split))))
    alone(batch).loss.backward()
    assert alone.objective.terms[0].loss.head.W.grad is not None
    assert alone.objective.terms[0].loss.head.W.shape == (8, len(split.classes))


def test_the_doctor_examines_it(faces: Path, tmp_path: Path) -> None:
    """A check that asks a model of faces for logits."""
    findings = examine(recipe(tmp_path, faces), tmp_path / "out")
    assert any("term class-centres" in finding.topic for finding in findings)


def test_an_onnx_file_teaches(faces: Path, tmp_path: Path) -> None:
    """The embedding of a published .onnx file, whose only output has a number for a name, taken for logits."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = torch.randn(3 * 16 * 16, 12, generator=torch.Generator().manual_seed(0))
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["input"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["683"]),
        ],
        "face",
        [onnx.helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [onnx.helper.make_tensor_value_info("683", onnx.TensorProto.FLOAT, ["batch", 12])],
        [onnx.numpy_helper.from_array(weights.numpy(), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "teacher.onnx")
    test = load_faces(f"folder:{faces}", validation=0.3).test
    found = predict(Onnx(tmp_path / "teacher.onnx"), test)
    assert isinstance(found, Recognised)
    expected = test.__getitems__(list(range(len(test))))["inputs"].flatten(1) @ weights
    torch.testing.assert_close(found.embeddings, expected, rtol=1e-4, atol=1e-3)


def test_a_store_that_lacks_pictures_measures_no_teacher(finished: Path, faces: Path, tmp_path: Path) -> None:
    """Embeddings of other pictures under the same ids."""
    wanted = recipe(tmp_path, faces, teacher={"store": str(tmp_path / "labels")})
    shutil.copytree(finished / "teacher", tmp_path / "out" / "teacher")
    (tmp_path / "out" / "recipe.yaml").write_text(yaml.safe_dump(wanted.resolved()), encoding="utf-8")
    label_recipe(wanted, tmp_path / "out", say=quiet)
    data = FACE_RECOGNITION.load(wanted.data, Opening())
    stored = Stored(LabelStore.open(tmp_path / "labels"))
    assert isinstance(predict(stored, data.test), Recognised)
    assert "does not hold" in predict(stored, data.validation).why


def test_mistakes_are_named(faces: Path, tmp_path: Path) -> None:
    """Mixed faces, logits that are not there, and a student of another kind."""
    with pytest.raises(LimbeckError, match=r"data\.augment: a mixture of two faces"):
        recipe(tmp_path, faces, data={"augment": ["MixUp"]})
    with pytest.raises(LimbeckError, match=r"data\.labeled: unknown key; did you mean 'labelled'"):
        recipe(tmp_path, faces, data={"labeled": 3})
    with pytest.raises(LimbeckError, match="gives embedding, but not 'logits'"):
        run(recipe(tmp_path, faces, terms=[{"loss": "kd"}]), tmp_path / "kd", say=quiet)
    with pytest.raises(LimbeckError, match="write embedding:conv-student"):
        run(recipe(tmp_path, faces, student={"model": "conv-student"}), tmp_path / "plain", say=quiet)
    with pytest.raises(LimbeckError, match=r"teacher\.0\.terms|unknown loss 'arcfase'; did you mean 'arcface'"):
        recipe(tmp_path, faces, teacher={"terms": [{"loss": "arcfase"}]})
