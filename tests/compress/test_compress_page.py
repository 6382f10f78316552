"""What docs/compress.md shows runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "compress.md"


@pytest.mark.filterwarnings("ignore:.*legacy TorchScript-based ONNX export.*:DeprecationWarning")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A page that was right two versions ago."""
    pytest.importorskip("torch_pruning")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, names)
    assert abs(names["pruned"].flops_share - 0.4) < 0.03
    assert names["int8"].smaller > 2.5
    assert names["better"].smaller < names["int8"].smaller
    assert Path("model.onnx").stat().st_size > 2.5 * Path("aware.onnx").stat().st_size
    assert "more than allowed; most sensitive: " in capsys.readouterr().out
