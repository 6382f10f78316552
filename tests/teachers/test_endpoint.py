"""A teacher behind an HTTP endpoint: the numbers that come back, and all that may go wrong on the way."""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.teachers.endpoint_server import Served, busy, cut, no_json, send, serving, slow
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from limbeck import Distiller, LabelStore, Stored, Term, label
from limbeck.errors import LimbeckError
from limbeck.losses import KD
from limbeck.sequences import read_sequences, sequence_targets
from limbeck.sources.texts import train_tokenizer
from limbeck.store import TopKLogits
from limbeck.teachers.endpoint import (
    Budget,
    Decoding,
    Endpoint,
    client,
    label_by_endpoint,
    labels,
    read_written,
    sequences,
    store_written,
    write_by_endpoint,
)
from limbeck.teachers.endpoint.asking import Journal
from limbeck.tokens import TokenPlan
from limbeck.types import TopK

TEXTS = ["the cat sat on the mat", "naïve café 漢字 and 🙂 again", "a", "  the\n\tcat sat again and again"]
KEY = "sk-very-secret"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS * 4, kind="bpe", vocabulary=300, lowercase=False)


@cache
def model() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer()), hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256,
    )  # fmt: skip
    made = transformers.LlamaForCausalLM(config)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


class Texts(Dataset[dict[str, Tensor]]):
    """Rows of tokens with ids of their own, padded on the right."""

    def __init__(self, texts: list[str] = TEXTS) -> None:
        self.ids = torch.arange(len(texts)) + 70
        self._rows = [torch.tensor(tokenizer()(text)["input_ids"]) for text in texts]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, at: list[int]) -> dict[str, Tensor]:
        length = max(len(self._rows[index]) for index in at)
        ids, mask = torch.zeros(2, len(at), length, dtype=torch.int64)
        for row, index in enumerate(at):
            ids[row, : len(self._rows[index])] = self._rows[index]
            mask[row, : len(self._rows[index])] = 1
        return {"input_ids": ids, "attention_mask": mask, "ids": self.ids[at]}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: rows[0] for name, rows in self.__getitems__([index]).items()}


def together(samples: Any) -> dict[str, Tensor]:
    return samples  # type: ignore[no-any-return]  # __getitems__ gives a batch


def quiet(_line: str) -> None:
    pass


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("LIMBECK_API_KEY", raising=False)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    imitation = Served(model(), tokenizer(), getattr(request, "param", "vllm"))
    with serving(imitation) as url:
        imitation.url = url  # type: ignore[attr-defined]
        yield imitation


def endpoint(served: Served, **options: Any) -> Endpoint:
    settings: dict[str, Any] = {"model": "tiny", "concurrency": 2, "timeout": 20.0} | options
    return Endpoint(served.url, **settings)  # type: ignore[attr-defined]


def asked(served: Served, path: Path, k: int = 5, **options: Any) -> LabelStore | None:
    given = options.pop("endpoint", None) or endpoint(served)
    settings = {"tokenizer": tokenizer(), "collate": together, "say": quiet} | options
    return label_by_endpoint(given, settings.pop("data", None) or Texts(), path, k=k, **settings)


def answered(store: LabelStore) -> TopK:
    """What a store says of every token of all texts that has a next one."""
    batch = Texts().__getitems__(list(range(len(TEXTS))))
    target = Stored(store)(batch).targets["logits"]
    assert isinstance(target, TopK)
    assert len(target.ids) == len(TokenPlan(batch, causal=True).where("logits"))
    return target


