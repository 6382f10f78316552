"""Channels-last memory: where convolutions run fastest, on processors and in half precision on GPUs."""

from __future__ import annotations

import torch
from torch import nn

from limbeck.types import Batch

CRASHES_BELOW = 16
"""Input channels of a strided 1×1 convolution below which torch's backward pass on channels-last memory ends the whole
process on a processor (seen in torch 2.14.1, with images of 48 pixels a side and more)."""


def channels_last_model(model: nn.Module) -> bool:
    """Lays the weights of a model with 2-D convolutions out channels last, in place; whether it did."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or any(_crashes(each) for each in convolutions):
        return False
    model.to(memory_format=torch.channels_last)
    return True


def _crashes(convolution: nn.Conv2d) -> bool:
    strided = max(convolution.stride) > 1 and max(convolution.kernel_size) == 1
    return strided and convolution.in_channels < CRASHES_BELOW


def channels_last_batch(batch: Batch) -> Batch:
    """The batch with its `inputs` (batch, channels, height, width) laid out channels last; others as they are."""
    inputs = batch.get("inputs")
    if inputs is None or inputs.dim() != 4 or inputs.is_contiguous(memory_format=torch.channels_last):
        return batch
    return {**batch, "inputs": inputs.contiguous(memory_format=torch.channels_last)}


def contiguous_batch(batch: Batch) -> Batch:
    """The batch with its `inputs` laid out in the order of their dimensions."""
    inputs = batch.get("inputs")
    return batch if inputs is None or inputs.is_contiguous() else {**batch, "inputs": inputs.contiguous()}


def refuses_channels_last(error: RuntimeError) -> bool:
    """Whether a model failed because it calls `.view` on what a convolution gave, which needs the other layout."""
    return "view size is not compatible" in str(error)
