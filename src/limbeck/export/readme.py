"""The model card of an artifact, for people: README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.artifact import ArtifactCard, read_artifact_card
from limbeck.errors import LimbeckError
from limbeck.export.data import recipe_of, run_of
from limbeck.files import write_text
from limbeck.measures import measure_of
from limbeck.results import Results, Row

README = "README.md"

INPUTS = {
    "image-classification": "picture.png",
    "text-classification": '"a text"',
    "object-detection": "picture.jpg",
    "pose-estimation": "picture.jpg --box 10,20,110,220",
    "face-recognition": "one.jpg other.jpg",
    "question-answering": '"a question?" --context "the text that answers it"',
    "translation": '"a text"',
    "language-modelling": '"the beginning of a text"',
}
"""What the line that runs an artifact ends with."""


HEADING = """\
---
license: # choose one
library_name: limbeck
pipeline_tag: {task}
---

# {name}

A model for {spoken}, exported by limbeck for ONNX Runtime in {precision}.
"""

RUNNING = """\
```
limbeck predict {name} {inputs}
```

```python
from limbeck.artifact import open_artifact

artifact = open_artifact("{name}")
```

It needs numpy, onnxruntime, pillow and tokenizers; torch is not needed.
"""

NAMED = 20
"""Classes that a card names."""


def write_model_card(folder: Path, artifact: Path, row: Row | None = None) -> None:
    """Writes the card of an artifact, made of the saved model in `folder`, with what is known of it now; `row` are its
    results where they lie elsewhere than in its run."""
    write_text(artifact / README, model_card(folder, read_artifact_card(artifact), artifact.name, row))


def model_card(folder: Path, card: ArtifactCard, name: str, row: Row | None = None) -> str:
    """The README of an artifact that was made of the saved model in `folder`; `name` is what it is called."""
    spoken = card.task.replace("-", " ")
    heading = HEADING.format(task=card.task, name=name, spoken=spoken, precision=card.precision)
    sections = {
        "Where it comes from": _origin(folder, card),
        "How good it is": _measured(card.about, row or _row(folder, card.about)),
        "How it was checked": _checked(card),
        "How to run it": RUNNING.format(name=name, inputs=INPUTS.get(card.task, "…")).splitlines(),
        "Limits": _limits(card),
    }
    return heading + "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())


def _origin(folder: Path, card: ArtifactCard) -> list[str]:
    about = card.about
    teachers = about.get("teacher") or [each.get("model") for each in recipe_of(folder).get("teacher", [])]
    lines = [f"- Learned from: {', '.join(f'`{each}`' for each in teachers)}"] if teachers else []
    if about.get("recipe"):
        made = f"{about.get('model', 'model')} ({about.get('checkpoint', 'last')})"
        lines.append(f"- Recipe: `{about['recipe']}`, {made}")
    lines.append(f"- Data: `{about['data']}`" if about.get("data") else "- Data: nothing says which")
    if card.classes:
        rest = f", … ({len(card.classes)} in all)" if len(card.classes) > NAMED else ""
        what = "Joints" if card.task == "pose-estimation" else "Classes"
        lines.append(f"- {what}: {', '.join(card.classes[:NAMED])}{rest}")
    return lines


def _measured(about: Any, row: Row | None) -> list[str]:
    if row is None:
        return ["No results of a run lie beside the model; measure it before you rely on it."]
    run_by = "run by ONNX Runtime" if row.name.rpartition("+")[2].startswith("int8") else "in PyTorch"
    before = ", of the model before int8" if about.get("int8") and run_by == "in PyTorch" else ""
    where = f"On the test split of `{about.get('data', 'its data')}`, {run_by}{before}:"
    measured = [(measure_of(key), value) for key, value in row.metrics.items()]
    lines = [f"| {measure.name} | {measure.text(value, 2)} |" for measure, value in measured]
    return [where, "", "| measure | value |", "|---|---|", *lines]


def _row(folder: Path, about: Any) -> Row | None:
    """The results' row of the model that was exported."""
    run = run_of(folder)
    if run is None or not (run / "results.json").is_file():
        return None
    name, _, seed = str(about.get("model", "")).partition(", seed ")
    try:
        rows = Results.read(run / "results.json").rows
    except LimbeckError:
        return None
    wanted = (name, int(seed) if seed.isdigit() else 0, about.get("checkpoint", "last"))
    return next((row for row in rows if (row.name, row.seed, row.checkpoint) == wanted), None)


def _checked(card: ArtifactCard) -> list[str]:
    parity = card.parity
    if parity is None:
        return ["It was not compared with the PyTorch model."]
    return [
        f"Compared with the PyTorch model on {parity.samples:,} real inputs of {parity.data}, in batches of "
        f"{', '.join(map(str, parity.batches))}: the largest difference of a value is {parity.absolute:.1e} "
        f"({parity.relative:.1e} of the output's root mean square), and {parity.agreement:.2%} of "
        f"{parity.predictions} are the same."
    ]


def _limits(card: ArtifactCard) -> list[str]:
    lines = ["- It knows what its data showed; on other inputs it answers as surely, and may be wrong."]
    if card.batch is not None:
        lines.append(f"- The file takes batches of {card.batch} alone; limbeck runs larger ones piece by piece.")
    if card.pixels is not None:
        lines.append(f"- Pictures are brought to {card.pixels.size[0]}×{card.pixels.size[1]} pixels first.")
    if card.tokens is not None:
        lines.append(f"- Texts of more than {card.tokens.max_length} tokens are cut, or read in windows.")
    if card.task in ("translation", "language-modelling"):
        lines.append(
            "- It writes the likeliest token at a time (greedy), and reads all that it has written again for each."
        )
    return lines
