"""What docs/add-a-method.md shows is a method as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from limbeck import Distiller, Term
from limbeck.losses import Supervised

PAGE = Path(__file__).parents[1] / "docs" / "add-a-method.md"


def test_the_page_s_method_teaches() -> None:
    """A page that was right two versions ago."""
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[0], names)
    assert names["entry"].name == "cosine"
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))
    student = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3))
    batch = {"inputs": torch.randn(16, 6), "labels": torch.randint(0, 3, (16,))}
    terms = [Term(Supervised()), Term(names["Cosine"](), weight=2.0)]
    distiller = Distiller(student, teacher, terms, example=batch)
    optimizer = torch.optim.AdamW(distiller.parameters(), 0.01)
    values = []
    for _ in range(40):
        output = distiller(batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        values.append(float(output.terms["cosine"]))
    expected = 1 - nn.functional.cosine_similarity(
        distiller.objective.projectors["cosine"](student[:2](batch["inputs"])), teacher[:2](batch["inputs"]), dim=1
    )
    torch.testing.assert_close(float(distiller(batch).terms["cosine"]), float(expected.detach().mean()))
    assert values[-1] < values[0] / 2
