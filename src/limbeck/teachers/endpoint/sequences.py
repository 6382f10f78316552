"""Sequence-level labels: what an endpoint writes for each prompt, in a file that a student learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from limbeck.content import content_ids
from limbeck.errors import LimbeckError
from limbeck.files import difference, read_json, write_json, write_text
from limbeck.store import Items, LabelStore, Plan, Records, Sequences, SignalPlan, StoreWriter
from limbeck.teachers.endpoint.asking import Journal, answers
from limbeck.teachers.endpoint.client import BudgetSpent, Client
from limbeck.teachers.endpoint.settings import Budget, Endpoint
from limbeck.teachers.fingerprint import combined

FORMAT = "limbeck-texts/1"
SEQUENCES = "sequences"
"""The signal of a store of sequences."""
TEXTS = 4096
"""Texts a shard of such a store."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How an endpoint writes.

    Args:
        max_tokens: at most so many, the last of which may cut a text off.
        temperature: 0 writes the likeliest token each time.
        top_p: draws from the likeliest tokens whose mass is so much.
        seed: of the draws, where the endpoint knows one; each prompt has its own, made from this and its id.
        stop: texts at which it ends, which it leaves out.
        chat: asks `/chat/completions`, which puts the prompt into the model's own template.
        system: what stands before the prompt in a chat.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    chat: bool = False
    system: str = ""

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise LimbeckError(
                f"decoding: expected max_tokens above 0, a temperature of 0 or more and a top_p above 0 up to 1, got "
                f"{self.max_tokens}, {self.temperature} and {self.top_p}"
            )
        if self.system and not self.chat:
            raise LimbeckError("decoding: a system prompt needs chat=True; plain completions have none")


def write_by_endpoint(
    endpoint: Endpoint,
    prompts: Mapping[int, str] | Sequence[str],
    path: str | Path,
    *,
    decoding: Decoding | None = None,
    name: str = "",
    budget: Budget | None = None,
    say: Callable[[str], None] = print,
) -> Path | None:
    """Writes what the endpoint's model says to each prompt into the file `path` (.jsonl), a line a prompt.

    A line is `{"id": …, "prompt": …, "text": …, "finish": "stop" or "length"}`; lines have the order of the prompts.
    Beside it, `path` with .manifest.json says whose texts they are, how they were written, and the file's SHA-256. Each
    answer is on the disk before the next is waited for: run again after a kill, or where the budget was spent, nothing
    is asked twice. A file that is there already is compared with its manifest and asked for no more.

    Args:
        endpoint: who is asked.
        prompts: by their lasting ids, or in their order.
        decoding: how it writes.
        name: what the manifest calls the teacher; the endpoint's name for the model by default.
        budget: what may be spent in this call.
        say: is told what is asked, and what is left.

    Returns:
        The file; None where the budget was spent before all was asked.

    Raises:
        LimbeckError: the file holds other texts, or the endpoint has no such model, gives no text, or is out of reach.
    """
    path, how, client = Path(path), decoding or Decoding(), Client(endpoint, budget)
    given = dict(prompts) if isinstance(prompts, Mapping) else dict(enumerate(prompts))
    if not given:
        raise LimbeckError("write_by_endpoint: there are no prompts")
    about = {
        "format": FORMAT,
        "teacher": name or endpoint.model,
        "model": endpoint.model,
        "decoding": {key: list(each) if isinstance(each, tuple) else each for key, each in asdict(how).items()},
        "prompts": hashlib.sha256(json.dumps(list(given.items())).encode()).hexdigest(),
        "count": len(given),
    }
    if path.exists():
        said = _checked(path)
        if found := difference({key: said.get(key) for key in about}, about):
            raise LimbeckError(f"{path} holds other texts ({found}); choose another path, or delete it")
        return path
    client.check_model()
    journal = Journal(path.with_name(path.name + ".asked"), about)
    known = {int(record["id"]): record for record in journal.records}
    say(f"{len(given):,} prompts, {len(given) - len(known):,} to ask")
    bar = tqdm(total=len(given), initial=len(known), desc="asking", unit=" answers", leave=False, disable=None)
    try:
        missing = (item for item in given.items() if item[0] not in known)
        for (number, prompt), (text, finish) in answers(client, missing, lambda item: _written(client, how, *item)):
            known[number] = {"id": number, "prompt": prompt, "text": text, "finish": finish}
            journal.add(known[number])
            bar.update()
    except BudgetSpent:
        say(
            f"{path}: the budget is spent ({client.spent}) after {len(known):,} of {len(given):,} prompts; what was "
            "answered is kept: run the same command again to go on"
        )
        return None
    finally:
        bar.close()
        journal.close()
    lines = "".join(json.dumps(known[number], ensure_ascii=False) + "\n" for number in given)
    write_json(_manifest_of(path), {**about, "sha256": hashlib.sha256(lines.encode()).hexdigest()})
    write_text(path, lines)
    journal.remove()
    say(f"{len(given):,} texts with {client.spent}")
    return path


