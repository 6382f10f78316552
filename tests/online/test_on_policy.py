"""A student taught on what it says: draws against transformers' own, a step against plain code, and what it is for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainingArguments

from limbeck import Distiller, DistillTrainer, Live, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import GeneralizedJSD, ReverseKL, Supervised
from limbeck.online import OnPolicy, Prompts, ReplayBuffer, Samples, on_policy, own_sample_kl, sample
from limbeck.sources.texts import PackedSet, Tokenizing, train_tokenizer
from limbeck.training import TrainConfig, train

VOCABULARY, END = 12, 2
# Texts of one token over and over: what neither model says.
TEXT = torch.arange(3, VOCABULARY).repeat(2).unsqueeze(1).expand(-1, 12).contiguous()
DATA = [{"input_ids": row, "labels": row} for row in TEXT]
BATCH = {"input_ids": TEXT[:6], "labels": TEXT[:6]}


def causal(
    seed: int = 0, *, kind: str = "gpt2", std: float = 0.5, vocabulary: int = VOCABULARY, dropout: float = 0.0
) -> Any:
    torch.manual_seed(seed)
    ids = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0}
    config: Any = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=16, attn_pdrop=0.0, embd_pdrop=dropout, resid_pdrop=0.0, **ids
    )
    if kind == "llama":
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, **ids,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return model


def prompts(*texts: list[int]) -> Prompts:
    lengths = torch.tensor([len(text) for text in texts])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
    return Prompts(ids, lengths)


def on_own(student: nn.Module, teacher: nn.Module, **options: Any) -> OnPolicy:
    return OnPolicy(student, teacher, **({"prompt": 2, "new_tokens": 8} | options))


# -- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_draws_at_low_temperature_are_transformers_greedy_ones(kind: str) -> None:
    """Keys and values of the wrong positions, or a longer prompt that is overwritten while others are continued."""
    model = causal(kind=kind).eval()
    texts = [[3, 4, 5], [6], [7, 8, 9, 10, 11], [4, 4]]
    found = sample(model, prompts(*texts), 6, temperature=1e-4, ends=())
    for row, text in enumerate(texts):
        alone = model.generate(
            torch.tensor([text]), attention_mask=torch.ones(1, len(text)).long(), do_sample=False, max_new_tokens=6,
            eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
        assert found.ids[row, : len(text) + 6].tolist() == alone[0].tolist()
    assert found.stops.tolist() == [len(text) + 6 for text in texts]
    assert found.prompts.tolist() == [len(text) for text in texts]


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_draws_are_the_model_s_distribution(temperature: float) -> None:
    """A temperature that is not used, or draws by another distribution than the one that is learned."""
    model = causal()
    many = Prompts(torch.tensor([[5, 7]]).expand(20_000, -1), torch.full((20_000,), 2))
    found = sample(model, many, 1, temperature=temperature, generator=torch.Generator().manual_seed(0))
    shares = found.ids[:, 2].bincount(minlength=VOCABULARY) / 20_000
    expected = (model.eval()(torch.tensor([[5, 7]])).logits[0, -1] / temperature).softmax(0)
    torch.testing.assert_close(shares, expected.detach(), atol=0.015, rtol=0)


def test_nothing_is_drawn_behind_an_end() -> None:
    """A text that goes on behind its end, an end that does not count, or the end of a prompt that stops it."""
    model = causal()
    start = prompts([END, 5], [6, 7], [8, 9])
    found = sample(model, start, 9, generator=torch.Generator().manual_seed(0), temperature=3.0)
    batch = found.batch()
    assert int(found.stops.min()) < 11, "no text ended early; take another seed"
    for row, stop in enumerate(found.stops.tolist()):
        said = found.ids[row, 2:stop].tolist()
        assert said
        assert END not in said[:-1]
        assert stop == 11 or said[-1] == END
        assert batch["labels"][row].tolist() == [-100] * 2 + [-1] * len(said) + [-100] * (found.ids.shape[1] - stop)
        assert batch["attention_mask"][row].tolist() == [1] * stop + [0] * (found.ids.shape[1] - stop)
        assert not found.ids[row, stop:].any()


def test_padding_of_a_vocabulary_is_not_drawn() -> None:
    """A token that the teacher has no row for."""
    model = causal(vocabulary=64, std=0.05)
    found = sample(model, prompts([3], [4]), 12, vocabulary=VOCABULARY, ends=())
    assert int(found.ids.max()) < VOCABULARY
    student, teacher = causal(vocabulary=64, std=0.05), causal(1)
    distiller = on_own(student, teacher, ends=())
    assert bool(distiller(distiller.training_batch(BATCH)).loss.isfinite())


def test_the_mode_is_put_back_and_no_gradient_is_kept() -> None:
    """Draws with dropout, a student that trains without it afterwards, or memory of a graph."""
    model = causal(dropout=0.5).train()
    model.transformer.h[0].eval()
    first, second = (sample(model, prompts([3, 4]), 6, temperature=1e-4, ends=()).ids for _ in range(2))
    assert torch.equal(first, second)
    assert model.training
    assert not model.transformer.h[0].training
    assert all(parameter.grad is None for parameter in model.parameters())


# -- prompts ---------------------------------------------------------------------------------------------------------


def test_prompts_begin_documents() -> None:
    """A prompt that crosses from one packed document into the next, is padding, or is a whole text."""
    ids = torch.arange(20).view(2, 10)
    plain = Prompts.of({"input_ids": ids}, 3)
    assert plain.ids.tolist() == [[0, 1, 2], [10, 11, 12]]
    packed = {
        "input_ids": ids,
        "position_ids": torch.tensor([[0, 1, 0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 2, 3, 0, 0, 1, 0, 1, 2]]),
    }
    found = Prompts.of(packed, 3)
    assert found.ids.tolist() == [[2, 3, 4], [10, 11, 12]]
    whole = Prompts.of(packed, 9)
    assert whole.lengths.tolist() == [4, 3]
    assert [whole.ids[row, :n].tolist() for row, n in enumerate(whole.lengths)] == [[2, 3, 4, 5], [10, 11, 12]]
    mask = torch.tensor([[1] * 4 + [0] * 6, [0] * 5 + [1] * 5])
    padded = Prompts.of({"input_ids": ids, "attention_mask": mask}, 8)
    assert [padded.ids[row, :n].tolist() for row, n in enumerate(padded.lengths)] == [[0, 1, 2], [15, 16, 17, 18]]
    with pytest.raises(LimbeckError, match="1 token or more"):
        Prompts.of(packed, 0)


# -- the step --------------------------------------------------------------------------------------------------------


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    q, p = student.softmax(-1), teacher.softmax(-1)
    m = beta * p + (1 - beta) * q
    return (beta * p * (p / m).log() + (1 - beta) * q * (q / m).log()).sum(-1)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_one_step_is_an_independent_computation(beta: float) -> None:
    """Prompts that are learned, logits a token off, the wrong side of β, or a gradient through the draws."""
    student, teacher = causal(1).double(), causal(2).double().eval()
    distiller = on_own(student, teacher, objective=[Term(GeneralizedJSD(1.0, beta)), Term(Supervised(), 7.0)])
    batch = distiller.training_batch(BATCH)
    assert torch.equal(batch["input_ids"][:, :2], TEXT[:6, :2])
    found = distiller(batch)
    found.loss.backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    values = []
    for row in range(6):
        length = int(batch["attention_mask"][row].sum())
        ids = batch["input_ids"][row : row + 1, :length]
        mine, theirs = student(ids).logits[0], teacher(ids).logits[0].detach()
        values += [jsd(mine[at - 1], theirs[at - 1], beta) for at in range(2, length)]
    expected = torch.stack(values).mean()
    expected.backward()
    torch.testing.assert_close(found.loss, expected)
    assert float(found.terms["supervised"]) == 0.0
    for mine, parameter in zip(gradients, student.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_store_with_a_live_teacher_behind_it_serves(tmp_path: Path) -> None:
    """Texts of the student's looked up in the store, or the data's that are computed although they are in it."""
    student, teacher = causal(1), causal(2)
    store = label(teacher, DATA, tmp_path / "store", say=lambda _: None)
    for share in (0.0, 1.0):
        live, stored = (on_own(student, each, share=share) for each in (teacher, Stored(store, fallback=Live(teacher))))
        first, second = (distiller(distiller.training_batch(BATCH)).loss for distiller in (live, stored))
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_a_share_of_steps_is_the_student_s() -> None:
    """λ that is 1 whatever was asked for, or draws that are others on each run."""
    student, teacher = causal(1), causal(2)
    never = on_own(student, teacher, share=0.0)
    assert all(never.training_batch(BATCH) is BATCH for _ in range(20))
    some = [on_own(student, teacher, share=0.3, seed=seed) for seed in (5, 5, 6)]
    runs = [[distiller.training_batch(BATCH)["input_ids"] for _ in range(40)] for distiller in some]
    own = [[ids is not BATCH["input_ids"] for ids in run] for run in runs]
    assert 5 < sum(own[0]) < 20
    assert own[0] != own[2]
    assert own[0] == own[1]
    assert all(torch.equal(one, other) for one, other in zip(*runs[:2], strict=True))
    first, second = [ids for ids, mine in zip(runs[0], own[0], strict=True) if mine][:2]
    assert first.shape != second.shape or not torch.equal(first, second), "one draw for all steps"


def test_a_generation_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generation in every step although its sequences were to be reused, or reused ones that nobody drew."""
    calls: list[Samples] = []

    def counted(*args: Any, **options: Any) -> Samples:
        calls.append(sample(*args, **options))
        return calls[-1]

    monkeypatch.setattr(on_policy, "sample", counted)
    for size in (None, 100):
        calls.clear()
        distiller = on_own(causal(1), causal(2), reuse=3, size=size)
        batches = [distiller.training_batch(BATCH) for _ in range(7)]
        assert len(calls) == 3
        for step, batch in enumerate(batches):
            drawn = calls[step // 3 : step // 3 + 1] if size is None else calls[: step // 3 + 1]
            known = {tuple(row[: int(stop)].tolist()) for each in drawn
                     for row, stop in zip(each.ids, each.stops, strict=True)}  # fmt: skip
            lengths = batch["attention_mask"].sum(1)
            said = {tuple(row[: int(n)].tolist()) for row, n in zip(batch["input_ids"], lengths, strict=True)}
            assert said <= known
            assert len(batch["input_ids"]) == 6


def test_the_buffer_keeps_the_latest() -> None:
    """A buffer that grows for ever, forgets where prompts end, or loses a text when it is saved."""
    buffer = ReplayBuffer(3)
    buffer.add(Samples(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([1, 1]), torch.tensor([2, 3])))
    buffer.add(Samples(torch.tensor([[6, 7, 8, 9], [10, 11, 12, 0]]), torch.tensor([2, 1]), torch.tensor([4, 3])))
    assert len(buffer) == 3
    other = ReplayBuffer(3)
    other.restore(buffer.state())
    for each in (buffer, other):
        found = each.draw(3, torch.Generator().manual_seed(0))
        rows = {
            (int(prompt), *ids[: int(stop)].tolist())
            for prompt, ids, stop in zip(found.prompts, found.ids, found.stops, strict=True)
        }
        assert rows == {(1, 3, 4, 5), (2, 6, 7, 8, 9), (1, 10, 11, 12)}
    assert len(buffer.draw(7, torch.Generator()).ids) == 7
    assert len(ReplayBuffer().state()) == 0


# -- in a training ---------------------------------------------------------------------------------------------------


def trainer(folder: Path, steps: int, own: dict[str, Any] | None = None, **options: Any) -> DistillTrainer:
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-2, logging_steps=1,
        save_steps=3, report_to=[], disable_tqdm=True, seed=3, use_cpu=True, lr_scheduler_type="constant", **options,
    )  # fmt: skip
    settings = {"share": 0.8, "reuse": 2, "size": 20, "seed": 4} | (own or {})
    distiller = on_own(causal(1, dropout=0.1), causal(2), **settings)
    made: DistillTrainer = DistillTrainer(distiller, arguments, train_dataset=DATA)
    return made


