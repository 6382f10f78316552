"""The parts of a recipe: its models, who teaches and how, what is kept on disk."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from limbeck.errors import nearest
from limbeck.recipe.build import build_codecs, build_terms
from limbeck.sources.boxes import Taking
from limbeck.tasks.image_classification import NORMALIZATIONS, NormalizeRecipe
from limbeck.training import TrainConfig


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecipe(Strict):
    """A model by name (`conv-student`, `timm:NAME`, `hf:NAME`, a folder, …) with the options of its builder."""

    model: str
    options: dict[str, Any] = Field(default_factory=dict)


class TeacherRecipe(ModelRecipe):
    """A model that teaches. With `train` it is first trained in the run, on all labels of the training split, by those
    of its `terms`, or of the task's where it has none, that are on labels.

    `normalize` and `size` tell how a ready-made teacher wants its pixels; by default as the student gets them, or as
    the saved folder or timm says. `tokenizer` is the folder or hub id of its tokenizer, where its own has none. A
    language model with other tokens than its student teaches where both have read the same bytes: of the tokens that
    both know (`alignment: shared`), or of its own, for `uld` (`own`). `store` is the folder of its label store: where
    `limbeck label` writes it, and what a run learns from once it is there; alone, without `model`, it must be there.
    """

    model: str = ""
    store: str | None = None
    train: TrainConfig | None = None
    terms: list[dict[str, Any]] | None = Field(default=None, min_length=1)
    augment: Any = None
    normalize: str | NormalizeRecipe | None = None
    size: int | None = Field(default=None, ge=1)
    tokenizer: str | None = None
    alignment: Literal["shared", "own"] | None = None

    @field_validator("terms")
    @classmethod
    def _terms(cls, value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if value is not None:
            build_terms(value)
        return value

    @model_validator(mode="after")
    def _something_to_teach_from(self) -> TeacherRecipe:
        if not self.model and self.store is None:
            raise ValueError("teacher: needs a model, a store, or both")
        return self

    @field_validator("normalize")
    @classmethod
    def _known(cls, value: str | NormalizeRecipe | None) -> str | NormalizeRecipe | None:
        if isinstance(value, str) and value not in NORMALIZATIONS:
            raise ValueError(f"unknown normalization {value!r}{nearest(value, NORMALIZATIONS)}")
        return value


class StartRecipe(Strict):
    """Which of its teacher's layers a student starts from (see `limbeck.starting.copy_layers`), alone as well.

    Small text students start from `embeddings` instead, fitted to their width: the teacher's `table`, whose tokens they
    are to have; or their own tokens as the teacher's layers have `encoded` each of them.
    """

    layers: Literal["every", "first", "last", "first-last"] | list[int] = "every"
    blocks: str = ""
    embeddings: Literal["table", "encoded"] | None = None


class StudentRecipe(ModelRecipe):
    """The model that learns.

    `model` names it; or `from: teacher` makes it a smaller teacher, with `layers` (how many, or which, or both stacks'
    by name), `width`, `heads`, `feed_forward` and `vocabulary` (how many tokens): see `limbeck.models.shrink`. With
    `start` its first weights are its teacher's. With `lora` only small additions to its layers are trained: see
    `limbeck.models.lora.Lora`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    model: str = ""
    source: Literal["teacher"] | None = Field(default=None, alias="from")
    layers: int | list[int] | dict[str, int | list[int]] | None = None
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    feed_forward: int | None = Field(default=None, ge=1)
    vocabulary: int | None = Field(default=None, ge=1)
    start: StartRecipe | None = None
    lora: dict[str, Any] | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """What is smaller than the teacher, by the names of `shrink`."""
        given = {name: getattr(self, name) for name in ("layers", "width", "heads", "feed_forward", "vocabulary")}
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _one_origin(self) -> StudentRecipe:
        if bool(self.model) == (self.source is not None):
            raise ValueError("student: needs a model, or `from: teacher` with sizes, and not both")
        if self.source is None and self.sizes:
            raise ValueError(f"student.{next(iter(self.sizes))}: is a size of a student `from: teacher`")
        if self.source is not None and (self.options or self.start is not None):
            raise ValueError("student: one `from: teacher` takes no options and no start; it begins as its teacher")
        return self


class AssistantRecipe(ModelRecipe):
    """A model that learns from the teacher, or from the assistant before it, and then teaches; on the student's budget
    where it has no `train` of its own."""

    train: TrainConfig | None = None


class LabelRecipe(Strict):
    """What `limbeck label` stores of the teacher.

    `signals` are what to keep and how: a name (`logits`, or a module of the teacher) and its codec with options.
    `views` is how many augmented views of each training sample are stored, where `data.augment` is not `none`; epochs
    go through them in turn.
    """

    signals: dict[str, dict[str, Any]] = Field(default={"logits": {"codec": "dense"}}, min_length=1)
    views: int = Field(default=4, ge=1)
    batch_size: int = Field(default=256, ge=1)

    @field_validator("signals")
    @classmethod
    def _codecs(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        build_codecs(value)
        return value


class OnPolicyRecipe(Strict):
    """How a language model learns from its own continuations: a `share` of the steps goes on from the first `prompt`
    tokens of the data with `new_tokens` that the student draws at a `temperature`; what is drawn serves `reuse` steps,
    of the last `size` sequences. See `limbeck.online.OnPolicy`.
    """

    prompt: int = Field(default=16, ge=1)
    new_tokens: int = Field(default=48, ge=1)
    share: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)
    reuse: int = Field(default=1, ge=1)
    size: int | None = Field(default=None, ge=1)


class SequenceRecipe(Strict):
    """Sequence-level distillation: the student learns the teacher's own translations in the place of the references
    (Kim and Rush 2016, arXiv:1606.07947). They are written once, by beam search, and kept in the run folder.

    `mode` is `best`, or `interpolation`: of each text the beam that is nearest to its reference.
    """

    mode: Literal["best", "interpolation"] = "best"
    beams: int = Field(default=4, ge=1)
    max_new_tokens: int = Field(default=64, ge=1)
    length_penalty: float = 1.0


class PseudoBoxesRecipe(Strict):
    """What the teacher finds in training pictures, with a score of at least `threshold`, in the place of what people
    drew: in the `unlabelled` ones, or in `all`. It looks once, at pictures as they are, and the boxes are kept in the
    run folder; teacher and student may be of any two families.
    """

    threshold: float = Field(default=0.3, ge=0, lt=1)
    pictures: Taking = "unlabelled"
