"""What on-policy distillation does to a language model on what it says itself, on a finished run of a recipe.

    python -m benchmarks.on_policy RUN [--teacher FOLDER] [--steps 150] [--seeds 5] [--beta 0.5] [--json FILE]

RUN is the folder of a run, such as runs/wikitext2, whose distilled students are trained for some more steps: on the
student's own continuations (generalised KD, λ = 1), or as long on the training text with the same loss. Before
and after, KL between student and teacher is measured on what the student says to prompts of the test text, and on the
test text itself.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from benchmarks.measure import machine, write
from limbeck import Distiller, Term, load
from limbeck.losses import GeneralizedJSD
from limbeck.metrics import mean_std, paired
from limbeck.online import OnPolicy, own_sample_kl
from limbeck.recipe import Recipe
from limbeck.scoring import compare_models
from limbeck.session import kept_recipe, open_data
from limbeck.training import TrainConfig, train

PROMPT, NEW = 16, 48
PROMPTS, ROWS = 128, 128


def measured(student: nn.Module, teacher: nn.Module, test: Any) -> dict[str, float]:
    """KL on the student's own samples and on the text, in nats a token, and the text's perplexity."""
    rows = [Subset(test, torch.linspace(0, len(test) - 1, count).long().tolist()) for count in (PROMPTS, ROWS)]
    own = own_sample_kl(student, teacher, rows[0], prompt=PROMPT, new_tokens=NEW)
    text = compare_models(student, teacher, rows[1])
    return own | {"text_forward_kl": text.forward_kl, "text_nll": text.student.metrics()["nll"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--beta", type=float, default=0.5, help="0: forward KL, 1: reverse KL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    described = machine(options.threads)
    print(described)
    said = kept_recipe(options.run)
    if said is None:
        parser.error(f"{options.run} holds no finished run of a recipe")
    recipe = Recipe.model_validate(said)
    data: Any = open_data(recipe, print)
    teacher = load(options.teacher or options.run / "teacher" / "last").eval()
    config = TrainConfig(steps=options.steps, batch_size=16, learning_rate=2e-4, warmup=0.1, clip=1.0, evaluations=1)
    found: dict[str, list[dict[str, float]]] = {"before": [], "text": [], "own samples": []}
    for seed in range(options.seeds):
        start = load(options.run / "models" / f"distilled-{seed}" / "last")
        found["before"].append(measured(start.eval(), teacher, data.test))
        for name in ("text", "own samples"):
            student, term = copy.deepcopy(start), Term(GeneralizedJSD(1.0, options.beta))
            distiller = (
                Distiller(student, teacher, [term])
                if name == "text"
                else OnPolicy(student, teacher, [term], prompt=PROMPT, new_tokens=NEW, reuse=2, seed=seed)
            )
            begun = time.perf_counter()
            train(distiller, data.train, config=config, seed=seed, label=f"{name}, seed {seed}")
            spent = (time.perf_counter() - begun) / options.steps
            found[name].append(measured(student.eval(), teacher, data.test) | {"seconds_a_step": spent})
            print(seed, name, found[name][-1], flush=True)
    lines = {}
    for key in found["text"][0]:
        cells = {name: mean_std([each[key] for each in rows]) for name, rows in found.items() if key in rows[0]}
        lines[key] = {name: f"{mean:.3f} ± {deviation:.3f}" for name, (mean, deviation) in cells.items()}
        claim = paired(key, "own", "text", *([row[key] for row in found[name]] for name in ("own samples", "text")))
        print(f"{key:18}", lines[key], f"own samples against text: p = {claim.p}")
    if options.json:
        write(options.json, {"machine": described, "found": found})


if __name__ == "__main__":
    main()
