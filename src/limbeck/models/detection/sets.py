"""Detectors that predict a set of boxes: transformers' DETR, RT-DETR, D-FINE, YOLOS and others, called in one way."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.models.detection.detections import Detections
from limbeck.models.detection.logits import log_odds
from limbeck.models.detection.truths import Truths, truths_of
from limbeck.models.huggingface import build_huggingface
from limbeck.models.spec import ModelSpec, Shape

MOST = 100
"""Detections of a picture; COCO's measures look at no more."""


class SetDetector(nn.Module):
    """A transformers model for object detection.

    `forward` gives `logits` (batch, queries, classes), whose sigmoid is the score of a class; `boxes` (batch, queries,
    4), xyxy in pixels; of D-FINE `distribution` (batch, queries, 4, bins), logits over where an edge is, and `edges`,
    where in pixels each bin has the edge; `pyramid.0`, … (batch, channels, rows, columns), the maps that its decoder
    looks at (of YOLOS and DETR, whose encoder has tokens of one size, a single one); and with `boxes` of a batch
    `model_loss` (batch,), the model's own loss. A model that knows softmax with a class for no object gives the
    logarithms of the odds of the others, so that the sigmoid gives the same scores.

    The loss is transformers' own of all annotated pictures together, as its matching, its denoising queries and its
    divisors couple them: each such picture carries it whole, so that their mean is the model's loss.

    Args:
        network: what `AutoModelForObjectDetection` gives.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def signals(self) -> Collection[str]:
        """The names of what `forward` may give."""
        more = ("distribution", "edges") if self._refines else ()
        levels = (f"pyramid.{index}" for index in range(self._levels))
        return ("logits", "boxes", "model_loss", *more, *levels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, empty where its configuration only numbers them."""
        named = {int(index): str(name) for index, name in self.network.config.id2label.items()}
        if all(name == f"LABEL_{index}" for index, name in named.items()):
            return ()
        return tuple(named[index] for index in sorted(named))

    @property
    def _levels(self) -> int:
        return int(self.network.config.to_dict().get("num_feature_levels", 1))

    @property
    def _refines(self) -> bool:
        return bool(self.network.config.model_type == "d_fine")

    def forward(
        self,
        inputs: Tensor,
        boxes: Tensor | None = None,
        box_classes: Tensor | None = None,
        annotated: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The signals of pictures (batch, channels, height, width); of `boxes` (batch, most, 4) with `box_classes`
        (batch, most), -1 for padding and -2 for crowds, which are left out, the loss of those pictures that are
        `annotated` (batch,)."""
        height, width = inputs.shape[-2:]
        scale = inputs.new_tensor([width, height, width, height], dtype=torch.float32)
        if boxes is None or box_classes is None:
            output = self.network(inputs)
        else:
            truths = truths_of(boxes, box_classes, annotated)
            output = self._taught(inputs, truths, scale)
        signal = self._signal(output, scale)
        signal |= {f"pyramid.{index}": each for index, each in enumerate(self._maps(output, height, width))}
        if output.loss is not None:
            known = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device) if annotated is None else annotated
            signal["model_loss"] = torch.where(known, output.loss.reshape(()), 0.0)
        elif boxes is not None:
            signal["model_loss"] = signal["logits"].flatten(1)[:, :0].sum(1)  # 0, with a graph
        return signal

    def detections(self, signal: Mapping[str, Tensor]) -> list[Detections]:
        """The best of each picture, at most 100: every query with its best class where the model knows softmax, else
        the best pairs of query and class, as transformers chooses them."""
        scores = signal["logits"].sigmoid()
        if self.knows_softmax(scores.shape[-1]):
            best, classes = scores.max(-1)
            found, queries = best.topk(min(MOST, best.shape[1]))
            kinds = classes.gather(1, queries)
        else:
            found, places = scores.flatten(1).topk(min(MOST, scores.shape[1]))
            queries, kinds = places // scores.shape[-1], places % scores.shape[-1]
        boxes = signal["boxes"].gather(1, queries.unsqueeze(-1).expand(-1, -1, 4))
        return [Detections(*each) for each in zip(boxes, found, kinds, strict=True)]

    def _taught(self, inputs: Tensor, truths: Truths, scale: Tensor) -> Any:
        """The model's output with its loss of the annotated pictures."""
        if not truths.annotated:
            return self.network(inputs)
        labels = [
            {"class_labels": classes, "boxes": _centred(boxes / scale)}
            for boxes, classes in zip(truths.boxes, truths.classes, strict=True)
        ]
        if len(truths.annotated) == len(labels):
            return self.network(inputs, labels=labels)
        whole = self.network.loss_function
        self.network.loss_function = partial(_loss_of_rows, whole, truths.annotated)
        try:
            return self.network(inputs, labels=labels)
        finally:
            self.network.loss_function = whole

    def _signal(self, output: Any, scale: Tensor) -> dict[str, Tensor]:
        # While it is taught, queries that undo noise come before those that find boxes.
        denoising = getattr(output, "denoising_meta_values", None) if self.network.training else None
        first = 0 if denoising is None else denoising["dn_num_split"][0]
        logits, boxes = output.logits[:, first:].float(), output.pred_boxes[:, first:].float()
        signal = {
            "logits": log_odds(logits)[..., :-1] if logits.shape[-1] > self.network.config.num_labels else logits,
            "boxes": _corners(boxes) * scale,
        }
        if self._refines:
            corners = output.intermediate_predicted_corners[:, -1, first:].float()
            signal["distribution"] = corners.unflatten(-1, (4, -1))
            signal["edges"] = self._edges(output.initial_reference_points[:, -1, first:].float()) * scale.unsqueeze(-1)
        return signal

    def knows_softmax(self, classes: int) -> bool:
        """Whether the model gives one more than these classes, for no object."""
        head = getattr(self.network, "class_labels_classifier", None)
        return head is not None and classes < self._outputs(head)

    @staticmethod
    def _outputs(head: nn.Module) -> int:
        return [each.out_features for each in head.modules() if isinstance(each, nn.Linear)][-1]

    def _edges(self, reference: Tensor) -> Tensor:
        """Where each bin of D-FINE has a box's edges, (batch, queries, 4, bins), relative to the picture."""
        from transformers.models.d_fine.modeling_d_fine import weighting_function

        decoder = self.network.model.decoder
        scale = decoder.reg_scale.abs().float()
        steps = weighting_function(decoder.max_num_bins, decoder.up.float(), scale)
        distances = (0.5 * scale + steps) / scale
        centre, size = reference[..., :2].unsqueeze(-1), reference[..., 2:].unsqueeze(-1)
        return torch.cat([centre - distances * size, centre + distances * size], -2)

    def _maps(self, output: Any, height: int, width: int) -> list[Tensor]:
        encoded = getattr(output, "encoder_last_hidden_state", None)
        if isinstance(encoded, (list, tuple)):
            return list(encoded)
        if self._levels > 1:  # the tokens of several maps in a row
            return []
        if encoded is None:  # YOLOS: a class token, the picture's, and those that find boxes
            encoded = output.last_hidden_state[:, 1 : -self.network.config.num_detection_tokens]
        rows = max(1, round(math.sqrt(encoded.shape[1] * height / width)))
        if encoded.shape[1] % rows:
            return []
        return [encoded.transpose(1, 2).unflatten(2, (rows, -1))]


def build_set(spec: ModelSpec, shape: Shape, *, trust_code: bool) -> SetDetector:
    """`hf:NAME` for object detection; names and options are as for classifiers (`build_huggingface`).

    Raises:
        LimbeckError: where the model cannot be had, or has other classes or channels than the data.
    """
    from transformers import AutoModelForObjectDetection as Auto

    network = build_huggingface(spec, shape, trust_code=trust_code, auto=Auto, purpose="object detection")
    return SetDetector(network)


def _loss_of_rows(
    whole: Callable[..., Any], rows: Sequence[int], logits: Tensor, labels: Sequence[Any], device: Any, boxes: Tensor,
    config: Any, outputs_class: Tensor | None = None, outputs_coord: Tensor | None = None, **more: Any,
) -> Any:  # fmt: skip
    """A transformers loss of some pictures of a batch."""
    layers_first = outputs_class is not None and _layers_first(outputs_class, logits)

    def own(value: Any, *, layered: bool = False) -> Any:
        if isinstance(value, Tensor):
            return value[:, rows] if layered and layers_first else value[rows]
        if isinstance(value, dict) and "dn_positive_idx" in value:
            return {**value, "dn_positive_idx": [value["dn_positive_idx"][row] for row in rows]}
        return value

    layers = own(outputs_class, layered=True), own(outputs_coord, layered=True)
    more = {name: own(value) for name, value in more.items()}
    return whole(own(logits), [labels[row] for row in rows], device, own(boxes), config, *layers, **more)


def _layers_first(outputs_class: Tensor, logits: Tensor) -> bool:
    """Whether the answers of all layers are (layers, batch, …), as of DETR, and not (batch, layers, …)."""
    pictures = len(logits)
    if len(outputs_class) != pictures or outputs_class.shape[1] != pictures:
        return len(outputs_class) != pictures
    return torch.allclose(outputs_class[-1], logits)


def _centred(boxes: Tensor) -> Tensor:
    """(…, 4) from corners to centre, width and height."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def _corners(boxes: Tensor) -> Tensor:
    """(…, 4) from centre, width and height to corners."""
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