# -- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("served", ["vllm", "echo", "strings", "llama.cpp"], indirect=True)
def test_labels_are_those_of_the_model(served: Served, tmp_path: Path) -> None:
    """A distribution taken one token early or late, a tail that is not there, or ids of another vocabulary, in any of
    the forms that endpoints answer in; a store that the codec reads otherwise than it was written."""
    there = asked(served, tmp_path / "asked")
    assert there is not None
    here = label(
        model(), Texts(), tmp_path / "here", signals={"logits": TopKLogits(5)}, collate=together, say=quiet
    )  # fmt: skip
    got, expected = answered(there), answered(here)
    if served.dialect == "strings":
        # Half of a character has no name, so its probability is in the tail.
        kept = expected.log_probs.isfinite() & torch.tensor(
            [[_has_name(i) for i in row] for row in expected.ids.tolist()]
        )
        assert 0 < int(kept.sum()) < kept.numel()
        for mine, theirs, named, row in zip(got.ids, expected.ids, kept, range(len(kept)), strict=True):
            at = {int(i): float(value) for i, value in zip(mine, got.log_probs[row], strict=True)}
            for index, value in zip(theirs[named].tolist(), expected.log_probs[row][named].tolist(), strict=True):
                assert at[index] == pytest.approx(value, abs=2e-3)
    else:
        assert torch.equal(got.ids, expected.ids)
        torch.testing.assert_close(got.log_probs, expected.log_probs, rtol=0, atol=1.01 / 1024)
        torch.testing.assert_close(got.log_tail, expected.log_tail, rtol=0, atol=1.01 / 1024)
    mass = got.log_probs.exp().sum(1) + got.log_tail.exp()
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=0, atol=5e-3)
    if served.dialect == "llama.cpp":
        tokens = sum(len(row) for row in Texts()._rows)
        assert len(served.asked) == 1 + tokens - len(TEXTS)  # the form was found out with the first
    else:
        assert len(served.asked) == len(TEXTS) + (served.dialect != "vllm")
    truly = there.statistics("logits", torch.arange(there.manifest.items))["label"]
    own = here.statistics("logits", torch.arange(here.manifest.items))["label"]
    known = ~truly.isnan()
    torch.testing.assert_close(truly[known], own[known], rtol=2e-3, atol=2e-3)
    if served.dialect in ("vllm", "echo"):
        assert torch.equal(known, ~own.isnan())


def _has_name(index: int) -> bool:
    return "\ufffd" not in tokenizer().decode([index])


