"""Detectors that predict sets: transformers' models, losses and choices, with the signals of all detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.models.detection.scenes import CLASSES, HEIGHT, SETS, SHAPE, WIDTH, detector, scenes, set_config, spec_of
from torch import Tensor
from transformers import AutoModelForObjectDetection, DetrImageProcessor, RTDetrImageProcessor

from limbeck import LimbeckError
from limbeck.models import ModelSpec, Shape, build, load, save
from limbeck.models.detection import SetDetector
from limbeck.types import Preprocessing

LIBRARY = {"detr": DetrImageProcessor, "rt_detr": RTDetrImageProcessor, "d_fine": RTDetrImageProcessor}


def labels_of(batch: dict[str, Tensor], rows: list[int]) -> list[dict[str, Tensor]]:
    """A batch's boxes as transformers takes them: centre, width and height relative to the picture."""
    labels = []
    for row in rows:
        kept = batch["box_classes"][row] >= 0
        left, top, right, bottom = batch["boxes"][row][kept].unbind(-1)
        centred = [(left + right) / 2 / WIDTH, (top + bottom) / 2 / HEIGHT]
        centred += [(right - left) / WIDTH, (bottom - top) / HEIGHT]
        labels.append({"class_labels": batch["box_classes"][row][kept], "boxes": torch.stack(centred, -1)})
    return labels


