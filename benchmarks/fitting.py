"""Whether what `limbeck fit` hands over keeps its budget and is worth it.

At several budgets the artifact is timed by plain ONNX Runtime in fresh processes, and its test measure stands beside
those of the largest candidate that fits trained alone, the teacher pruned to fit and trained on labels, and the teacher
in int8, where these fit.

python benchmarks/fitting.py digits --latency 0.012ms 0.02ms 0.03ms [--changes KEY=VALUE …] [--folder runs/fits]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.deployed import teachers_folder
from limbeck.export.backed import backed
from limbeck.fit import Budget, Fitted, fit
from limbeck.fit.finals import exported
from limbeck.fit.ladder import Rung, ladder
from limbeck.fit.learning import entry_of
from limbeck.fit.measuring import FP32, Measured
from limbeck.models import load
from limbeck.recipe import read_recipe
from limbeck.session import Session, open_data, open_teacher, training_split
from limbeck.students import place_of, train_all
from limbeck.training import steps_of

RUNS = 10

PLAIN = """
import json, sys, time
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
draw, feeds = np.random.default_rng(0), {}
for each in session.get_inputs():
    shape = [d if isinstance(d, int) else (1 if i == 0 else int(sys.argv[2])) for i, d in enumerate(each.shape)]
    if "int" in each.type:
        feeds[each.name] = np.ones(shape, np.int64) * (1 if "mask" in each.name else 5 if "ids" in each.name else 0)
    else:
        feeds[each.name] = draw.standard_normal(shape).astype(np.float32)
for _ in range(200):
    session.run(None, feeds)
times = []
start = time.perf_counter()
while time.perf_counter() - start < 1.0 or len(times) < 50:
    begin = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - begin)
print(json.dumps(1000 * float(np.median(times))))
"""


def plain_milliseconds(file: Path, length: int) -> list[float]:
    """The median of one sample in each of `RUNS` fresh processes that know nothing of limbeck."""
    command = [sys.executable, "-c", PLAIN, str(file), str(length)]
    return [float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(RUNS)]


def rivals(session: Session, teacher: Any, found: Fitted, budget: Budget) -> dict[str, tuple[Rung, Measured]]:
    """What one would have shipped without distilling, where it fits."""
    measured = [Measured(**each) for each in json.loads((session.folder / "measured.json").read_text())["measured"]]
    rungs = {rung.name: rung for rung in ladder(session, teacher)}
    within = [each for each in measured if not each.why_not(budget)]

    def largest(chosen: list[Measured]) -> Measured | None:
        return max(chosen, key=lambda each: (each.cost["flops"], each.precision == FP32), default=None)

    kinds = {
        "largest alone": largest([each for each in within if rungs[each.rung].student is not None]),
        "pruned to fit": largest([each for each in within if rungs[each.rung].share < 1]),
        "int8 teacher": largest([each for each in within if rungs[each.rung].is_teacher and each.precision != FP32]),
    }
    return {name: (rungs[each.rung], each) for name, each in kinds.items() if each is not None}


def tested(session: Session, teacher: Any, rung: Rung, measured: Measured, place: Path) -> float:
    """A rival's main measure on the test split, trained on labels alone where it has to be trained."""
    task, recipe = session.task, session.recipe
    if rung.is_teacher:
        saved = teachers_folder(session)
        assert saved is not None
    else:
        steps = steps_of(recipe.train, len(training_split(recipe, session.data, 0)))
        entry = entry_of(session, teacher, rung, steps, alone=True)
        train_all(session, [entry])
        saved = place_of(session.folder, entry.name, 0) / "last"
    (final,) = exported(session, saved, [measured], place / "rivals" / ("teacher" if rung.is_teacher else "alone"))
    module = load(saved).eval()
    shown = module if measured.precision == FP32 else backed(module, final.artifact)
    said = partial(task.predict, settings=recipe.data)(shown, session.data.test, label="test")
    return float(said.metrics()[task.main.key])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--changes", nargs="*", default=[])
    parser.add_argument("--latency", nargs="+", required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--length", type=int, default=64, help="tokens of a text")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    recipe = read_recipe(options.recipe, options.changes)
    folder = options.folder or Path("runs") / f"{recipe.name}-fit"
    lines = []
    for text in options.latency:
        budget = Budget.parse(text, None, None)
        found = fit(recipe, folder, budget)
        times = plain_milliseconds(next(found.artifact.glob("*.onnx")), options.length)
        assert budget.latency is not None
        kept = sum(each <= budget.latency for each in times)
        own = read_recipe(str(folder / "recipe.yaml"))
        session = Session(own, open_data(own, print), folder)
        teacher = open_teacher(session).teacher
        key = session.task.main.key
        mine = found.results.named(found.name)[0].metrics[key]
        others = {
            name: tested(session, teacher, rung, measured, found.report.parent)
            for name, (rung, measured) in rivals(session, teacher, found, budget).items()
        }
        lines.append(
            {"budget": text, "chosen": found.name, "kept": f"{kept} of {RUNS}", "ms": times, key: mine, **others}
        )
        print(json.dumps(lines[-1]), flush=True)
    names = ("budget", "chosen", "kept", key, "largest alone", "pruned to fit", "int8 teacher")
    print(f"\n| {' | '.join(names)} |", "|---" * len(names) + "|", sep="\n")
    for line in lines:
        cells = [f"{100 * line[name]:.2f}" if name in line else "–"
                 for name in (key, "largest alone", "pruned to fit", "int8 teacher")]  # fmt: skip
        print(f"| {line['budget']} | {line['chosen']} | {line['kept']} | {' | '.join(cells)} |")
    if options.json is not None:
        options.json.write_text(json.dumps(lines, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
