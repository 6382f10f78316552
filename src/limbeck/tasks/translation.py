"""Translation: from one text to another, token by token, by any encoder-decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.checks import LimbeckError
from limbeck.generation import generate
from limbeck.installed import resolved
from limbeck.metrics.translation import sentence_scores, translation_fidelity, translation_metrics
from limbeck.models import TextShape, forward_of, unwrapped
from limbeck.sources import collate_samples
from limbeck.sources.splits import labelled_mask
from limbeck.sources.texts.pairs import PairSet
from limbeck.sources.texts.parallel import Parallel, read_parallel
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED
from limbeck.tasks.task import Opening, Task, Unmeasured, kept_labels
from limbeck.tasks.texts import HUB, TextualSettings, own_tokenizing, shown, students_tokenizing, teachers_tokenizing
from limbeck.teachers import Adapter, Live, Stored
from limbeck.types import Batch

EXAMPLES = 12

log = logging.getLogger(__name__)


class TranslationSettings(TextualSettings):
    """Which texts and their translations; `source` and the columns as of
    `limbeck.sources.texts.parallel.read_parallel`. One tokenizer serves both languages.

    `labelled` keeps the translations of that many training texts. For measuring, translations are written with `beams`
    hypotheses (1 is greedy) of at most `max_new_tokens` tokens.
    """

    source_column: str | None = None
    target_column: str | None = None
    split_column: str | None = None
    header: list[str] | None = None
    labelled: Any = "all"
    lowercase: bool = False
    max_length: int = Field(default=64, ge=4)
    max_new_tokens: int = Field(default=64, ge=1)
    beams: int = Field(default=1, ge=1)

    @field_validator("labelled")
    @classmethod
    def _count(cls, value: Any) -> int | float | str:
        return kept_labels(value)


@dataclass(frozen=True, slots=True, eq=False)
class TranslationData:
    """Texts and their translations ready for a run."""

    train: PairSet
    validation: PairSet
    test: PairSet
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Translated:
    """What a model wrote of each text of a split."""

    texts: list[str]
    split: PairSet
    why: str = ""

    def metrics(self) -> dict[str, float]:
        """BLEU, chrF and the ratio of lengths, of texts that have a reference."""
        known = [(text, ref) for text, ref in zip(self.texts, self.split.references, strict=True) if ref is not None]
        return translation_metrics([text for text, _ in known], [ref for _, ref in known])

    def fidelity(self, taught: Translated | Unmeasured) -> dict[str, float]:
        """How often the translation is the teacher's, and BLEU against it."""
        return {} if isinstance(taught, Unmeasured) else translation_fidelity(self.texts, taught.texts)

    def details(self) -> dict[str, Any]:
        """Nothing: the figures of the report are of classes."""
        return {}


def _load(settings: TranslationSettings, opening: Opening) -> TranslationData:
    found = read_parallel(
        settings.source,
        validation=settings.validation,
        source_column=settings.source_column,
        target_column=settings.target_column,
        split_column=settings.split_column,
        header=settings.header,
    )
    tokenizing = students_tokenizing(settings, opening)
    if tokenizing is None:
        texts = [*found.train.sources, *(target for target in found.train.targets if target)]
        tokenizing = own_tokenizing(settings, texts, "bpe")
    start = _start(opening.teachers)

    def split(part: Parallel, name: str) -> PairSet:
        ids = torch.as_tensor(part.ids)
        return PairSet(part.sources, part.targets, ids, tokenizing, start_id=start, name=f"{found.name} {name}")

    return TranslationData(
        split(found.train, "train"), split(found.validation, "validation"), split(found.test, "test")
    )


def _start(teachers: Sequence[str]) -> int | None:
    """The token that a ready-made teacher begins translations with, which its students then begin with as well."""
    from transformers import AutoConfig

    for name in teachers:
        if name.startswith(HUB):
            config: Any = AutoConfig.from_pretrained(resolved(name.removeprefix(HUB)))
            start: int | None = getattr(config, "decoder_start_token_id", None)
            return start
    return None


def _training(settings: TranslationSettings, data: TranslationData, _seed: int, _store: LabelStore | None) -> PairSet:
    if settings.labelled == "all":
        return data.train
    known = torch.where(data.train.labelled, 0, -1).numpy()
    return data.train.with_labels(labelled_mask(known, data.train.ids.numpy(), 1, settings.labelled))


