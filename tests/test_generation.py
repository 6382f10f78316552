"""limbeck.generation: what models write, one text at a time or many, killed, shared, asked for twice."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tests.generation_worker import ENDS, Texts, drawn, translator
from torch import Tensor

from limbeck import LabelStore
from limbeck.errors import LimbeckError
from limbeck.generation import generate
from limbeck.sequences import read_sequences

WORKER = Path(__file__).parent / "generation_worker.py"


def quiet(_line: str) -> None:
    pass


def causal() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=ENDS,
    )  # fmt: skip
    return drawn(transformers.LlamaForCausalLM(config), 0)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=ENDS, tie_word_embeddings=False,
    )  # fmt: skip
    return drawn(transformers.T5ForConditionalGeneration(config), 1)


MODELS = {"bart": translator, "t5": t5, "causal": causal}


def alone(model: Any, row: Tensor, beams: int, most: int, **options: Any) -> Any:
    """What transformers writes of one text without a neighbour or padding."""
    return model.eval().generate(
        input_ids=row[None], attention_mask=torch.ones_like(row)[None], num_beams=beams, do_sample=False,
        max_new_tokens=most, **options,
    )  # fmt: skip


def cut(tokens: list[int]) -> list[int]:
    return tokens[: next((place for place, token in enumerate(tokens) if token in ENDS), None)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("beams", "side"), [(1, "right"), (4, "right"), (2, "left")])
def test_batched_is_what_is_written_alone(name: str, beams: int, side: str) -> None:
    """Padding that a prompt goes on from, results in the order of lengths, ends that run on, starts that stay."""
    model, data = MODELS[name](), Texts(14)
    model.train()
    if side == "left":
        plain = data.__getitems__

        def left(at: list[int]) -> dict[str, Tensor]:
            batch = plain(at)
            order = batch["attention_mask"].argsort(dim=1, stable=True)
            return batch | {key: batch[key].gather(1, order) for key in ("input_ids", "attention_mask")}

        data.__getitems__ = left  # type: ignore[method-assign]
    penalty = {"length_penalty": 0.6} if beams > 1 else {}
    found = generate(model, data, beams=beams, max_new_tokens=7, batch_tokens=25, say=quiet, **penalty)
    assert model.training
    expected = []
    for row in data.rows:
        whole = alone(model, row, beams, 7, **penalty)[0].tolist()
        expected.append(cut(whole[len(row) if name == "causal" else 1 :]))
    assert found == expected
    assert len({len(tokens) for tokens in found}) > 1


@pytest.mark.parametrize("name", MODELS)
def test_all_beams_and_their_scores(name: str) -> None:
    """Scores of other beams, without the end or the length, or of the search's padding."""
    model, data = MODELS[name](), Texts(10)
    found = generate(
        model, data, beams=3, max_new_tokens=6, length_penalty=0.7, batch_tokens=20, return_all_beams=True,
        scores=True, say=quiet,
    )  # fmt: skip
    for row, own in zip(data.rows, found, strict=True):
        given = alone(model, row, 3, 6, length_penalty=0.7, num_return_sequences=3, return_dict_in_generate=True,
                      output_scores=True)  # fmt: skip
        rows = given.sequences[:, len(row) if name == "causal" else 1 :].tolist()
        assert [one.tokens for one in own] == [cut(each) for each in rows]
        assert [one.ended for one in own] == [bool({*ENDS} & {*each}) for each in rows]
        assert [one.score for one in own] == pytest.approx(given.sequences_scores.tolist(), abs=1e-5)
    plain = generate(model, data, beams=3, max_new_tokens=6, length_penalty=0.7, return_all_beams=True, say=quiet)
    assert [[one.tokens for one in own] for own in plain] == [[one.tokens for one in own] for own in found]
    assert all(math.isnan(one.score) for own in plain for one in own)
    greedy = generate(model, data, max_new_tokens=6, length_penalty=0.0, return_all_beams=True, scores=True, say=quiet)
    row, (one,) = data.rows[0], greedy[0]
    given = alone(model, row, 1, 6, return_dict_in_generate=True, output_scores=True)
    steps = model.compute_transition_scores(given.sequences, given.scores, normalize_logits=True)[0]
    assert one.score == pytest.approx(float(steps[: len(one.tokens) + one.ended].sum()), abs=1e-5)


