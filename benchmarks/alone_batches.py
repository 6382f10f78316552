"""Is `alone` held back by batches that are mostly unlabelled? The demo's student on full batches of labels instead.

python benchmarks/alone_batches.py
"""

from __future__ import annotations

import statistics
from dataclasses import replace

import torch

from limbeck import Distiller
from limbeck.models import ModelSpec, Shape, build
from limbeck.recipe import read_recipe
from limbeck.session import open_data, training_split
from limbeck.tasks import IMAGE_CLASSIFICATION as TASK
from limbeck.training import train
from limbeck.types import UNLABELLED


def main() -> None:
    recipe = read_recipe("digits")
    data = open_data(recipe, print)
    steps = round(recipe.train.epochs * (len(data.train) // recipe.train.batch_size))
    accuracies = []
    for seed in range(recipe.seeds):
        split = training_split(recipe, data, seed)
        split = split.subset((split.labels != UNLABELLED).nonzero().flatten())
        torch.manual_seed(seed)
        student = build(ModelSpec(recipe.student.model, {}), Shape(10, 1, (8, 8)))
        trained = train(Distiller(student), split, None, replace(recipe.train, steps=steps), seed=seed)
        found = TASK.predict(trained.module, data.test, label="test")
        accuracies.append(100 * found.metrics()["accuracy"])
    mean, deviation = statistics.mean(accuracies), statistics.stdev(accuracies)
    print(f"alone on {len(split)} labels, full batches, {steps} steps: {mean:.2f} ± {deviation:.2f} %")


if __name__ == "__main__":
    main()
