"""What the README shows works pasted as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_script_runs_in_an_empty_folder(tmp_path: Path) -> None:
    """A README that does not run is the first thing a newcomer meets."""
    script = tmp_path / "script.py"
    script.write_text(blocks("python")[0], encoding="utf-8")
    assert len([line for line in script.read_text().splitlines() if line.strip()]) <= 20
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "distilled" in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_the_recipe_is_a_recipe(tmp_path: Path) -> None:
    from limbeck.recipe import read_recipe

    path = tmp_path / "recipe.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    assert read_recipe(str(path)).name == "digits"