def test_a_student_learns_from_it(served: Served, tmp_path: Path) -> None:
    """A store of an endpoint that no run can use, or that teaches something else than the model's own."""
    store = asked(served, tmp_path / "asked", k=20)
    assert store is not None
    torch.manual_seed(1)
    student = transformers.LlamaForCausalLM(model().config)
    here = label(model(), Texts(), tmp_path / "here", signals={"logits": TopKLogits(20)}, collate=together, say=quiet)
    batch = Texts().__getitems__([0, 1, 3])
    losses = [Distiller(student, Stored(each), [Term(KD(1.0))])(batch).loss.item() for each in (store, here)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    columns = [each._shards[0].columns for each in (store, here)]
    assert {name: tensor.dtype for name, tensor in columns[0].items()} == {
        name: tensor.dtype for name, tensor in columns[1].items()
    }


def test_an_endpoint_that_names_fewer(served: Served, tmp_path: Path) -> None:
    """A server's limit on log-probabilities: rows that are filled with tokens that it never named."""
    plain = served.answer

    def capped(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return plain(path, body | {"logprobs": 3, "prompt_logprobs": 3})

    served.answer = capped  # type: ignore[method-assign]
    store = asked(served, tmp_path / "asked", k=200)
    assert store is not None
    codec = store.signals["logits"].codec
    assert isinstance(codec, TopKLogits)
    assert codec.k in (3, 4)  # three, and the real token where it is none of them
    torch.testing.assert_close(answered(store).log_probs[:, :3].isfinite().all(), torch.tensor(True))


def test_padding_of_the_model_s_vocabulary_is_no_other_tokenizer(served: Served, tmp_path: Path) -> None:
    """Rows that a model has beyond its tokenizer, as Qwen's 271, taken for tokens, or for another tokenizer."""
    more = len(tokenizer()) + 60

    def padded(answer: dict[str, Any]) -> None:
        for entries in answer["choices"][0]["prompt_logprobs"][1:]:
            entries[str(more)] = {"logprob": -9999.0, "rank": 7, "decoded_token": None}

    served.change = padded
    store = asked(served, tmp_path / "asked", k=len(tokenizer()))
    assert store is not None
    assert int(answered(store).ids.max()) < len(tokenizer())


# -- who is refused -----------------------------------------------------------------------------------------------


def spoil(served: Served, change: Any) -> None:
    served.change = change


@pytest.mark.parametrize("served", ["vllm", "llama.cpp", "echo", "strings"], indirect=True)
def test_another_tokenizer_is_refused(served: Served, tmp_path: Path) -> None:
    """Top-k labels by the numbers of another vocabulary."""
    other = train_tokenizer([text[::-1] for text in TEXTS] * 4, kind="bpe", vocabulary=300, lowercase=False)
    if served.dialect == "echo":
        spoil(served, lambda answer: answer["choices"][0].update(_shifted(answer["choices"][0])))
    else:
        served.tokenizer = other
    with pytest.raises(LimbeckError, match=r"its tokenizer is not the student's .*\(sequence-level\)"):
        asked(served, tmp_path / "asked")
    assert not (tmp_path / "asked").exists()


def _shifted(choice: dict[str, Any]) -> dict[str, Any]:
    """As of a server that tokenises the prompt again, in its own way."""
    logprobs = choice["logprobs"]
    return {"logprobs": logprobs | {"tokens": [f"token_id:{(int(t[9:]) + 1) % 250}" for t in logprobs["tokens"]]}}


def test_a_prompt_that_comes_back_longer_is_refused(served: Served, tmp_path: Path) -> None:
    """A server that puts a token before every prompt, so that all distributions are one token off."""
    spoil(served, lambda answer: answer["choices"][0]["prompt_logprobs"].insert(0, None))
    with pytest.raises(LimbeckError, match=r"of \d+ tokens that were sent it speaks of \d+"):
        asked(served, tmp_path / "asked")


@pytest.mark.parametrize("served", ["silent"], indirect=True)
def test_without_probabilities_only_texts_are_offered(served: Served, tmp_path: Path) -> None:
    """An endpoint that writes texts only: an index error, or empty labels."""
    with pytest.raises(LimbeckError, match=r"no log-probabilities .*ask for the texts that it writes instead"):
        asked(served, tmp_path / "asked")


@pytest.mark.parametrize("served", ["llama.cpp"], indirect=True)
def test_probabilities_after_sampling_are_refused(served: Served, tmp_path: Path) -> None:
    """Probabilities after top-k and temperature taken for the model's, as old llama.cpp gives them; or any numbers that
    are none of a softmax."""

    def sampled(answer: dict[str, Any]) -> None:
        content = answer["choices"][0]["logprobs"]["content"]
        content[0]["top_probs"] = content[0].pop("top_logprobs")

    spoil(served, sampled)
    with pytest.raises(LimbeckError, match="as they are after sampling"):
        asked(served, tmp_path / "asked")

    def too_much(answer: dict[str, Any]) -> None:
        for each in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
            each["logprob"] = -0.1

    spoil(served, too_much)
    with pytest.raises(LimbeckError, match=r"add up to 4.5\d+, so they are not those of a softmax"):
        asked(served, tmp_path / "asked")
    spoil(served, lambda answer: answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0].pop("logprob"))
    with pytest.raises(LimbeckError, match="expected a log-probability, a number up to 0, got None"):
        asked(served, tmp_path / "asked")


def test_what_cannot_be_asked_is_named(served: Served, tmp_path: Path) -> None:
    """Packed documents read as one text; a text without a token; a k of 0."""

    def packed(_samples: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.ones(1, 6, dtype=torch.int64), "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}

    with pytest.raises(LimbeckError, match="give the documents unpacked"):
        asked(served, tmp_path / "asked", collate=packed)
    with pytest.raises(LimbeckError, match=r"expected texts \(`input_ids`\), the batch has inputs"):
        asked(served, tmp_path / "asked", collate=lambda _: {"inputs": torch.ones(1, 2)})

    def empty(batch: Any) -> dict[str, Tensor]:
        return {**batch, "attention_mask": torch.zeros_like(batch["attention_mask"])}

    with pytest.raises(LimbeckError, match="text 70 has no token"):
        asked(served, tmp_path / "asked", collate=empty)
    with pytest.raises(LimbeckError, match="a k of at least 1, got 0"):
        asked(served, tmp_path / "asked", k=0)
    assert served.asked == []


# -- the way there ------------------------------------------------------------------------------------------------


def texts(served: Served, path: Path, prompts: Any = None, **options: Any) -> Path | None:
    given = options.pop("endpoint", None) or endpoint(served)
    return write_by_endpoint(given, prompts or {5: "one", 3: "two", 9: "three"}, path, **({"say": quiet} | options))


FAULTS = {
    "429": [busy(429)],
    "500 twice": [busy(500), busy(500)],
    "503": [busy(503)],
    "cut": [cut],
    "no JSON": [no_json],
    "slow": [slow(3.0)],
}


LATE = dict.fromkeys(FAULTS, 20.0) | {"slow": 1.0}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_passes_is_asked_again(served: Served, tmp_path: Path, kind: str) -> None:
    """A run that ends because its endpoint was busy for a moment, or lost an answer."""
    served.faults = list(FAULTS[kind])
    path = texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, timeout=LATE[kind], concurrency=1))
    assert path is not None
    assert len(served.asked) == 3 + len(FAULTS[kind])
    assert len(path.read_text().splitlines()) == 3


