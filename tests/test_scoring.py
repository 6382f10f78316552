"""Models run over a text: against transformers' own loss, and a loop over all tokens."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck import Live
from limbeck.errors import LimbeckError
from limbeck.scoring import compare_models, score
from limbeck.sources.texts import PackedSet, Tokenizing, train_tokenizer

DOCUMENTS = ["a language of few words , of few letters", "words of a language", "few", "letters , letters of words ."]
TOKENIZING = Tokenizing(train_tokenizer(DOCUMENTS, kind="characters", vocabulary=60), 24)


def causal(seed: int = 0, vocabulary: int = TOKENIZING.vocabulary) -> Any:
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, attention_dropout=0.5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.train()


def logits_and_tokens(model: Any, data: PackedSet) -> list[tuple[Tensor, int]]:
    """The logits before each token that counts, and the token, in a loop over documents' pieces without padding."""
    model = model.eval()
    found = []
    for index in range(len(data)):
        row = data[index]
        begins = [*(row["position_ids"] == 0).nonzero().flatten().tolist(), len(row["labels"])]
        for start, stop in itertools.pairwise(begins):
            logits = model(input_ids=row["input_ids"][None, start:stop]).logits[0]
            for at in range(start + 1, stop):
                if row["labels"][at] != -100:
                    found.append((logits[at - start - 1].detach().double(), int(row["input_ids"][at])))
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_text_s_cost_is_a_loop_s(batch_size: int) -> None:
    """Rows lost or counted twice, context that is scored, or words and bytes of another text."""
    model, data = causal(), PackedSet(DOCUMENTS, TOKENIZING, overlap=7)
    expected = logits_and_tokens(causal(), data)
    found = score(model, data, batch_size=batch_size)
    nll = sum(float(F.cross_entropy(logits, torch.tensor(token))) for logits, token in expected)
    assert found.sum_nll == pytest.approx(nll, rel=1e-5)
    assert found.tokens == data.tokens == len(expected)
    assert found.labels.tolist() == [token for _, token in expected]
    assert found.predicted.tolist() == [int(logits.argmax()) for logits, _ in expected]
    metrics = found.metrics()
    assert metrics["bits_per_byte"] == pytest.approx(nll / math.log(2) / sum(map(len, DOCUMENTS)), rel=1e-5)
    assert metrics["word_perplexity"] == pytest.approx(
        math.exp(nll / sum(len(text.split()) for text in DOCUMENTS)), rel=1e-4
    )
    assert metrics["accuracy"] == pytest.approx(
        sum(int(logits.argmax()) == token for logits, token in expected) / len(expected)
    )


def test_the_perplexity_is_transformers_own() -> None:
    """A perplexity that nobody else gets."""
    model, data = causal().eval(), PackedSet(DOCUMENTS, TOKENIZING)
    batch = data.__getitems__(range(len(data)))
    with torch.no_grad():
        loss = model(**{name: batch[name] for name in ("input_ids", "position_ids", "labels")}, use_cache=False).loss
    assert score(model, data).metrics()["perplexity"] == pytest.approx(math.exp(float(loss)), rel=1e-5)
    loose = PackedSet(DOCUMENTS, TOKENIZING, packed=False)
    assert score(model, loose).metrics()["accuracy"] > 0


def test_the_mode_is_put_back_and_dropout_is_off() -> None:
    """A student that goes on training in eval mode after its first evaluation, or is scored with dropout."""
    model, data = causal(), PackedSet(DOCUMENTS, TOKENIZING)
    first = score(model, data).sum_nll
    assert model.training
    assert model.model.layers[0].training
    assert score(model, data).sum_nll == first


@pytest.mark.parametrize("extra", [0, 5])
def test_two_models_are_a_loop_s(extra: int) -> None:
    """Divergences swapped, or tokens of one model compared with others of the other."""
    student, teacher = causal(1), causal(2, TOKENIZING.vocabulary + extra)
    data = PackedSet(DOCUMENTS, TOKENIZING, overlap=5)
    found = compare_models(student, Live(teacher), data, batch_size=2)
    small = TOKENIZING.vocabulary
    mine = [logits for logits, _ in logits_and_tokens(student, data)]
    theirs = [logits[:small] for logits, _ in logits_and_tokens(teacher, data)]
    log_q, log_p = (torch.stack(each).log_softmax(1) for each in (mine, theirs))
    forward = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    reverse = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
    metrics = found.metrics()
    assert metrics["teacher_kl"] == pytest.approx(float(forward.mean()), rel=1e-4)
    assert metrics["reverse_kl"] == pytest.approx(float(reverse.mean()), rel=1e-4)
    assert metrics["agreement"] == pytest.approx(float((log_q.argmax(1) == log_p.argmax(1)).double().mean()))
    assert metrics["both_right"] + metrics["student_only"] == pytest.approx(found.student.metrics()["accuracy"])
    assert found.student.sum_nll == pytest.approx(score(student, data).sum_nll)
    assert found.teacher.sum_nll == pytest.approx(score(teacher, data).sum_nll)


def test_logits_are_never_whole() -> None:
    """Memory of (tokens, vocabulary) for a whole text, or a whole batch."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                largest = max(largest, out.numel())
            return out

    model = causal(vocabulary=40_000)
    data = PackedSet(DOCUMENTS * 30, TOKENIZING)
    with Watch():
        score(model, data, batch_size=64)
    tokens = 64 * TOKENIZING.max_length
    assert largest < 40_000 * tokens / 3


def test_nothing_that_counts_is_named() -> None:
    """A perplexity of nothing."""
    rows = [{"input_ids": torch.tensor([1, 2]), "labels": torch.tensor([-100, -100])}]
    with pytest.raises(LimbeckError, match="no token counts"):
        score(causal(), rows)
