"""Every method for two steps on two processes, which tests start; writes a hash of the trained weights of each."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.every_method import SETTINGS
from tests.test_every_method import NAMES, made, trainer


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    weights: dict[str, str] = {}
    rank = 0
    for name in NAMES:
        if name in SETTINGS["cnn"].refused:
            continue
        distiller = made("cnn", name)
        run = trainer(distiller, folder / name, "cnn", name, max_steps=2, per_device_train_batch_size=4)
        assert run.args.world_size == 2
        run.train()
        rank = run.args.process_index
        trained = [p.detach().flatten() for p in distiller.parameters() if p.requires_grad]
        weights[name] = hashlib.sha256(torch.cat(trained).numpy().tobytes()).hexdigest()
    (folder / f"{rank}.json").write_text(json.dumps(weights))


if __name__ == "__main__":
    main()