def test_it_waits_as_long_as_it_is_asked_to(served: Served, tmp_path: Path) -> None:
    """An endpoint that is asked again at once, against its word, and turns everyone away."""
    served.faults = [busy(429, "0.4")]
    texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, concurrency=1))
    assert served.times[1] - served.times[0] >= 0.4
    served.faults = [busy(503, "Fri, 31 Dec 2099 23:59:59 GMT")]
    with pytest.raises(LimbeckError, match=r"503 .*: too many \(asked once, and asks to wait [\d,]+ seconds\)"):
        texts(served, tmp_path / "other.jsonl", endpoint=endpoint(served, concurrency=1))


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (busy(500), "500 Internal Server Error: too many"),
        (cut, "the connection failed"),
        (no_json, r"the answer is no JSON \('<html>it works</html>'\)"),
        (slow(3.0), "no answer for 1 seconds"),
    ],
    ids=["500", "cut", "no JSON", "slow"],
)
def test_what_does_not_pass_is_named(served: Served, tmp_path: Path, fault: Any, says: str) -> None:
    """An endpoint that is asked for ever, or an error without the endpoint's words. What was answered is kept."""
    served.faults = [lambda handler: send(handler, served.answer("/completions", {"prompt": "x"})), fault, fault]
    once = endpoint(served, timeout=1.0 if "no answer" in says else 20.0, concurrency=1, attempts=2)
    with pytest.raises(
        LimbeckError, match=says + r".*\(asked 2 times\); see that it runs, and run the same command again"
    ):
        texts(served, tmp_path / "texts.jsonl", endpoint=once)
    assert texts(served, tmp_path / "texts.jsonl", endpoint=once) is not None
    assert [body["prompt"] for body in served.asked] == ["one", "two", "two", "two", "three"]


def test_out_of_reach(tmp_path: Path) -> None:
    """A connection that nobody takes: a traceback from the depths of a library."""
    nobody = Endpoint("http://127.0.0.1:9/v1", "tiny", attempts=2)
    with pytest.raises(LimbeckError, match=r"http://127.0.0.1:9/v1/models: the connection failed .*Connection refused"):
        write_by_endpoint(nobody, ["one"], tmp_path / "texts.jsonl", say=quiet)