def losses(made: DistillTrainer) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def test_a_resumed_training_goes_on_as_it_would_have(tmp_path: Path) -> None:
    """Draws that begin again, or a buffer that is empty, after a resume."""
    whole = trainer(tmp_path / "whole", 6)
    whole.train()
    again = trainer(tmp_path / "again", 6)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(again) == losses(whole)
    for one, other in zip(whole.model.student.parameters(), again.model.student.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.model.get_extra_state(), again.model.get_extra_state())
    assert len(set(losses(whole))) == 6
    (tmp_path / "plain").mkdir()
    plain = Distiller(causal(1, dropout=0.1), causal(2))
    other = DistillTrainer(plain, trainer(tmp_path / "plain", 6).args, train_dataset=DATA)
    other.args.max_steps = 3
    other.train()
    with pytest.raises(LimbeckError, match="the checkpoint has no '_extra_state'"):
        trainer(tmp_path / "again", 6).train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-3"))


def test_accumulated_batches_count_what_was_drawn(tmp_path: Path) -> None:
    """Tokens counted in the data's batches while those that are learned are the student's, of other lengths."""
    made = trainer(tmp_path, 1, {"share": 1.0, "reuse": 1}, gradient_accumulation_steps=2)
    student, teacher = causal(1).eval(), causal(2).eval()
    seen: list[dict[str, Tensor]] = []
    draw: Callable[[Any], Any] = made.model.training_batch

    def kept(batch: Any) -> Any:
        seen.append(draw(batch))
        return seen[-1]

    made.model.training_batch = kept
    made.model.student.transformer.drop.p = 0.0
    made.train()
    values = []
    for batch in seen:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        mine, theirs = (model(batch["input_ids"], attention_mask=mask).logits for model in (student, teacher))
        counts = (batch["labels"][:, 1:] != -100) & mask[:, 1:].bool()
        values.append(jsd(mine, theirs, 0.5)[:, :-1][counts].detach())
    assert len(seen) == 2
    assert len(values[0]) != len(values[1])
    assert losses(made)[0] == pytest.approx(float(torch.cat(values).mean()), rel=1e-4)


