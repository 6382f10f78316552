"""Which tokens count, and a head that never writes its logits down."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from limbeck import Distiller, Live, Term
from limbeck.errors import LimbeckError
from limbeck.losses import KD, FeatureMSE, Supervised
from limbeck.shortcuts import SHORTCUTS
from limbeck.tokens import TokenPlan, next_tokens

VOCABULARY = 61
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}

CAUSAL: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, **HEADS),
    "tied-gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    ),
    "softcapped-gemma2": lambda: transformers.Gemma2Config(**SMALL, **HEADS, final_logit_softcapping=3.0),
    "scaled-cohere": lambda: transformers.CohereConfig(**SMALL, num_attention_heads=2, logit_scale=0.25),
    "divided-granite": lambda: transformers.GraniteConfig(**SMALL, num_attention_heads=2, logits_scaling=4.0),
}


def causal(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = CAUSAL[name]()
    config.pad_token_id, config.bos_token_id, config.eos_token_id = 0, 1, 2
    model = transformers.AutoModelForCausalLM.from_config(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def texts() -> dict[str, Tensor]:
    """Three texts of 7, 4 and 1 tokens, one padded on the left, with a prompt that does not count."""
    ids = torch.randint(3, VOCABULARY, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4, [1] + [0] * 6])
    labels = torch.where(mask.bool(), ids, -100)
    labels[0, :3] = -100
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def naive(logits: Tensor, teacher: Tensor, batch: dict[str, Tensor], temperature: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy and KL, each the mean over the tokens that count, token by token."""
    hard, soft = [], []
    for row in range(len(logits)):
        for at in range(logits.shape[1] - 1):
            label = int(batch["labels"][row, at + 1])
            if label == -100 or not batch["attention_mask"][row, at] or not batch["attention_mask"][row, at + 1]:
                continue
            hard.append(F.cross_entropy(logits[row, at], torch.tensor(label)))
            soft.append(
                temperature**2
                * F.kl_div(
                    F.log_softmax(logits[row, at] / temperature, -1),
                    F.softmax(teacher[row, at] / temperature, -1),
                    reduction="sum",
                )
            )
    return torch.stack(hard).mean(), torch.stack(soft).mean()


def run(distiller: Distiller, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    distiller.zero_grad()
    loss = distiller(batch).loss
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in distiller.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize(
    "shortcuts", [SHORTCUTS, SHORTCUTS - {"linear-head"}, frozenset()], ids=["all", "dense", "none"]
)
def test_a_causal_model_against_a_loop_over_tokens(name: str, shortcuts: frozenset[str]) -> None:
    """Labels shifted and logits not, padding or a prompt that counts, a soft-cap or a scale forgotten by the head."""
    student, teacher = causal(name), causal(name, seed=1).eval()
    batch = texts()
    if name == "softcapped-gemma2":  # its attention gives NaN where a text begins with padding
        batch = {key: value[[0, 2]] for key, value in batch.items()}
    terms = [Term(Supervised(), 0.3), Term(KD(2.0), 0.7)]
    distiller = Distiller(student, Live(teacher, shortcuts=shortcuts), terms, shortcuts=shortcuts).train()
    loss, gradients = run(distiller, batch)
    given = {key: value for key, value in batch.items() if key != "labels"}
    hard, soft = naive(student(**given).logits, teacher(**given).logits.detach(), batch, 2.0)
    student.zero_grad()
    (0.3 * hard + 0.7 * soft).backward()
    torch.testing.assert_close(loss, (0.3 * hard + 0.7 * soft).detach(), rtol=1e-6, atol=1e-9)
    expected = [parameter.grad for parameter in student.parameters() if parameter.grad is not None]
    assert len(expected) == len(gradients)
    for mine, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)
    assert (distiller(batch).logits is None) == ("linear-head" in shortcuts)


def test_the_head_is_as_it_was_found() -> None:
    """A model that gives one logit after it was distilled."""
    student = causal("llama")
    ids = texts()["input_ids"]
    before = student(input_ids=ids).logits
    Distiller(student)(texts()).loss.backward()
    assert torch.equal(student(input_ids=ids).logits, before)


def test_a_model_that_does_more_to_its_logits_is_run_densely(caplog: pytest.LogCaptureFixture) -> None:
    """Logits that limbeck takes to be the head's, and the model bends afterwards."""
    student = causal("llama")
    plain = student.forward
    student.forward = lambda **given: _doubled(plain(**given))  # type: ignore[method-assign]
    batch = texts()
    hard, _ = naive(_doubled(plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])).logits,
                    torch.zeros(3, 7, VOCABULARY, dtype=torch.float64), batch, 1.0)  # fmt: skip
    student.forward.__signature__ = inspect.signature(plain)  # type: ignore[attr-defined]
    loss = Distiller(student)(batch).loss
    torch.testing.assert_close(loss, 0.1 * hard)
    assert "does something to its logits" in caplog.text


