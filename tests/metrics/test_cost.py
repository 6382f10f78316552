"""Sizes against hand counts; peak memory against a block of known size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.metrics import PeakMemory, size_of


class Tied(nn.Module):
    """Two names for one weight, a frozen BatchNorm and inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.norm = nn.BatchNorm1d(4).eval()
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.norm.requires_grad_(False)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Scores of (batch,) ids."""
        scores: torch.Tensor = self.head(self.norm(self.embedding(ids)) * scale)
        return scores


def test_a_convolution_by_hand() -> None:
    """Multiply-adds reported as FLOPs, a batch reported as a sample, or buffers left out of the bytes."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 16, 5))
    size = size_of(model, torch.zeros(7, 3, 4, 4))
    parameters = 8 * 3 * 9 + 8 + 16 + 8 * 16 * 5 + 5
    assert size["parameters"] == size["trainable_parameters"] == parameters
    assert size["bytes"] == 4 * (parameters + 16) + 8
    assert size["flops"] == 2 * (16 * 8 * 27 + 8 * 16 * 5)


def test_tied_weights_count_once_and_modes_come_back() -> None:
    """A frozen BatchNorm that trains after it was measured; a shared embedding counted twice."""
    model = Tied().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    size = size_of(model, {"ids": torch.tensor([1, 2]), "scale": torch.ones(2, 1)})
    assert size["parameters"] == 40 + 8
    assert size["trainable_parameters"] == 40
    assert size["bytes"] == 4 * (40 + 16) + 8
    assert size["flops"] == 2 * 4 * 10
    assert (model.training, model.head.training, model.norm.training) == (True, True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_transformer_layer_is_not_free() -> None:
    """The fused inference path of nn.TransformerEncoderLayer has no FLOP formula and counts as 0."""
    width, tokens = 8, 5
    layer = nn.TransformerEncoderLayer(width, 2, dim_feedforward=16, batch_first=True)
    products = tokens * (4 * width * width + 2 * width * 16) + 2 * tokens * tokens * width
    assert size_of(layer, torch.zeros(3, tokens, width))["flops"] == 2 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_an_empty_batch_is_named() -> None:
    """A division by zero samples."""
    with pytest.raises(LimbeckError, match="at least one sample"):
        size_of(nn.Linear(2, 2), torch.zeros(0, 2))


def test_peak_memory_sees_what_was_freed() -> None:
    """Memory read only at the end, after the peak is gone."""
    with PeakMemory("cpu") as peak:
        block = torch.ones(64 * 2**20, dtype=torch.uint8)
        for _ in range(12):
            torch.ones(1).add(1)
            block.add_(1)
            peak._done.wait(0.005)
        del block
    assert peak.source == "rss"
    assert 48 * 2**20 < peak.bytes < 256 * 2**20


def test_the_sampler_stops_when_the_block_fails() -> None:
    """A thread left behind by an exception."""
    peak = PeakMemory()
    with pytest.raises(RuntimeError, match="boom"), peak:
        raise RuntimeError("boom")
    assert peak._sampler is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_cuda() -> None:
    """Memory that was there before the block counted to it."""
    kept = torch.ones(8 * 2**20, dtype=torch.uint8, device="cuda")
    with PeakMemory("cuda") as peak:
        block = torch.ones(32 * 2**20, dtype=torch.uint8, device="cuda")
        del block
    assert peak.source == "cuda"
    assert peak.bytes == 32 * 2**20
    del kept


@pytest.mark.parametrize("layers", [1, 2])
def test_flops_of_recurrent_layers(layers: int) -> None:
    """The fused LSTM of a processor is one operator without a formula, and counts as nothing."""
    tokens, width, units = 6, 5, 4
    model = torch.nn.LSTM(width, units, num_layers=layers, bidirectional=True, batch_first=True)
    inputs = [width, *[2 * units] * (layers - 1)]
    products = sum(2 * tokens * 4 * units * (each + units) for each in inputs)
    assert size_of(model, torch.zeros(3, tokens, width))["flops"] == 2 * products
