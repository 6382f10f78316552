"""A model's name and options, as a recipe or a saved folder writes them; and what the data ask of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from limbeck.errors import LimbeckError, nearest

Head = Literal["classification", "seq2seq", "question-answering", "causal-lm"]
Problem = Literal["single-label", "multi-label", "regression"]
Pictured = Literal["classification", "detection", "embedding", "keypoints"]

HEADS: tuple[Head, ...] = ("classification", "seq2seq", "question-answering", "causal-lm")
PROBLEMS: tuple[Problem, ...] = ("single-label", "multi-label", "regression")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What `build` turns into a module: a name (`resnet8x4`, `timm:resnet18`, …) and its options.

    Every name takes the option `weights`: the path of a state dict file, loaded strictly.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shape:
    """What images ask of a model: how many classes, input channels, and (height, width) in pixels; and what the model
    gives, `head`: the class of a picture, boxes with classes, an embedding (of no classes), or `num_classes` keypoints.
    """

    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    head: Pictured = "classification"


@dataclass(frozen=True, slots=True)
class TextShape:
    """What texts ask of a model.

    Attributes:
        num_classes: of a classifier, the targets of a regression; 0 for the other heads.
        vocabulary: tokens that the tokenizer has, added ones too.
        max_length: tokens of the longest text.
        pad_id: the token that fills up short texts.
        head: what the model gives: classes of a text, the next token of a translation, where an answer begins and
            ends, or the next token of the text itself.
        problem: what a classifier's values are.
        bos_id, eos_id: the tokens that begin and end a text; None where the tokenizer has none.

    Raises:
        LimbeckError: head or problem is unknown, or a number is out of its range.
    """

    num_classes: int
    vocabulary: int
    max_length: int
    pad_id: int
    head: Head
    problem: Problem = "single-label"
    bos_id: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("head", self.head, HEADS), ("problem", self.problem, PROBLEMS)):
            if given not in known:
                raise LimbeckError(f"TextShape: unknown {what} {given!r}{nearest(str(given), known)}")
        if self.vocabulary < 1 or self.max_length < 1:
            raise LimbeckError(
                f"TextShape: expected a vocabulary and a max_length of 1 or more, got {self.vocabulary} and "
                f"{self.max_length}; give the tokenizer's"
            )
        for name, token in (("pad_id", self.pad_id), ("bos_id", self.bos_id), ("eos_id", self.eos_id)):
            if token is not None and not 0 <= token < self.vocabulary:
                raise LimbeckError(
                    f"TextShape: {name} {token} is not among the {self.vocabulary} tokens of the vocabulary; "
                    "give the tokenizer's id"
                )
        if self.head == "classification" and self.num_classes < 1:
            raise LimbeckError(f"TextShape: a classifier of {self.num_classes} classes; give 1 or more")


AnyShape = Shape | TextShape
