"""Students that are smaller teachers: fewer layers, a narrower model, fewer tokens; of the teacher's own weights."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.cutting import LAYOUTS, Cutter
from limbeck.models.forward import unwrapped
from limbeck.models.huggingface import first_line, is_transformers
from limbeck.models.huggingface_texts import quietly
from limbeck.models.lora import has_adapters
from limbeck.models.renumbered import NUMBERS, Kept, choose_tokens, install_renumbering, renumbering_of, special_tokens
from limbeck.models.reused import plan_of
from limbeck.models.sizes import Layers, Sizes, Taken, narrow, take_layers

log = logging.getLogger(__name__)


@torch.no_grad()
def shrink(
    teacher: nn.Module,
    *,
    layers: Layers | Mapping[str, Layers] | None = None,
    width: int | None = None,
    heads: int | None = None,
    feed_forward: int | None = None,
    vocabulary: int | Sequence[int] | None = None,
    counts: Sequence[int] | Tensor | None = None,
    unknown: int | None = None,
    always: Sequence[int] = (),
) -> nn.Module:
    """A new transformers model of the teacher's class with a smaller configuration, made of the teacher's weights.

    Fewer layers are copies of the teacher's, evenly spaced from the first, as DistilBERT began (Sanh et al. 2019,
    arXiv:1910.01108). A narrower model keeps those entries of the residual stream, those heads and those inner units
    that have the largest share in the squared norms of the matrices they belong to; weights that cannot be cut are
    drawn anew, with a warning. With nothing removed the outputs are the teacher's.

    Args:
        teacher: BERT, DistilBERT, RoBERTa, GPT-2, Llama, Mistral, Qwen, T5, BART, Marian and their kin; of others
            layers and vocabulary can be cut.
        layers: how many, or which of the teacher's; for a model of two stacks both, or `{encoder: …, decoder: …}`.
        width: of the residual stream. Heads and inner units that are not given go down in proportion.
        heads: of each layer's attention. Where queries share keys, all keys remain, or whole groups go. Where a head's
            size follows from the width, fewer heads than it has room for are several of the teacher's, joined.
        feed_forward: inner units of each layer.
        vocabulary: the tokens to keep (the tokenizer's ids), or how many, which `counts` chooses. The tokenizer stays:
            the model renumbers its ids, and reads all others as `unknown`. Only for models that give no logits over
            the vocabulary.
        counts: how often each token is in the training texts, (vocabulary of the tokenizer,).
        unknown: the tokenizer's id of the unknown token.
        always: ids that are kept in any case: the tokenizer's special tokens.

    Returns:
        The student, in training mode and on the teacher's device; in float32 where the teacher is in half precision.

    Raises:
        LimbeckError: the teacher is no transformers model, or a number does not fit it.
    """
    source: Any = unwrapped(teacher)
    if not is_transformers(source):
        raise LimbeckError(
            f"shrink: makes smaller transformers models, and the teacher is a {type(source).__name__}; "
            "name a smaller student instead"
        )
    if has_adapters(source) or plan_of(source) is not None:
        raise LimbeckError("shrink: the teacher has adapters or a replaced head; save it and give the model it is of")
    config: Any = copy.deepcopy(source.config)
    taken = take_layers(source, config, layers)
    narrower = any(each is not None for each in (width, heads, feed_forward))
    sizes = narrow(config, width, heads, feed_forward) if narrower else None
    kept = choose_tokens(source, vocabulary, counts, unknown, always) if vocabulary is not None else None
    if kept is not None:
        config.update({**special_tokens(config, kept), "vocab_size": len(kept.rows)})
    student = _built(source, config)
    _fill(student, source, taken, sizes, kept)
    numbers = kept.numbers if kept is not None else renumbering_of(source)
    if numbers is not None:
        install_renumbering(student, numbers.to(source.device))
    student.train()
    assert isinstance(student, nn.Module)
    return student


def _built(source: Any, config: Any) -> Any:
    try:
        with quietly():
            student = type(source)(config)
    except (ValueError, TypeError, AssertionError, IndexError, RuntimeError) as error:
        raise LimbeckError(
            f"shrink: {type(source).__name__} cannot be built with these sizes ({first_line(error)}); choose others"
        ) from None
    if student.can_generate():
        student.generation_config = copy.deepcopy(source.generation_config)
    return student.to(source.device, torch.promote_types(source.dtype, torch.float32))


def _fill(student: Any, source: Any, taken: Sequence[Taken], sizes: Sizes | None, kept: Kept | None) -> None:
    """Gives the student what it has of the teacher's tensors, cut to size."""
    given: dict[str, Tensor] = source.state_dict()
    target: dict[str, Tensor] = student.state_dict()
    origins = {name: _origin(name, taken, given) for name in target if name != NUMBERS}
    layout = LAYOUTS.get(source.config.model_type)
    cutter = None
    if sizes is not None and layout is not None:
        used = sorted({name for name in origins.values() if name in given})
        cutter = Cutter(layout, given, used, sizes.width, sizes.heads, sizes.inner)
    embeddings = source.get_input_embeddings().weight.data_ptr()
    new = []
    for name, origin in origins.items():
        tensor = given.get(origin)
        if tensor is None:
            new.append(name)
            continue
        of_tokens = kept is not None and tensor.data_ptr() == embeddings
        if cutter is not None and (cut := cutter.cut(origin)) is not None:
            tensor = cut
        if kept is not None and of_tokens:
            tensor = tensor[kept.rows.to(tensor.device)]
        if tensor.shape == target[name].shape:
            target[name].copy_(tensor)
        else:
            new.append(name)
    if new:
        log.warning(
            "shrink: %d of the %d tensors of %s cannot be cut from the teacher's and are drawn anew, such as %s",
            len(new),
            len(target),
            type(student).__name__,
            new[0],
        )


def _origin(name: str, taken: Sequence[Taken], given: Mapping[str, Tensor]) -> str:
    """Which of the teacher's tensors becomes the student's of that name."""
    for stack in taken:
        prefix = f"{stack.path}."
        if name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            moved = f"{prefix}{stack.blocks[int(index)]}.{rest}"
            # The first block of T5 has a position bias that no other has.
            return moved if moved in given else name
    return name