def test_the_key_stays_where_it_is(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A key in a file, a log, or a message that repeats what the endpoint said."""
    monkeypatch.setenv("LIMBECK_API_KEY", KEY)
    said: list[str] = []
    served.faults = [busy(500), lambda handler: send(handler, {"detail": f"bad {KEY}"}, 503)]
    with caplog.at_level(logging.DEBUG):
        assert texts(served, tmp_path / "texts.jsonl", say=said.append) is not None
        assert asked(served, tmp_path / "asked", say=said.append) is not None
        served.faults = [lambda handler: send(handler, {"error": {"message": f"Incorrect API key: {KEY}"}}, 401)]
        with pytest.raises(
            LimbeckError, match=r"Incorrect API key: …; the key in .* LIMBECK_API_KEY is not the one"
        ) as got:
            texts(served, tmp_path / "other.jsonl", endpoint=endpoint(served, concurrency=1))
    assert all(each["Authorization"] == f"Bearer {KEY}" for each in served.headers)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    for text in (str(got.value), caplog.text, *said, *(each.decode("latin") for each in files)):
        assert KEY not in text


def test_refusals_are_not_repeated(served: Served, tmp_path: Path) -> None:
    """A wrong key, url or model asked for again and again; an error that does not say what to do."""
    alone = endpoint(served, concurrency=1)
    for status, says in ((401, "there is no key in the environment variable LIMBECK_API_KEY"), (404, "ends in /v1")):
        served.faults = [busy(status)]
        with pytest.raises(LimbeckError, match=rf"prompt 5: .*/v1/completions: {status} .*: too many; .*{says}"):
            texts(served, tmp_path / "texts.jsonl", endpoint=alone)
    assert len(served.asked) == 2
    served.models = ["tiny-7b", "large"]
    with pytest.raises(LimbeckError, match=r"/v1 has no model 'tiny'; did you mean 'tiny-7b'\?"):
        texts(served, tmp_path / "texts.jsonl")
    with pytest.raises(LimbeckError, match=r"has no model 'tiny'; did you mean"):
        asked(served, tmp_path / "asked")
    assert len(served.asked) == 2
    served.models = []
    with pytest.raises(LimbeckError, match="404 Not Found: The model `other` does not exist"):
        texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, model="other"))


def test_nothing_is_sent_elsewhere(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key sent along to where a server redirects, or a question for this machine to a proxy."""
    monkeypatch.setenv("LIMBECK_API_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    served.faults = [lambda handler: send(handler, {}, 302, Location="http://127.0.0.1:9/else")]
    with pytest.raises(LimbeckError, match=r"302 .*sends elsewhere \(http://127.0.0.1:9/else\), which is not followed"):
        texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, concurrency=1))


def test_an_answer_without_a_text_is_named(served: Served, tmp_path: Path) -> None:
    """A call of a tool, or a thought without an answer, written down as the text `None`."""
    spoil(served, lambda answer: answer["choices"][0].update(text=None))
    with pytest.raises(LimbeckError, match=r"prompt 5: http.* answers without a text \(index, text, finish_reason\)"):
        texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, concurrency=1))
    served.faults = [lambda handler: send(handler, [1])]
    with pytest.raises(LimbeckError, match=r"expected a JSON object, got '\[1\]'"):
        texts(served, tmp_path / "texts.jsonl", endpoint=endpoint(served, concurrency=1))


