from __future__ import annotations

import pytest
import torch

from limbeck.errors import LimbeckError
from limbeck.models import ConvNet, conv_student, conv_teacher, dense_student, dense_teacher


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_dense_parameter_counts() -> None:
    """Widths that drift from 784→128→64→10 and 784→64→10 make every number of the recipes another's."""
    assert parameters(dense_teacher()) == 784 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert parameters(dense_student()) == 784 * 64 + 64 + 64 * 10 + 10


def test_dense_takes_images_and_vectors() -> None:
    """A dense net that takes only flat vectors cannot share a loader with the convolutional ones."""
    model, images = dense_teacher(), torch.randn(3, 1, 28, 28)
    assert torch.equal(model(images), model(images.flatten(1)))


def test_conv_parameter_counts() -> None:
    """The head must not grow or shrink unseen: its size is nearly all of a ConvNet."""
    teacher = 9 * 32 + 64 + 9 * 32 * 64 + 128 + (64 * 49 * 128 + 128) + (128 * 10 + 10)
    student = 9 * 16 + 32 + 9 * 16 * 32 + 64 + (32 * 49 * 10 + 10)
    assert (parameters(conv_teacher()), parameters(conv_student())) == (teacher, student)


@pytest.mark.parametrize("build", [conv_teacher, conv_student])
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (1, (8, 8)), (3, (32, 24)), (3, (64, 64))])
def test_conv_shapes(build: object, channels: int, size: tuple[int, int]) -> None:
    """A pair that works for 28×28 only fails on the embedded 8×8 digits of the demo."""
    assert callable(build)
    model: ConvNet = build(num_classes=7, in_channels=channels, image_size=size)
    inputs = torch.randn(2, channels, *size)
    assert model(inputs).shape == (2, 7)
    assert model.layer1(inputs).shape[2:] == (size[0] // 2, size[1] // 2)


def test_conv_refuses_tiny_images() -> None:
    """A 3×3 image leaves no pixel after two poolings: PyTorch's message names neither image nor remedy."""
    with pytest.raises(LimbeckError, match=r"image_size \(3, 8\): .* needs 4×4 pixels"):
        conv_student(image_size=(3, 8))