def test_limbeck_s_training_takes_it(tmp_path: Path) -> None:
    """An entry point that learns from the data alone, or a packed row that gives no prompt."""
    documents = ["to be or not to be", "that is the question", "whether it is nobler"] * 3
    tokenizing = Tokenizing(train_tokenizer(documents, kind="characters", vocabulary=40), 16)
    data = PackedSet(documents, tokenizing)
    distiller = on_own(
        causal(1, vocabulary=tokenizing.vocabulary), causal(2, vocabulary=tokenizing.vocabulary),
        prompt=4, new_tokens=8, share=0.5, ends=(3,),
    )  # fmt: skip
    steps: list[bool] = []
    draw = distiller.training_batch

    def watched(batch: Any) -> Any:
        made = draw(batch)
        steps.append(made is not batch)
        return made

    distiller.training_batch = watched  # type: ignore[method-assign]
    trained = train(distiller, data, config=TrainConfig(steps=8, batch_size=4, learning_rate=1e-2), folder=tmp_path)
    assert len(steps) == 8
    assert 0 < sum(steps) < 8
    assert not trained.module.training


def test_it_lowers_the_divergence_on_what_the_student_says() -> None:
    """On-policy steps that are worth no more than the data's: the same budget, the same loss, other texts."""
    teacher = causal(1)
    found = {}
    for share in (0.0, 1.0):
        student = causal(10, std=0.02)
        distiller = on_own(student, teacher, objective=[Term(ReverseKL(1.0))], share=share, reuse=2, ends=())
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            rows = TEXT[torch.randint(0, len(TEXT), (16,), generator=generator)]
            loss = distiller(distiller.training_batch({"input_ids": rows, "labels": rows})).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found[share] = own_sample_kl(student, teacher, DATA, prompt=2, new_tokens=8, ends=())
    assert found[1.0]["own_reverse_kl"] < 0.75 * found[0.0]["own_reverse_kl"]
    assert found[1.0]["own_forward_kl"] < found[0.0]["own_forward_kl"]


