"""Whether a teacher is the one it was: quick numbers for one process, a hash for the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def fingerprint(modules: Iterable[nn.Module]) -> tuple[int, ...]:
    """A number for every parameter and buffer, made where it lies; equal before and after if nothing changed."""
    return tuple(
        int(torch.hash_tensor(tensor.detach()).view(torch.int64))
        for module in modules
        for tensor in tensors_of(module)
        if tensor.numel()
    )


def tensors_of(module: nn.Module) -> list[Tensor]:
    """A module's parameters and buffers."""
    return [*module.parameters(), *module.buffers()]


def combined(*parts: str) -> str:
    """SHA-256 of several texts in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def weights_hash(modules: Iterable[nn.Module]) -> str:
    """SHA-256 of all names, dtypes, shapes and values in the state of the modules: the same on any machine."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