@pytest.mark.parametrize("kind", SETS)
def test_signals_and_loss_are_transformers_own(kind: str) -> None:
    """Boxes of another scale, queries that undo noise among the answers, or a loss of other targets."""
    model, batch = detector(kind).train(), scenes(3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(3)
    signal = model(batch["inputs"], batch["boxes"], batch["box_classes"])
    assert set(signal) == set(model.signals)
    assert signal["logits"].shape == (3, 10, CLASSES)
    torch.manual_seed(3)
    output = model.network(batch["inputs"], labels=labels_of(batch, [0, 1, 2]))
    torch.testing.assert_close(signal["model_loss"], output.loss.expand(3))
    scores = output.logits[:, -10:]
    own = scores.softmax(-1)[..., :-1] if scores.shape[-1] > CLASSES else scores.sigmoid()
    torch.testing.assert_close(signal["logits"].sigmoid(), own, rtol=1e-5, atol=1e-6)
    x, y, w, h = (output.pred_boxes[:, -10:] * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    torch.testing.assert_close(signal["boxes"], corners, rtol=1e-5, atol=1e-4)
    assert all(each.dim() == 4 for name, each in signal.items() if name.startswith("pyramid"))


@pytest.mark.parametrize("kind", SETS)
def test_the_loss_is_that_of_annotated_pictures(kind: str) -> None:
    """Pictures that only the teacher knows, taught as background, or one picture's answers beside another's boxes."""
    model, batch = detector(kind).eval(), scenes(3)
    generator = torch.Generator().manual_seed(0)
    for each in model.parameters() if kind == "yolos" else ():  # whose untrained answers are the same for all pictures
        each.data += torch.randn(each.shape, generator=generator) * 0.3 * (each.dim() > 1)
    known = torch.tensor([True, False, True])
    got = model(batch["inputs"], batch["boxes"], batch["box_classes"], known)["model_loss"]
    expected = model.network(batch["inputs"][known], labels=labels_of(batch, [0, 2])).loss
    torch.testing.assert_close(got, torch.where(known, expected, 0.0), rtol=1e-4, atol=1e-4)
    other = model.network(batch["inputs"][:2], labels=labels_of(batch, [0, 2])).loss
    assert float((other - expected).abs().detach()) > 1e-3 * float(expected.detach()) + 1e-3
    torch.testing.assert_close(
        model(batch["inputs"], batch["boxes"], batch["box_classes"])["model_loss"],
        model.network(batch["inputs"], labels=labels_of(batch, [0, 1, 2])).loss.expand(3),
    )
    model.train()
    for mask in (known, ~known, torch.zeros(3, dtype=torch.bool)):
        loss = model(batch["inputs"], batch["boxes"], batch["box_classes"], mask)["model_loss"]
        loss.sum().backward()
        assert bool((loss[~mask] == 0).all())
        assert bool(loss.isfinite().all())


@pytest.mark.parametrize("layers", [2, 3])
def test_layers_that_come_before_pictures(layers: int) -> None:
    """The answers of DETR's layers mistaken for pictures, where there are as many."""
    options = set_config("detr", layers=layers) | {"auxiliary_loss": True}
    torch.manual_seed(0)
    model = build(ModelSpec("hf:detr", {"pretrained": False, "config": options}), SHAPE).eval()
    batch, known = scenes(3), torch.tensor([True, False, True])
    got = model(batch["inputs"], batch["boxes"], batch["box_classes"], known)["model_loss"]
    expected = model.network(batch["inputs"][known], labels=labels_of(batch, [0, 2])).loss
    torch.testing.assert_close(got, torch.where(known, expected, 0.0), rtol=1e-4, atol=1e-4)


def test_edges_of_d_fine() -> None:
    """Bins at other places than D-FINE decodes its boxes from."""
    signal = detector("d_fine").eval()(scenes(2)["inputs"])
    assert signal["distribution"].shape == signal["edges"].shape == (2, 10, 4, 33)
    mean = (signal["distribution"].softmax(-1) * signal["edges"]).sum(-1)
    torch.testing.assert_close(mean, signal["boxes"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", LIBRARY)
def test_detections_are_chosen_as_transformers_does(kind: str) -> None:
    """Scores, classes or boxes of another query."""
    model = detector(kind).eval()
    with torch.no_grad():
        signal, output = model(scenes(2)["inputs"]), model.network(scenes(2)["inputs"])
    sizes = [(HEIGHT, WIDTH)] * 2
    expected = LIBRARY[kind]().post_process_object_detection(output, threshold=0.0, target_sizes=sizes)
    for each, theirs in zip(model.detections(signal), expected, strict=True):
        order = theirs["scores"].sort(descending=True, stable=True).indices
        torch.testing.assert_close(each.scores, theirs["scores"][order], rtol=1e-5, atol=1e-6)
        assert torch.equal(each.classes, theirs["labels"][order])
        torch.testing.assert_close(each.boxes, theirs["boxes"][order], rtol=1e-4, atol=1e-3)


def test_crowds_and_odd_boxes_are_left_out() -> None:
    """A crowd as a box to find, a box without width, or a batch without any box."""
    model, batch = detector("rt_detr").eval(), scenes(2)
    plain = model(batch["inputs"], batch["boxes"], batch["box_classes"])["model_loss"]
    more = torch.tensor([[[0.0, 0, 90, 60], [4, 4, 4, 30]]]).expand(2, -1, -1)
    boxes = torch.cat([batch["boxes"], more], 1)
    kinds = torch.cat([batch["box_classes"], torch.tensor([[-2, 1]]).expand(2, -1)], 1)
    torch.testing.assert_close(model(batch["inputs"], boxes, kinds)["model_loss"], plain)
    none = model.train()(batch["inputs"], torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))["model_loss"]
    assert bool(none.isfinite().all())


@pytest.mark.parametrize("kind", ["rt_detr", "d_fine", "detr"])
def test_a_saved_folder_comes_back_bit_equal(kind: str, tmp_path: Path) -> None:
    """A wrapper or weights that are lost on the way; a folder that transformers does not open."""
    model = detector(kind).eval()
    pixels = Preprocessing((HEIGHT, WIDTH), 3, (0.0,) * 3, (1.0,) * 3)
    folder = tmp_path / "model"
    save(model, folder, spec=spec_of(kind), classes="abc", preprocessing=pixels, shape=SHAPE)
    inputs = scenes(2)["inputs"]
    with torch.no_grad():
        expected = model(inputs)
        plain: Any = AutoModelForObjectDetection.from_pretrained(folder).eval()
        for again in (load(folder), build(ModelSpec(str(folder)), SHAPE).eval(), SetDetector(plain)):
            assert isinstance(again, SetDetector)
            got = again(inputs)
            assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_a_new_head_for_other_classes(tmp_path: Path) -> None:
    """A hub model with other classes that is taken as it is, or that cannot be taken at all."""
    detector("rt_detr").network.save_pretrained(tmp_path / "hub")
    five = Shape(5, 3, (HEIGHT, WIDTH), "detection")
    with pytest.raises(LimbeckError, match=r"has 3 classes, the data 5.*ignore_mismatched_sizes"):
        build(ModelSpec(f"hf:{tmp_path / 'hub'}"), five)
    model = build(ModelSpec(f"hf:{tmp_path / 'hub'}", {"ignore_mismatched_sizes": True}), five)
    batch = scenes(2)
    assert model(batch["inputs"])["logits"].shape[-1] == 5
    assert bool(model(batch["inputs"], batch["boxes"], batch["box_classes"])["model_loss"].isfinite().all())


def test_values_that_a_configuration_does_not_take_are_named() -> None:
    """A stack trace from inside of transformers."""
    for config, says in (
        ({"d_model": 15, "backbone_config": {"depths": [1]}}, "does not take"),
        ({"queries": 3}, "no 'q"),
    ):
        with pytest.raises(LimbeckError, match=says):
            build(ModelSpec("hf:d_fine", {"pretrained": False, "config": config}), SHAPE)
