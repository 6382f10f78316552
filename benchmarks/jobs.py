"""The jobs of `step_time.py`: for each, a pair of models, data, terms, and the same maths as one would write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from limbeck import Term
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.models import conv_student, conv_teacher, dense_student, dense_teacher
from limbeck.models.cifar import CifarResNet
from limbeck.store import Codec, DenseLogits, Features, TopKLogits

Rows = dict[str, Tensor]
Plain = Callable[[nn.Module, Rows, nn.Module | None], Tensor]
"""The loss of a student on a batch as one would write it; without a teacher, cross-entropy alone."""


@dataclass(frozen=True)
class Job:
    """One row pair of the table. `stored` and `live` are what to stay below, as ratios to the bare loops; `batches` is
    how many an epoch has, `steps` how many a round times."""

    name: str
    models: Callable[[], tuple[nn.Module, nn.Module]]
    data: Callable[[int], Rows]
    batch: int
    terms: Callable[[], Sequence[Term]]
    plain: Plain
    codecs: dict[str, Codec]
    batches: int
    steps: int
    stored: float
    live: float


TEMPERATURE = 4.0


def _images(channels: int, size: int, classes: int) -> Callable[[int], Rows]:
    def data(count: int) -> Rows:
        return {"inputs": torch.randn(count, channels, size, size), "labels": torch.randint(0, classes, (count,))}

    return data


def _soft(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_q, p = F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)
    return temperature**2 * F.kl_div(log_q, p, reduction="batchmean")


def _plain_images(model: nn.Module, rows: Rows, teacher: nn.Module | None) -> Tensor:
    logits = model(rows["inputs"])
    hard = F.cross_entropy(logits, rows["labels"])
    if teacher is None:
        return hard
    with torch.no_grad():
        taught = teacher(rows["inputs"])
    return 0.1 * hard + 0.9 * _soft(logits, taught, TEMPERATURE)


def _kd() -> Sequence[Term]:
    return [Term(Supervised(), 0.1), Term(KD(TEMPERATURE), 0.9)]


def _resnets() -> tuple[nn.Module, nn.Module]:
    return tuple(CifarResNet(depth=depth, widths=(16, 16, 32, 64), num_classes=100) for depth in (20, 56))  # type: ignore[return-value]


TEXT, SHORTEST = 128, 32


def _bert(layers: int) -> nn.Module:
    config = BertConfig(
        hidden_size=256, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=1024, num_labels=2,
        output_hidden_states=True, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def _texts(count: int) -> Rows:
    """Texts of 32 to 128 tokens, padded to 128."""
    ids = torch.randint(1000, 30000, (count, TEXT))
    lengths = torch.randint(SHORTEST, TEXT + 1, (count, 1))
    mask = (torch.arange(TEXT) < lengths).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.randint(0, 2, (count,))}


def _plain_bert(model: nn.Module, rows: Rows, teacher: nn.Module | None) -> Tensor:
    given = {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"]}
    out = model(**given, output_hidden_states=teacher is not None)
    hard = F.cross_entropy(out.logits, rows["labels"])
    if teacher is None:
        return hard
    with torch.no_grad():
        taught = teacher(**given)
    mask = rows["attention_mask"].unsqueeze(-1).float()
    loss = 0.1 * hard + 0.9 * _soft(out.logits, taught.logits, TEMPERATURE)
    for mine, theirs in ((1, 2), (2, 4)):
        squares = (out.hidden_states[mine] - taught.hidden_states[theirs]).square() * mask
        loss = loss + squares.mean(-1).sum() / mask.sum()
    return loss


def _bert_terms() -> Sequence[Term]:
    hidden = [Term(FeatureMSE(), student=f"hidden.{a}", teacher=f"hidden.{b}") for a, b in ((1, 2), (2, 4))]
    return [*_kd(), *hidden]


VOCABULARY = 50_304


def _llama(width: int, layers: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _tokens(count: int) -> Rows:
    ids = torch.randint(0, VOCABULARY, (count, 256))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _plain_llama(model: nn.Module, rows: Rows, teacher: nn.Module | None) -> Tensor:
    ids = rows["input_ids"]
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    if teacher is None:
        return F.cross_entropy(logits, ids[:, 1:].flatten())
    with torch.no_grad():
        taught = teacher(input_ids=ids).logits[:, :-1].flatten(0, 1)
    return _soft(logits, taught, 1.0)


JOBS = (
    Job(
        "ResNet-56 → ResNet-20, 3×32×32", _resnets, _images(3, 32, 100), 64, _kd, _plain_images,
        {"logits": DenseLogits()}, 8, 4, 0.92, 0.92,
    ),
    Job(
        "BERT 4 → 2 layers, width 256", lambda: (_bert(2), _bert(4)), _texts, 16, _bert_terms, _plain_bert,
        {"logits": DenseLogits(), "hidden.2": Features(), "hidden.4": Features()}, 8, 3, 0.88, 0.92,
    ),
    Job(
        "Llama 4 × 512 → 2 × 256, V = 50,304", lambda: (_llama(256, 2), _llama(512, 4)), _tokens, 4,
        lambda: [Term(KD(1.0))], _plain_llama, {"logits": TopKLogits(k=32)}, 8, 1, 0.68, 0.60,
    ),
    Job(
        "dense 784-128-64-10 → 784-64-10", lambda: (dense_student(), dense_teacher()), _images(1, 28, 10), 128, _kd,
        _plain_images, {"logits": DenseLogits()}, 64, 300, 1.25, 1.15,
    ),
    Job(
        "conv 32-64 → 16-32, 1×28×28", lambda: (conv_student(), conv_teacher()), _images(1, 28, 10), 128, _kd,
        _plain_images, {"logits": DenseLogits()}, 64, 15, 1.1, 1.1,
    ),
)  # fmt: skip
