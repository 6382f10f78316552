"""Image classification: predictions, metrics, and the pictures worth looking at."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import EvalPrediction

from limbeck.checks import LimbeckError, labels_in_range
from limbeck.metrics import classification_details, classification_metrics, disagreements, fidelity
from limbeck.models import forward_of
from limbeck.sources import ImageSet, collate_samples
from limbeck.types import UNLABELLED, Batch, Signal

EXAMPLES = 12


@dataclass(frozen=True, slots=True)
class ImageClassification:
    """What a run needs to know of the task."""

    name: str
    main_metric: str
    predict: Callable[..., tuple[Tensor, Tensor]]
    metrics: Callable[[Tensor, Tensor], dict[str, float]]
    fidelity: Callable[[Tensor, Tensor, Tensor], dict[str, float]]
    details: Callable[..., dict[str, Any]]
    examples: Callable[..., dict[str, Any]]
    training_metrics: Callable[[EvalPrediction], dict[str, float]]


def predict(
    read: nn.Module | Callable[[Batch], Signal],
    dataset: Dataset[Any],
    *,
    batch_size: int = 256,
    label: str = "predicting",
    workers: int = 0,
    collate: Callable[[Any], Any] = collate_samples,
) -> tuple[Tensor, Tensor]:
    """Logits (samples, classes) float32 and labels (samples,) of a whole split, on the CPU, in its order.

    `read` is a module, which is moved to the GPU if there is one and put in eval mode, or a teacher.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(read, nn.Module):
        read = forward_of(read.to(device).eval())
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, num_workers=workers)
    logits, labels = [], []
    with torch.inference_mode():
        for batch in tqdm(loader, desc=label, leave=False, disable=None):
            # Without the labels: a teacher that weighs others by them would be measured with the answers in its hand.
            moved = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
            logits.append(read(moved)["logits"].float().cpu())
            labels.append(batch["labels"])
    if not logits:
        raise LimbeckError(f"{label}: the split is empty; there is nothing to predict")
    scores, truth = torch.cat(logits), torch.cat(labels)
    if scores.dim() != 2:
        raise LimbeckError(
            f"{label}: the model gives logits of shape {tuple(scores.shape)}; image classification needs "
            "(batch, classes)"
        )
    if not truth.is_floating_point():
        labels_in_range(truth, scores.shape[1], label)
    return scores, truth


def examples(
    dataset: ImageSet, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, count: int = EXAMPLES
) -> dict[str, Any]:
    """Pictures as base64 PNG, with what teacher and student say: those the student lost, kept and won."""
    student, teacher = student_logits.softmax(-1), teacher_logits.softmax(-1)

    def entry(index: int) -> dict[str, Any]:
        said, taught = int(student[index].argmax()), int(teacher[index].argmax())
        label = int(labels[index])
        return {
            "png": _png(dataset.pixels(torch.tensor([index]))[0]),
            "label": dataset.classes[label] if label != UNLABELLED else "",
            "teacher": dataset.classes[taught],
            "teacher_confidence": teacher[index, taught].item(),
            "student": dataset.classes[said],
            "student_confidence": student[index, said].item(),
        }

    chosen = disagreements(student_logits, teacher_logits, labels, count)
    groups = {group: [entry(index) for index in indices] for group, indices in chosen.items()}
    return {"classes": list(dataset.classes), **groups}


def training_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy and negative log-likelihood (nats) of the labelled samples, cheap enough to ask for often."""
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    known = labels != UNLABELLED
    logits, labels = logits[known], labels[known]
    if len(labels) == 0:
        return {}
    return {
        "accuracy": (logits.argmax(-1) == labels).double().mean().item(),
        "nll": nn.functional.cross_entropy(logits, labels).item(),
    }


def _png(pixels: Tensor) -> str:
    """uint8 (channels, height, width) as a base64 PNG of at least 64 pixels a side."""
    array = pixels.permute(1, 2, 0).numpy()
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    factor = -(-64 // min(image.size))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


IMAGE_CLASSIFICATION = ImageClassification(
    name="image-classification",
    main_metric="accuracy",
    predict=predict,
    metrics=classification_metrics,
    fidelity=fidelity,
    details=classification_details,
    examples=examples,
    training_metrics=training_metrics,
)