def test_own_sample_kl_is_a_loop_s() -> None:
    """Divergences of prompts, of padding, or of another text than the one that was drawn."""
    student, teacher = causal(1).eval(), causal(2).eval()
    found = own_sample_kl(student, teacher, DATA, prompt=2, new_tokens=9, batch_size=5, seed=3)
    generator = torch.Generator().manual_seed(3)
    forward, reverse, agree = [], [], []
    for start in range(0, len(TEXT), 5):
        drawn = sample(student, Prompts.of({"input_ids": TEXT[start : start + 5]}, 2), 9, generator=generator)
        for row, stop in enumerate(drawn.stops.tolist()):
            ids = drawn.ids[row : row + 1, :stop]
            log_q, log_p = (model(ids).logits[0, 1:-1].detach().log_softmax(-1) for model in (student, teacher))
            forward.append(F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1))
            reverse.append(F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1))
            agree.append(log_q.argmax(-1) == log_p.argmax(-1))
    assert found["own_forward_kl"] == pytest.approx(float(torch.cat(forward).mean()), rel=1e-4)
    assert found["own_reverse_kl"] == pytest.approx(float(torch.cat(reverse).mean()), rel=1e-4)
    assert found["own_agreement"] == pytest.approx(float(torch.cat(agree).double().mean()))
    assert found["own_tokens"] == len(torch.cat(agree))