def _written(client: Client, how: Decoding, number: int, prompt: str) -> tuple[str, str]:
    """A text for a prompt, and why it ended."""
    question: dict[str, Any] = {"max_tokens": how.max_tokens, "temperature": how.temperature, "top_p": how.top_p}
    if how.temperature:
        question["seed"] = int.from_bytes(hashlib.sha256(f"{how.seed} {number}".encode()).digest()[:4]) >> 1
    if how.stop:
        question["stop"] = list(how.stop)
    if how.chat:
        system = [{"role": "system", "content": how.system}] if how.system else []
        question["messages"] = [*system, {"role": "user", "content": prompt}]
    else:
        question["prompt"] = prompt
    try:
        answer = client.ask("/chat/completions" if how.chat else "/completions", question)
    except LimbeckError as error:
        raise LimbeckError(f"prompt {number}: {error}") from None
    choices = answer.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    message = choice.get("message")
    text = message.get("content") if isinstance(message, Mapping) else choice.get("text")
    if not isinstance(text, str):
        raise LimbeckError(
            f"prompt {number}: {client.endpoint.base} answers without a text ({', '.join(choice) or 'no choices'}); it "
            "has to write one, not to call tools or to think only"
        )
    return text, str(choice.get("finish_reason") or "")


@dataclass(frozen=True, slots=True)
class Written:
    """What an endpoint wrote for a prompt, and whether it ended by itself or was cut off."""

    prompt: str
    text: str
    ended: bool


def read_written(path: str | Path) -> dict[int, Written]:
    """What `write_by_endpoint` wrote, by id.

    Raises:
        LimbeckError: the file is missing, or is not as it was written.
    """
    path = Path(path)
    _checked(path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {int(each["id"]): Written(each["prompt"], each["text"], each["finish"] == "stop") for each in lines}


def store_written(path: str | Path, folder: str | Path, tokenizer: PreTrainedTokenizerFast) -> LabelStore:
    """The label store `folder` with the texts of `path` as tokens of a student, as `limbeck.generation.generate` keeps
    those of a model that runs here: `limbeck.sequences.sequence_targets` makes a student's targets of it.

    Args:
        path: the file that `write_by_endpoint` wrote.
        folder: where the store goes; one that is there already is kept if it is of this file.
        tokenizer: the student's; a text that ended by itself gets its `eos_token` (or `sep_token`) behind it.

    Raises:
        LimbeckError: the file is not as it was written, the tokenizer has no token that ends a text, or the folder
            holds something else.
    """
    said, written = _checked(Path(path)), read_written(path)
    ends = (tokenizer.eos_token_id, tokenizer.sep_token_id)
    end = next((int(each) for each in ends if each is not None), None)
    if end is None:
        raise LimbeckError("store_written: the tokenizer has no token that ends a text; give it an eos_token")
    texts = [each.text for each in written.values()]
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    rows = [[*row, end] if each.ended else row for row, each in zip(rows, written.values(), strict=True)]
    tokens = pad_sequence([torch.tensor(row, dtype=torch.int64) for row in rows], True, -1).unsqueeze(1)
    vocabulary = max(tokenizer.get_vocab().values()) + 1
    codec = Sequences(vocabulary, {"eos_token_id": [end], "model": said["model"], **said["decoding"]})
    ids = torch.tensor(list(written))
    content = torch.cat([_content(each.prompt) for each in written.values()])
    starts = range(0, len(ids), TEXTS)
    plan = Plan(
        said["teacher"], combined(said["model"], json.dumps(said["decoding"])), None, None, 0,
        {SEQUENCES: SignalPlan("sample", (1, tokens.shape[2]), codec)},
        tuple(min(TEXTS, len(ids) - start) for start in starts), (), said["sha256"],
    )  # fmt: skip
    writer = StoreWriter(Path(folder), plan)
    writer.begin()
    if not writer.finished:
        for number in writer.missing():
            at = slice(number * TEXTS, (number + 1) * TEXTS)
            zeros = torch.zeros_like(ids[at])
            columns = codec.encode(tokens[at], Items(ids[at], zeros, zeros, zeros - 1, 0))
            writer.write(number, Records(ids[at], zeros, content[at], zeros + 1, {SEQUENCES: columns}))
        writer.finish()
    return LabelStore.open(folder)


def _content(prompt: str) -> Tensor:
    return content_ids(torch.tensor([list(prompt.encode())], dtype=torch.int64))


def _manifest_of(path: Path) -> Path:
    return path.with_name(path.name + ".manifest.json")


def _checked(path: Path) -> dict[str, Any]:
    """The manifest of a file that is as it was written."""
    if not path.exists():
        raise LimbeckError(f"{path}: no such file; write_by_endpoint makes it, once all prompts are answered")
    said = read_json(_manifest_of(path))
    if not isinstance(said, dict) or hashlib.sha256(path.read_bytes()).hexdigest() != said.get("sha256"):
        raise LimbeckError(f"{path} is not as it was written; delete it to ask again, or restore it")
    return said