def _describe(split: PairSet, _data: TranslationData) -> str:
    return f"{len(split):,} texts, {int(split.labelled.sum()):,} of them with a translation"


def _shape(data: TranslationData) -> TextShape:
    tokenizing = data.train.tokenizing
    return TextShape(
        num_classes=0,
        vocabulary=tokenizing.vocabulary,
        max_length=tokenizing.max_length,
        pad_id=tokenizing.pad_id,
        head="seq2seq",
        bos_id=data.train.start_id,
        eos_id=data.train.end_id,
    )


def _seen_by(data: TranslationData, said: Mapping[str, Any]) -> TranslationData:
    """The same tokens: a teacher with others cannot be compared with token by token."""
    if teachers_tokenizing(said, data.train.tokenizing) is not None:
        raise LimbeckError(
            "the teacher has a tokenizer of its own, and its translations are compared token by token; give the "
            "student the teacher's (leave data.tokenizer out), or another teacher"
        )
    return data


def _adapter(data: TranslationData, _model: nn.Module | None, said: Mapping[str, Any]) -> Adapter | None:
    _seen_by(data, said)
    return None


def _predict(
    read: Any, split: PairSet, *, label: str, workers: int = 0, settings: TranslationSettings | None = None
) -> Translated | Unmeasured:
    if isinstance(read, Stored):
        read = read.fallback
    module = read.model if isinstance(read, Live) else read
    if not isinstance(module, nn.Module):
        why = f"{label}: it runs as no module that can write a translation, so it was not measured"
        log.warning("%s", why)
        return Unmeasured(why)
    module = module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    beams, most = (1, 64) if settings is None else (settings.beams, settings.max_new_tokens)
    rows = generate(module, split, beams=beams, max_new_tokens=most, label=label, say=log.info)
    return Translated(split.decode(rows), split)


def _validate(module: nn.Module, split: PairSet, _settings: Any) -> dict[str, float]:
    """NLL (nats) and accuracy of the next token of the reference: a translation takes longer to write than to read."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = forward_of(module.to(device).eval())
    nll, right, count = 0.0, 0, 0
    with torch.inference_mode():
        for batch in tqdm(DataLoader(split, 64, collate_fn=collate_samples), "validation", leave=False, disable=None):
            labels = batch["labels"].to(device)
            known = labels >= 0
            logits = run({name: tensor.to(device) for name, tensor in batch.items()})["logits"][known].float()
            nll += float(nn.functional.cross_entropy(logits, labels[known], reduction="sum"))
            right += int((logits.argmax(-1) == labels[known]).sum())
            count += int(known.sum())
    return {"nll": nll / max(count, 1), "accuracy": right / max(count, 1)}


def _examples(test: PairSet, student: Translated, teacher: Translated | Unmeasured) -> dict[str, Any] | None:
    """Texts of which the student's translation is furthest from the teacher's."""
    if isinstance(teacher, Unmeasured):
        return None
    apart = sentence_scores(student.texts, teacher.texts, similarity="chrf")
    worst = sorted(range(len(apart)), key=apart.__getitem__)[:EXAMPLES]
    return {
        "differing": [
            {
                "text": shown(test.sources[index]), "label": shown(test.references[index] or ""),
                "teacher": shown(teacher.texts[index]), "student": shown(student.texts[index]), "judged": False,
            }
            for index in worst
        ]
    }  # fmt: skip


def _writing(module: nn.Module) -> Callable[[Batch], Tensor]:
    """Greedy writing of a whole translation, as it costs a user."""
    inner: Any = unwrapped(module)

    def write(batch: Batch) -> Tensor:
        written: Tensor = inner.generate(
            batch["input_ids"], attention_mask=batch["attention_mask"], num_beams=1, do_sample=False,
            max_new_tokens=2 * batch["input_ids"].shape[1],
        )  # fmt: skip
        return written

    return write


TRANSLATION = Task(
    name="translation",
    settings=TranslationSettings,
    main_metric="bleu",
    claimed=("bleu", "chrf"),
    selection=lambda _data: "nll",
    terms=lambda _settings: SOFTENED,
    load=_load,
    training=_training,
    teaching=lambda _settings, data, _augment: data.train,
    labelled=lambda _settings, data, _views: [data.train],
    describe=_describe,
    shape=_shape,
    seen_by=_seen_by,
    teacher_shape=lambda data, said: _shape(_seen_by(data, said)),
    adapter=_adapter,
    preparation=lambda data: data.train.tokenizing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    run=_writing,
)