def test_texts_of_no_tokens_and_of_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    """NaN from a text of padding that spoils its neighbours; texts that are cut off without a word."""
    model, data = translator(), Texts(12)
    data.rows[3] = torch.zeros(1, dtype=torch.int64)
    found = generate(model, data, beams=2, max_new_tokens=3, return_all_beams=True, scores=True)
    assert [(one.tokens, one.score, one.ended) for one in found[3]] == [([], 0.0, False)]
    cut_off = sum(not own[0].ended for own in found) - 1
    assert 0 < cut_off < 11
    assert f"generating: {cut_off} of 12 texts were cut off at 3 tokens" in capsys.readouterr().out
    assert all(len(own[0].tokens) == 3 for own in found if own[0].tokens and not own[0].ended)


def test_settings_of_the_model_itself_hold(caplog: pytest.LogCaptureFixture) -> None:
    """A model that repeats itself, or writes into another language, for lack of its own settings."""
    model, data = translator(), Texts(6)
    model.generation_config.forced_bos_token_id = 8
    model.generation_config.num_beams = 5
    model.generation_config.max_length = 11
    found = generate(model, data, max_new_tokens=6, say=quiet)
    assert not caplog.messages
    for row, tokens in zip(data.rows, found, strict=True):
        assert tokens[0] == 8
        assert tokens == cut(alone(model, row, 1, 6)[0, 1:].tolist())
    assert model.generation_config.num_beams == 5
    assert model.generation_config.max_length == 11
    assert generate(torch.nn.DataParallel(model), data, max_new_tokens=6, say=quiet) == found


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("every", [False, True])
def test_a_cache_gives_what_was_written(tmp_path: Path, every: bool) -> None:
    """Tokens of another sample or beam, a finished folder that is written again, a model that is run again."""
    model, data, lines = translator(), Texts(30), []
    options: dict[str, Any] = {
        "beams": 3,
        "max_new_tokens": 6,
        "batch_tokens": 30,
        "return_all_beams": every,
        "scores": True,
    }
    plain = generate(model, data, **options, say=quiet)
    kept = generate(model, data, **options, cache=tmp_path / "cache", say=lines.append)
    if every:
        assert [[one._replace(score=0.0) for one in own] for own in kept] == [
            [one._replace(score=0.0) for one in own] for own in plain
        ]
        scores = [[one.score for own in found for one in own] for found in (kept, plain)]
        assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    else:
        assert kept == plain
    assert "30 samples at" in lines[0]
    before = files(tmp_path / "cache")
    ran = []
    model.get_encoder().register_forward_hook(lambda *_: ran.append(1))
    assert generate(model, data, **options, cache=tmp_path / "cache", say=quiet) == kept
    assert not ran
    assert files(tmp_path / "cache") == before
    assert len(read_sequences(tmp_path / "cache")[1000]) == (3 if every else 1)
    store = LabelStore.open(tmp_path / "cache")
    assert store.manifest.plan.teacher == "BartForConditionalGeneration"
    shard = tmp_path / "cache" / "labels-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    assert generate(model, data, **options, cache=tmp_path / "cache", say=lines.append) == kept
    assert any(line.startswith("made again: ") and "is corrupt" in line for line in lines)
    assert files(tmp_path / "cache") == before


