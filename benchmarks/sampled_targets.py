"""What a stored teacher may leave out: a small language model distilled from full, sampled and top-k targets.

    python -m benchmarks.sampled_targets [--steps 500] [--teacher-steps 700] [--seeds 3] [--threads 1] [--json FILE]

A causal language model is trained on the first 90 % of Tiny Shakespeare (in LIMBECK_DATA), as tokens of a vocabulary
of 2,048 byte pairs, and labels its training windows once with each codec. The same student, from the same weights, on
the same batches, with KL at temperature 1 as its only term, then learns from each. The figure is the cross-entropy on
the last 10 % of the text, in nats a token.
"""

from __future__ import annotations

import argparse
import gzip
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

import limbeck
from benchmarks.measure import machine, write
from limbeck import Distiller, Stored, Term
from limbeck.losses import KD, Supervised
from limbeck.sources import data_root
from limbeck.store import Codec, HeadStates, SampledLogits, TopKLogits
from limbeck.types import Batch, Signal, TopK

VOCABULARY, WINDOW, BATCH = 2048, 128, 16
DRAWS, K = 31, 7
"""39 bytes a token and 38, before what a record costs."""


class Renormalised(Stored):
    """Top-k as others store it: the k probabilities divided by their sum, the rest of the mass forgotten."""

    def __call__(self, batch: Batch) -> Signal:
        signal = super().__call__(batch)
        target = signal.targets["logits"]
        assert isinstance(target, TopK)
        log_probs = target.log_probs - target.log_probs.logsumexp(1, keepdim=True)
        nothing = torch.full_like(target.log_tail, -math.inf)
        return Signal({}, {}, {"logits": replace(target, log_probs=log_probs, log_tail=nothing)})


class Windows(Dataset[dict[str, Tensor]]):
    """Consecutive windows of a text's tokens."""

    def __init__(self, tokens: Tensor) -> None:
        self.windows = tokens[: len(tokens) // WINDOW * WINDOW].view(-1, WINDOW)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.windows[index]}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"input_ids": self.windows[indices]}


def read_tokens() -> tuple[Tensor, Tensor]:
    """Training and held-out tokens, the vocabulary learned from the training text alone."""
    path = data_root() / "text" / "tinyshakespeare.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    cut = len(text) * 9 // 10
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(text[:cut].splitlines(keepends=True), trainer)
    return torch.tensor(tokenizer.encode(text[:cut]).ids), torch.tensor(tokenizer.encode(text[cut:]).ids)


def model(width: int, layers: int) -> nn.Module:
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=WINDOW, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def train(distiller: Distiller, windows: Windows, steps: int, learning_rate: float, seed: int) -> nn.Module:
    """Trains for `steps` batches with a cosine schedule."""
    optimizer = torch.optim.AdamW(distiller.parameters(), learning_rate, weight_decay=0.05, fused=True)
    warmup = steps // 20

    def factor(step: int) -> float:
        return (
            (step + 1) / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (steps - warmup))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    generator = torch.Generator().manual_seed(seed)
    order = torch.cat(
        [torch.randperm(len(windows), generator=generator) for _ in range(steps * BATCH // len(windows) + 1)]
    )
    distiller.train()
    for step in range(steps):
        loss = distiller(windows.__getitems__(order[step * BATCH :][:BATCH].tolist())).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return distiller.student.eval()


@torch.no_grad()
def held_out(language_model: nn.Module, windows: Windows) -> float:
    """Cross-entropy in nats a token."""
    losses = []
    for rows in windows.windows.split(32):
        logits = language_model(input_ids=rows).logits[:, :-1]
        losses.append(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none"))
    return float(torch.cat(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--teacher-steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path("runs/bench/sampled_targets.json"))
    options = parser.parse_args()
    print(machine(options.threads))
    training, testing = (Windows(tokens) for tokens in read_tokens())
    torch.manual_seed(0)
    start = time.perf_counter()
    teacher = train(Distiller(model(192, 4), None, [Term(Supervised())]), training, options.teacher_steps, 2e-3, 0)
    print(f"teacher: {held_out(teacher, testing):.4f} nats a token, {time.perf_counter() - start:.0f} s", flush=True)
    codecs: dict[str, Codec] = {
        "full": HeadStates(), "sampled": SampledLogits(draws=DRAWS), "top-k with tail": TopKLogits(k=K)
    }  # fmt: skip
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            name: limbeck.label(teacher, training, Path(folder) / name, signals={"logits": codec}, batch_size=32)
            for name, codec in codecs.items()
        }
        cost = {name: store.manifest.bytes / store.manifest.items for name, store in stores.items()}
        teachers: dict[str, Callable[[], Stored | None]] = {
            name: lambda name=name: Stored(stores[name])  # type: ignore[misc]
            for name in codecs
        }
        teachers["top-k renormalised"] = lambda: Renormalised(stores["top-k with tail"])
        teachers["text alone"] = lambda: None
        for seed in range(options.seeds):
            for name, make in teachers.items():
                torch.manual_seed(seed)
                taught = make()
                terms = [Term(Supervised())] if taught is None else [Term(KD(1.0))]
                student = train(Distiller(model(96, 2), taught, terms), training, options.steps, 2e-3, seed)
                results.setdefault(name, []).append(held_out(student, testing))
                print(f"seed {seed}  {name:20}{results[name][-1]:.4f}", flush=True)
    print(f"\n{'targets':20}{'bytes a token':>15}{'held-out, nats':>18}{'above full':>22}")
    for name, values in results.items():
        gaps = [value - full for value, full in zip(values, results["full"], strict=True)]
        spread = statistics.stdev(gaps) if len(gaps) > 1 else 0.0
        price = cost.get(name, cost["top-k with tail"] if "top-k" in name else 0.0)
        mean = f"{statistics.mean(values):.4f} ± {statistics.stdev(values) if len(values) > 1 else 0:.4f}"
        print(f"{name:20}{price:15.1f}{mean:>18}{f'{statistics.mean(gaps):+.4f} ± {spread:.4f}':>22}")
    write(options.json, {"options": vars(options) | {"json": str(options.json)}, "bytes": cost, "held_out": results})


if __name__ == "__main__":
    main()
