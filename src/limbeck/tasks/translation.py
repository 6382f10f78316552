"""Translation: from one text to another, token by token, by any encoder-decoder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from limbeck.generation import generate
from limbeck.installed import resolved
from limbeck.metrics.translation import sentence_scores, translation_fidelity, translation_metrics
from limbeck.models import ModelSpec, forward_of, unwrapped
from limbeck.models.huggingface import configuration
from limbeck.sources import collate_samples
from limbeck.sources.splits import kept_mask
from limbeck.sources.texts.pair_data import PairData, load_pairs
from limbeck.sources.texts.pairs import PairSet
from limbeck.store import LabelStore
from limbeck.tasks.classification import SOFTENED
from limbeck.tasks.task import LabelledSettings, Opening, Task, Unmeasured, unmeasured
from limbeck.tasks.texts import HUB, TextualSettings, read_alike, shape_of, shown, students_tokenizing
from limbeck.teachers import Live, Stored
from limbeck.types import Batch

EXAMPLES = 12

log = logging.getLogger(__name__)


class TranslationSettings(TextualSettings, LabelledSettings):
    """Which texts and their translations; `source` and the columns as of
    `limbeck.sources.texts.load_pairs`. One tokenizer serves both languages.

    `labelled` keeps the translations of that many training texts. For measuring, translations are written with `beams`
    hypotheses (1 is greedy) of at most `max_new_tokens` tokens.
    """

    source_column: str | None = None
    target_column: str | None = None
    split_column: str | None = None
    header: list[str] | None = None
    lowercase: bool = False
    max_length: int = Field(default=64, ge=4)
    max_new_tokens: int = Field(default=64, ge=1)
    beams: int = Field(default=1, ge=1)


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


def _load(settings: TranslationSettings, opening: Opening) -> PairData:
    return load_pairs(
        settings.source,
        tokenizing=students_tokenizing(settings, opening),
        tokenizer=settings.tokenizer or "bpe",
        vocabulary=settings.vocabulary,
        lowercase=settings.lowercase,
        max_length=settings.max_length,
        start_id=_start(opening.teachers),
        validation=settings.validation,
        source_column=settings.source_column,
        target_column=settings.target_column,
        split_column=settings.split_column,
        header=settings.header,
    )


def _start(teachers: Sequence[str]) -> int | None:
    """The token that a ready-made teacher begins translations with, which its students then begin with as well."""
    for name in teachers:
        if name.startswith(HUB):
            config = configuration(ModelSpec(name), resolved(name.removeprefix(HUB)), True, False)
            start: int | None = getattr(config, "decoder_start_token_id", None)
            return start
    return None


def _training(settings: TranslationSettings, data: PairData, _seed: int, _store: LabelStore | None) -> PairSet:
    if settings.labelled == "all":
        return data.train
    train = data.train
    return train.with_labels(kept_mask(train.labelled.numpy(), train.ids.numpy(), settings.labelled))


def _describe(split: PairSet, _data: PairData) -> str:
    return f"{len(split):,} texts, {int(split.labelled.sum()):,} of them with a translation"


def _predict(
    read: Any, split: PairSet, *, label: str, workers: int = 0, settings: TranslationSettings | None = None
) -> Translated | Unmeasured:
    if isinstance(read, Stored):
        read = read.fallback
    module = read.model if isinstance(read, Live) else read
    if not isinstance(module, nn.Module):
        return unmeasured(f"{label}: it runs as no module that can write a translation, so it was not measured")
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


def _examples(
    test: PairSet, student: Translated, teacher: Translated | Unmeasured, _alone: Any
) -> dict[str, Any] | None:
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
    labelled=lambda _settings, data, _views: [data.train],
    describe=_describe,
    shape=lambda data: shape_of(data.train.tokenizing, "seq2seq", begin=data.train.start_id),
    seen_by=partial(read_alike, why="its translations are compared token by token"),
    preparation=lambda data: data.train.tokenizing,
    predict=_predict,
    validate=_validate,
    examples=_examples,
    needs={"sacrebleu": "text"},
    run=_writing,
)