# -- mistakes --------------------------------------------------------------------------------------------------------


def test_a_mistake_is_named(tmp_path: Path) -> None:
    """An index error deep in a model, or a training that learns nothing."""
    student, teacher = causal(1), causal(2)
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    store = label(teacher, DATA, tmp_path / "store", say=lambda _: None)
    for options, message in (
        ({"share": 1.5}, "OnPolicy share: expected a number from 0 to 1"),
        ({"temperature": 0.0}, "OnPolicy temperature: expected a positive number"),
        ({"prompt": 0}, "OnPolicy prompt: expected 1 or more"),
        ({"reuse": 0}, "OnPolicy reuse: expected 1 or more"),
        ({"objective": [Term(Supervised())]}, "no term uses the teacher"),
    ):
        with pytest.raises(LimbeckError, match=message):
            on_own(student, teacher, **options)
    with pytest.raises(LimbeckError, match="a label store knows no text that the student says"):
        OnPolicy(student, Stored(store), prompt=2, new_tokens=2)
    with pytest.raises(LimbeckError, match="the student, a BertForSequenceClassification, is not a causal"):
        on_own(bert, teacher)
    with pytest.raises(LimbeckError, match="BertForSequenceClassification is not a causal language model"):
        sample(bert, prompts([1]), 2)
    with pytest.raises(LimbeckError, match="are 18 together, and GPT2LMHeadModel has room for 16"):
        sample(student, prompts([1, 2]), 16)
    with pytest.raises(LimbeckError, match="1 new token or more"):
        sample(student, prompts([1, 2]), 0)


def test_a_plain_distiller_s_batch_stays(tmp_path: Path) -> None:
    """A trainer that asks every Distiller for batches of its own."""
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=1, report_to=[], disable_tqdm=True, use_cpu=True)
    distiller = Distiller(causal(1), causal(2))
    DistillTrainer(distiller, arguments, train_dataset=DATA).train()