def _doubled(output: Any) -> Any:
    output.logits = output.logits * 2
    return output


def test_packed_documents_do_not_predict_each_other() -> None:
    """The first token of a document learned from the last of another."""
    ids = torch.arange(8)[None]
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])
    where, labels = next_tokens({"position_ids": positions}, ids)
    assert where[0].tolist() == [True, True, False, True, False, True, True, False]
    assert labels[0].tolist() == [1, 2, -1, 4, -1, 6, 7, -1]
    where, _ = next_tokens({"document_ids": torch.tensor([[5, 5, 5, 9, 9, 5, 5, 5]])}, ids)
    assert where[0].tolist() == [True, True, False, True, False, True, True, False]


def test_nothing_that_counts_gives_zero_with_a_graph() -> None:
    """NaN from a batch of prompts."""
    batch = texts()
    batch["labels"] = torch.full_like(batch["labels"], -100)
    distiller = Distiller(causal("llama"), causal("llama", 1), [Term(Supervised(), 0.5), Term(KD(1.0), 0.5)])
    loss = distiller(batch).loss
    loss.backward()
    assert loss.item() == 0.0


@pytest.mark.parametrize("shortcuts", [SHORTCUTS, frozenset()], ids=["all", "none"])
def test_hidden_states_are_compared_at_text(shortcuts: frozenset[str]) -> None:
    """Padding that is distilled, and makes up most of a batch of short texts."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        output_hidden_states=True, hidden_dropout_prob=0, attention_probs_dropout_prob=0,
    )  # fmt: skip
    student, teacher = (transformers.BertForSequenceClassification(config).double() for _ in range(2))
    batch = {**texts(), "labels": torch.tensor([0, 1, 1])}
    terms = [Term(FeatureMSE(), student="hidden.1", teacher="hidden.2")]
    distiller = Distiller(student, teacher, terms, shortcuts=shortcuts)
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    mine, theirs = student(**given).hidden_states[1], teacher.eval()(**given).hidden_states[2]
    rows = [
        (mine[r, t] - theirs[r, t]).square().mean() for r in range(3) for t in range(7) if given["attention_mask"][r, t]
    ]
    torch.testing.assert_close(distiller(batch).loss, torch.stack(rows).mean())
    assert distiller.counts(batch).tolist() == [12.0]


def test_counts_over_accumulated_batches() -> None:
    """A batch of few tokens that weighs as much as one of many."""
    batch = texts()
    student, teacher = causal("llama"), causal("llama", 1)
    terms = [Term(Supervised(), 0.3), Term(KD(1.0), 0.7)]
    distiller = Distiller(student, teacher, terms).eval()
    parts = [{key: value[at] for key, value in batch.items()} for at in (slice(0, 1), slice(1, 3))]
    total = torch.stack([distiller.counts(part) for part in parts]).sum(0)
    assert total.tolist() == [7.0, 7.0]
    summed = sum(distiller(part, total).loss for part in parts)
    torch.testing.assert_close(summed, distiller(batch).loss, rtol=1e-6, atol=1e-9)


def test_labels_of_another_shape() -> None:
    """Class labels given to a language model."""
    with pytest.raises(LimbeckError, match=r"a label a token: expected labels of shape \(3, 7\), got \(3,\)"):
        TokenPlan({**texts(), "labels": torch.tensor([0, 1, 2])}, causal=True)


@pytest.mark.parametrize("shortcuts", [SHORTCUTS, frozenset()], ids=["head", "dense"])
def test_vocabularies_padded_to_different_sizes(shortcuts: frozenset[str]) -> None:
    """A pair of one family (151,936 and 152,064 entries) that cannot be distilled, or whose padding takes mass."""
    student, teacher = causal("llama"), causal("llama", seed=1)
    teacher.resize_token_embeddings(VOCABULARY + 6)
    nn.init.normal_(teacher.get_output_embeddings().weight)
    batch = texts()
    distiller = Distiller(student, Live(teacher, shortcuts=shortcuts), [Term(KD(1.0))], shortcuts=shortcuts)
    given = {key: value for key, value in batch.items() if key != "labels"}
    _, soft = naive(student(**given).logits, teacher(**given).logits[..., :VOCABULARY].detach(), batch, 1.0)
    torch.testing.assert_close(distiller(batch).loss, soft, rtol=1e-6, atol=1e-9)
