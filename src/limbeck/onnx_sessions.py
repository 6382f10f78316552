"""Files opened in ONNX Runtime, by all that runs them; nothing here imports PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.errors import LimbeckError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(path: Path, *, threads: int | None = None, device: str = "cpu") -> Any:
    """An `onnxruntime.InferenceSession` of the file, that runs one operator after another.

    Args:
        threads: of the processor; None leaves it to ONNX Runtime.
        device: `cpu` or `cuda`.

    Raises:
        LimbeckError: ONNX Runtime is missing, has no such device, or cannot load the file.
    """
    try:
        import onnxruntime
    except ImportError:
        raise LimbeckError(f"{path}: .onnx files are run by ONNX Runtime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error is one line, and it is limbeck's
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads would wait busily for the next call, on processors that others have work for.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[PROVIDERS[device]])
    except Exception as error:  # ONNX Runtime has an exception class for each of its status codes
        raise LimbeckError(f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]})") from None
    if session.get_providers()[0] != PROVIDERS[device]:
        raise LimbeckError(f"{path}: this build of ONNX Runtime has no {PROVIDERS[device]}; install onnxruntime-gpu")
    return session
