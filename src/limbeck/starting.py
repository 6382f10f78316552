"""Where a student starts: with layers of its teacher.

A shallow student of its teacher's kind takes some of the teacher's blocks, and what both have in equal shape outside
them: embeddings, the final norm, the head. It is how DistilBERT began (Sanh et al. 2019, arXiv:1910.01108).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models import unwrapped
from limbeck.models.stacks import blocks_of, evenly_spaced, stacks_of
from limbeck.taps import module_at

CHOICES = ("every", "first", "last", "first-last")


@torch.no_grad()
def copy_layers(
    teacher: nn.Module, student: nn.Module, layers: str | Sequence[int] = "every", *, blocks: str = ""
) -> list[int]:
    """Copies blocks of the teacher into the student's, in place, and what both have outside the blocks in equal shape.

    Of a teacher's 12 blocks, a student of 6 gets with "every" 0, 2, 4, 6, 8, 10, evenly spaced from the first; with
    "first" 0 to 5; with "last" 6 to 11; with "first-last" 0, 2, 4, 7, 9, 11, evenly spaced with both ends. A sequence
    names the block for each of the student's.

    Args:
        teacher, student: models with a stack of blocks of one class: BERT, GPT-2, Llama, a ViT, an nn.Sequential.
        layers: which of the teacher's blocks.
        blocks: the path of the stack in both models. Left empty it is found: the longest list of blocks of one class,
            not inside another such list; the student's is the one at the same path, or the longest of that class.

    Returns:
        The teacher's blocks that were taken, one index for each of the student's.

    Raises:
        LimbeckError: there is no such stack, `layers` does not fit it, or a block's tensors differ in name or shape;
            the student then stays as it was.
    """
    source, target = unwrapped(teacher), unwrapped(student)
    their_path, theirs = _stack(source, blocks, "teacher")
    our_path, ours = _stack(target, blocks, "student", like=(their_path, type(theirs[0])))
    taken = _chosen(layers, len(theirs), len(ours))
    for index, block in enumerate(ours):
        _check_same(
            theirs[taken[index]], f"{their_path}.{taken[index]}".lstrip("."), block, f"{our_path}.{index}".lstrip(".")
        )
    for index, block in enumerate(ours):
        block.load_state_dict(theirs[taken[index]].state_dict())
    given = _outside(source, their_path)
    for name, tensor in _outside(target, our_path).items():
        if name in given and given[name].shape == tensor.shape:
            tensor.copy_(given[name])
    return taken


def _stack(
    model: nn.Module, path: str, owner: str, like: tuple[str, type[nn.Module]] | None = None
) -> tuple[str, list[nn.Module]]:
    """The path of a model's stack and its blocks; `like` are the path and the blocks' class of the other model's."""
    if path:
        blocks = blocks_of(module_at(model, path, owner))
        if not blocks:
            raise LimbeckError(
                f"copy_layers: the {owner}'s {path!r} is no stack, which is an nn.ModuleList or nn.Sequential of "
                "blocks of one class; give the path of the list that holds the blocks"
            )
        return path, blocks
    stacks = stacks_of(model)
    if like is not None:
        stacks = {name: found for name, found in stacks.items() if type(found[0]) is like[1]}
        if like[0] in stacks:
            return like[0], stacks[like[0]]
    else:
        stacks = {name: found for name, found in stacks.items() if len(found) > 1}
    if not stacks:
        kind = "blocks of one class" if like is None else f"the teacher's blocks, {like[1].__name__}"
        raise LimbeckError(
            f"copy_layers: the {owner} {type(model).__name__} has no nn.ModuleList or nn.Sequential of {kind}; "
            "name its stack with blocks=PATH"
        )
    longest = max(stacks, key=lambda name: len(stacks[name]))
    return longest, stacks[longest]


def _chosen(layers: str | Sequence[int], teacher: int, student: int) -> list[int]:
    """The teacher's index for each of the student's blocks."""
    if not isinstance(layers, str):
        taken = list(layers)
        if len(taken) != student or not all(0 <= index < teacher for index in taken):
            raise LimbeckError(
                f"copy_layers: expected {student} indices from 0 to {teacher - 1}, one for each of the student's "
                f"blocks, got {taken}"
            )
        return taken
    if layers not in CHOICES:
        raise LimbeckError(f"copy_layers: unknown layers {layers!r}{nearest(layers, CHOICES)} (or a list of indices)")
    if student > teacher:
        raise LimbeckError(
            f"copy_layers: the student has {student} blocks, the teacher {teacher}; take a student of no more, or give "
            "a list of indices, which may repeat"
        )
    if layers == "first":
        return list(range(student))
    if layers == "last":
        return list(range(teacher - student, teacher))
    if layers == "every":
        return evenly_spaced(student, teacher)
    gaps = max(student - 1, 1)
    return [(2 * index * (teacher - 1) + gaps) // (2 * gaps) for index in range(student)]


def _check_same(teacher: nn.Module, their_path: str, student: nn.Module, our_path: str) -> None:
    theirs, ours = _shapes(teacher), _shapes(student)
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            sides = [
                f"the {owner}'s {path}.{name} {'is missing' if shape is None else f'has shape {shape}'}"
                for owner, path, shape in (
                    ("teacher", their_path, theirs.get(name)),
                    ("student", our_path, ours.get(name)),
                )
            ]
            raise LimbeckError(
                f"copy_layers: {' and '.join(sides)}; blocks can be copied between models of one kind and width only"
            )


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _outside(model: nn.Module, path: str) -> Mapping[str, Tensor]:
    """The model's tensors but those of the stack at `path`."""
    return {name: tensor for name, tensor in model.state_dict().items() if path and not name.startswith(f"{path}.")}
