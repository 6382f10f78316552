"""Shards: safetensors files of columns, checked against their checksum before any number of them is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.files import staged_file
from limbeck.store.manifest import FileEntry

_TYPES = {
    "I64": torch.int64, "I32": torch.int32, "U16": torch.uint16, "U8": torch.uint8, "I8": torch.int8,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip


def write_shard(path: Path, columns: Mapping[str, Tensor], *, records: int, items: int) -> FileEntry:
    """Writes columns beside their place and renames them; the same columns give the same bytes."""
    # Copies, since safetensors refuses columns that share memory, as ids that are content ids do.
    data = save({name: column.clone(memory_format=torch.contiguous_format) for name, column in columns.items()})
    with staged_file(path) as staging:
        staging.write_bytes(data)
    return FileEntry(path.name, len(data), hashlib.sha256(data).hexdigest(), records, items)


def verified(folder: Path, entry: FileEntry) -> Path:
    """The path of a file that is as it was written.

    Raises:
        LimbeckError: it is missing, has another size, or other bytes.
    """
    path = folder / entry.file
    if not path.is_file():
        raise LimbeckError(f"{path}: is missing from the label store; restore it, or label the data again")
    size = path.stat().st_size
    if size != entry.bytes:
        raise LimbeckError(
            f"{path}: has {size} bytes, the manifest says {entry.bytes}; restore it, or label the data again"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise LimbeckError(
            f"{path}: is corrupt (its SHA-256 is {found[:12]}…, the manifest says {entry.sha256[:12]}…); restore it, "
            "or label the data again"
        )
    return path


def mapped(path: Path) -> dict[str, Tensor]:
    """The columns of a verified shard as tensors over the mapped file: what is not asked for is not read."""
    whole = np.memmap(path, dtype=np.uint8, mode="c")  # copy on write: torch wants memory that may be written
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    header = json.loads(whole[8:start].tobytes())
    columns = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        begin, end = about["data_offsets"]
        flat = torch.from_numpy(whole[start + begin : start + end])
        kind = _TYPES[about["dtype"]]
        # safetensors packs its tensors, so a column of wide numbers may begin at an odd byte.
        aligned = flat if flat.numel() and flat.data_ptr() % kind.itemsize == 0 else flat.clone()
        columns[name] = aligned.view(kind).view(about["shape"])
    return columns