def test_a_cache_of_another_plan(tmp_path: Path) -> None:
    """Translations of another model, of other texts or by another search, taken for those that were asked for."""
    model, data = translator(), Texts(12)
    options: dict[str, Any] = {"beams": 2, "max_new_tokens": 6, "cache": tmp_path / "cache", "say": quiet}
    generate(model, data, **options)
    other = Texts(12)
    other.rows[4] = other.rows[4] + 1
    forced = translator()
    forced.generation_config.no_repeat_ngram_size = 2
    for changed, message in (
        ({"model": translator(2)}, r"weights: '[0-9a-f]+… there"),
        ({"dataset": other}, "data: '"),
        ({"beams": 3}, r"signals\.sequences\.settings\.num_beams: 2 there, 3 now"),
        ({"length_penalty": 0.5}, r"signals\.sequences\.settings\.length_penalty: .* there, 0\.5 now"),
        ({"max_new_tokens": 5}, r"signals\.sequences\.(shape|settings)"),
        ({"return_all_beams": True}, r"signals\.sequences\.(shape|settings)"),
        ({"batch_tokens": 9}, "shards: "),
        ({"model": forced}, r"signals\.sequences\.settings\.no_repeat_ngram_size: None there, 2 now"),
    ):
        given: dict[str, Any] = {"model": model, "dataset": data, **options, **changed}
        with pytest.raises(LimbeckError, match=rf"holds labels of another plan \({message}"):
            generate(given.pop("model"), given.pop("dataset"), **given)


def test_killed_and_gone_on_with(tmp_path: Path) -> None:
    """Half a batch taken for whole, batches that are made twice, a resumed cache that differs from a whole one."""
    options: dict[str, Any] = {"beams": 2, "max_new_tokens": 8, "batch_tokens": 30, "say": quiet}
    wanted = generate(translator(), Texts(), cache=tmp_path / "whole", **options)
    batches, runs = len(LabelStore.open(tmp_path / "whole").manifest.files), []

    def dies(*_: object) -> None:
        runs.append(1)
        if len(runs) in (3, 9):
            raise KeyboardInterrupt

    model = translator()
    model.get_encoder().register_forward_hook(dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            generate(model, Texts(), cache=tmp_path / "killed", **options)
        assert model.training
        assert not (tmp_path / "killed" / "manifest.json").exists()
    with pytest.raises(LimbeckError, match="labelling was not finished"):
        read_sequences(tmp_path / "killed")
    assert generate(model, Texts(), cache=tmp_path / "killed", **options) == wanted
    assert len(runs) == batches + 2
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """Processes that all do everything, or that each know their own half alone."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(WORKER.parent.parent),
    }  # fmt: skip
    command = [*launcher, str(WORKER), str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()[-4000:]
    wanted = generate(translator(), Texts(), beams=2, max_new_tokens=8, batch_tokens=30, say=quiet)
    said = [json.loads((tmp_path / f"cache-{rank}.json").read_text()) for rank in range(2)]
    for own in said:
        assert own["stored"] == own["kept"] == wanted
    for way in ("saw_stored", "saw_kept"):
        assert sum(own[way] for own in said) == 60
        assert min(own[way] for own in said) >= 20


def test_what_cannot_be_generated() -> None:
    """Tracebacks from inside transformers, long after the start."""
    data = Texts(4)
    with pytest.raises(LimbeckError, match="Linear cannot generate; give a transformers model"):
        generate(torch.nn.Linear(1, 1), data)
    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=40, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
        )
    )
    with pytest.raises(LimbeckError, match="BertForSequenceClassification cannot generate"):
        generate(bert, data)
    with pytest.raises(LimbeckError, match=r"has 32 positions, and 33 may be needed; lower max_new_tokens$"):
        generate(translator(), data, max_new_tokens=33)
    with pytest.raises(LimbeckError, match=r"has 64 positions, and .* may be needed; .* or shorten the prompts"):
        generate(causal(), data, max_new_tokens=60)
    for options in ({"beams": 0}, {"max_new_tokens": 0}, {"batch_tokens": 0}):
        with pytest.raises(LimbeckError, match=f"expected {next(iter(options))} of at least 1, got 0"):
            generate(translator(), data, **options)  # type: ignore[call-overload]
    with pytest.raises(LimbeckError, match="gives whole batches, got list"):
        generate(translator(), [1, 2])
    lost = translator()
    lost.generation_config.decoder_start_token_id = lost.generation_config.bos_token_id = None
    with pytest.raises(LimbeckError, match="does not know the token before the first of a target"):
        generate(lost, data)