def test_several_are_asked_at_once(served: Served, tmp_path: Path) -> None:
    """One question at a time, or more than the endpoint can bear."""
    served.slowness = 0.05
    path = texts(served, tmp_path / "t.jsonl", [f"p{i}" for i in range(12)], endpoint=endpoint(served, concurrency=4))
    assert 2 <= served.most_under_way <= 4
    assert path is not None
    assert [json.loads(line)["prompt"] for line in path.read_text().splitlines()] == [f"p{i}" for i in range(12)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint-") and _lives(thread)]


def _lives(thread: threading.Thread) -> bool:
    thread.join(2.0)
    return thread.is_alive()


# -- budgets, kills and what goes on ------------------------------------------------------------------------------


def test_a_budget_of_requests(served: Served, tmp_path: Path) -> None:
    """More requests than were allowed, those sent again not counted; answers lost or asked again when it goes on."""
    said: list[str] = []
    served.faults = [busy(500)]
    prompts = [f"p{i}" for i in range(6)]
    path = tmp_path / "texts.jsonl"
    assert texts(served, path, prompts, budget=Budget(requests=4), say=said.append) is None
    assert len(served.asked) == 4
    assert not path.exists()
    assert "the budget is spent (4 requests and 15 tokens) after 3 of 6 prompts" in said[-1]
    assert "run the same command again to go on" in said[-1]
    assert texts(served, path, prompts, say=said.append) is not None
    assert "6 prompts, 3 to ask" in said
    assert len(served.asked) == 7
    counts = Counter(body["prompt"] for body in served.asked)
    assert sorted(counts.values()) == [1, 1, 1, 1, 1, 2]  # twice where it was busy
    assert sorted(path.parent.iterdir()) == [path, path.with_name("texts.jsonl.manifest.json")]


def test_a_budget_of_tokens(served: Served, tmp_path: Path) -> None:
    """Tokens that nobody counts, as where the endpoint does not say how many they were."""
    alone = endpoint(served, concurrency=1)
    assert texts(served, tmp_path / "texts.jsonl", budget=Budget(tokens=6), endpoint=alone) is None
    assert len(served.asked) == 2  # 5 tokens each: after the second it is spent
    served.usage = False
    with pytest.raises(LimbeckError, match="does not say how many tokens an answer costs"):
        texts(served, tmp_path / "texts.jsonl", budget=Budget(tokens=60), endpoint=alone)
    with pytest.raises(LimbeckError, match="budget: tokens must be above 0, got 0"):
        Budget(tokens=0)


@pytest.mark.parametrize("served", ["vllm", "llama.cpp"], indirect=True)
def test_labelling_goes_on(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question that is asked twice after a kill or a spent budget, whichever line of the journal it cut off; labels
    that are others than those of one go."""
    monkeypatch.setattr(labels, "TEXTS", 2)
    path, said = tmp_path / "asked", []
    alone = endpoint(served, concurrency=1)
    whole = asked(served, tmp_path / "whole", endpoint=alone)
    first = [json.dumps(body, sort_keys=True) for body in served.asked]
    served.asked.clear()

    add, count = Journal.add, 0

    def killed(journal: Journal, record: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        if count == 3:
            journal._file.write(json.dumps(record).encode()[:20])
            journal._file.flush()
            raise KeyboardInterrupt
        add(journal, record)

    monkeypatch.setattr(Journal, "add", killed)
    with pytest.raises(KeyboardInterrupt):
        asked(served, path, endpoint=alone)
    monkeypatch.setattr(Journal, "add", add)
    before = len(served.asked)
    assert asked(served, path, endpoint=alone, budget=Budget(requests=1), say=said.append) is None
    assert len(served.asked) == before + 1
    assert "not all texts are labelled" in said[-1]
    with pytest.raises(LimbeckError, match="was begun with k=5, and now 7 is asked for"):
        asked(served, path, k=7)
    with pytest.raises(LimbeckError, match="labelling was not finished"):
        LabelStore.open(path)
    store = asked(served, path, endpoint=alone)
    again = Counter(json.dumps(body, sort_keys=True) for body in served.asked)
    # The answer of the line that was cut off is all that is lost; the form is found out once.
    assert sorted((again - Counter(first)).values()) == [1]
    assert not Counter(first) - again
    assert store is not None
    assert whole is not None
    for one, other in zip(sorted((tmp_path / "whole").iterdir()), sorted(path.iterdir()), strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()
    done = len(served.asked)
    assert asked(served, path, endpoint=alone) is not None
    assert len(served.asked) == done


def test_a_shard_that_is_corrupt_is_asked_for_again(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole data set paid for once more because a file of it broke."""
    monkeypatch.setattr(labels, "TEXTS", 1)
    path = tmp_path / "asked"
    asked(served, path)
    shard = path / "labels-00001.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-4] + b"oops")
    served.asked.clear()
    said: list[str] = []
    assert asked(served, path, say=said.append) is not None
    assert said[0].startswith("made again: ")
    assert shard.read_bytes() == good
    assert len(served.asked) == 2  # the form, and the text
    with pytest.raises(LimbeckError, match=r"holds labels of another plan \(data"):
        asked(served, path, data=Texts(TEXTS[:2] + TEXTS[2:][::-1]))
    with pytest.raises(LimbeckError, match=r"holds labels of another plan \(teacher"):
        asked(served, path, name="another")


def test_texts_go_on_and_are_kept(served: Served, tmp_path: Path) -> None:
    """Texts of other prompts, or written in another way, taken for these; a line that a kill cut off."""
    path = tmp_path / "texts.jsonl"
    alone = endpoint(served, concurrency=1)
    assert texts(served, path, budget=Budget(requests=2), endpoint=alone) is None
    journal = tmp_path / "texts.jsonl.asked"
    journal.write_bytes(journal.read_bytes() + b'{"id": 9, "prom')
    with pytest.raises(
        LimbeckError, match=r"holds answers to other questions \(decoding.max_tokens: 256 there, 9 now\)"
    ):
        texts(served, path, decoding=Decoding(max_tokens=9), endpoint=alone)
    assert texts(served, path, endpoint=alone) == path
    assert [body["prompt"] for body in served.asked] == ["one", "two", "three"]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0] == {"id": 5, "prompt": "one", "text": " after one", "finish": "length"}
    assert [line["id"] for line in lines] == [5, 3, 9]
    assert texts(served, path) == path
    assert len(served.asked) == 3
    with pytest.raises(LimbeckError, match=r"holds other texts \(prompts"):
        texts(served, path, {5: "one"})
    path.write_text(path.read_text().replace("after", "before"))
    with pytest.raises(LimbeckError, match="is not as it was written"):
        texts(served, path)
    broken = tmp_path / "other.jsonl.asked"
    broken.write_bytes(b'{"a": 1}\nno\n')
    with pytest.raises(LimbeckError, match=r"a line is broken \(b'no'\); delete the file to ask again"):
        Journal(broken, {"a": 1})


def test_chats(served: Served, tmp_path: Path) -> None:
    """A prompt sent as it is to a model that wants its template; draws that are the same for every prompt."""
    how = Decoding(chat=True, system="Be brief.", temperature=0.7, top_p=0.9, max_tokens=8, stop=("\n",), seed=3)
    path = texts(served, tmp_path / "texts.jsonl", decoding=how)
    assert path is not None
    assert json.loads(path.read_text().splitlines()[0])["text"] == "[one] of 2"
    body = next(body for body in served.asked if body["messages"][-1]["content"] == "one")
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    kept = {name: body[name] for name in ("model", "max_tokens", "temperature", "top_p", "stop")}
    assert kept == {"model": "tiny", "max_tokens": 8, "temperature": 0.7, "top_p": 0.9, "stop": ["\n"]}
    assert len({body["seed"] for body in served.asked}) == 3
    with pytest.raises(LimbeckError, match="a system prompt needs chat=True"):
        Decoding(system="Be brief.")
    with pytest.raises(LimbeckError, match="a top_p above 0 up to 1"):
        Decoding(top_p=0.0)
    with pytest.raises(LimbeckError, match="there are no prompts"):
        write_by_endpoint(endpoint(served), [], tmp_path / "none.jsonl")


def test_texts_become_targets(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that limbeck's own generation keeps in another form; one that was cut off learned as if it had ended."""
    monkeypatch.setattr(sequences, "TEXTS", 2)
    path = tmp_path / "texts.jsonl"
    said = {"one": ("the cat 漢", "stop"), "two": ("the mat", "length"), "three": ("", "stop")}

    def answer(_path: str, body: dict[str, Any]) -> dict[str, Any]:
        text, finish = said[body["prompt"]]
        return {"choices": [{"text": text, "finish_reason": finish}]}

    served.answer = answer  # type: ignore[method-assign]
    texts(served, path)
    assert {number: each.ended for number, each in read_written(path).items()} == {5: True, 3: False, 9: True}
    store = store_written(path, tmp_path / "store", tokenizer())
    found = read_sequences(store)
    assert {number: tokenizer().decode(own[0].tokens) for number, own in found.items()} == {
        5: "the cat 漢", 3: "the mat", 9: "",
    }  # fmt: skip
    assert sequence_targets(store) == {5: tokenizer()("the cat 漢", add_special_tokens=False)["input_ids"], 9: []}
    assert store_written(path, tmp_path / "store", tokenizer()).verify() == []
    said["two"] = ("the cat", "length")
    texts(served, tmp_path / "other.jsonl")
    with pytest.raises(LimbeckError, match="holds labels of another plan"):
        store_written(tmp_path / "other.jsonl", tmp_path / "store", tokenizer())
    endless = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer)
    with pytest.raises(LimbeckError, match="has no token that ends a text"):
        store_written(path, tmp_path / "more", endless)
    with pytest.raises(LimbeckError, match="once all prompts are answered"):
        read_written(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("localhost:8000", "expected a url such as"),
        ("ftp://host/v1", "expected a url such as"),
        ("http://me:secret@host/v1", "must have no user, password or query"),
        ("http://host/v1?key=secret", "must have no user, password or query"),
    ],
)
def test_urls(url: str, says: str) -> None:
    """A password in a url, which ends in a log; a url that is none."""
    with pytest.raises(LimbeckError, match=says) as got:
        Endpoint(url, "tiny")
    assert "secret" not in str(got.value)
    assert Endpoint("http://localhost:8000/", "tiny").base == "http://localhost:8000/v1"
    assert Endpoint("https://host/api/v1/", "tiny").base == "https://host/api/v1"
    with pytest.raises(LimbeckError, match="must be above 0, got 0, 8 and 8"):
        Endpoint("http://localhost:8000", "tiny", timeout=0)
