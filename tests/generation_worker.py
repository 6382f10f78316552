"""A generation that a test starts on two processes, into a cache and in memory.

At the end each process writes what it was given, and how many texts its model read, beside the folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BartConfig, BartForConditionalGeneration

from limbeck.generation import generate

ENDS = [2, 3, 5, 7, 9, 11, 13, 15, 17]
"""So many that a model without training ends, some of its texts sooner and some later."""


class Texts(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Texts of 1 to 9 tokens in no order, padded on the right."""

    def __init__(self, count: int = 60) -> None:
        lengths = torch.randint(1, 10, (count,), generator=torch.Generator().manual_seed(1)).tolist()
        draw = torch.Generator().manual_seed(2)
        self.rows = [torch.randint(4, 40, (length,), generator=draw) for length in lengths]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, at: list[int]) -> dict[str, Tensor]:
        ids = torch.nn.utils.rnn.pad_sequence([self.rows[index] for index in at], batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "ids": torch.tensor(at) + 1000}


def drawn(model: Any, seed: int) -> Any:
    """The model with weights large enough for it to say various things."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.6, generator=generator)
    return model


def translator(seed: int = 1) -> Any:
    """A small encoder-decoder."""
    config = BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=32, pad_token_id=0,
        bos_token_id=1, eos_token_id=ENDS, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    return drawn(BartForConditionalGeneration(config), seed)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    model, said, seen = translator(), {}, []
    model.get_encoder().register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )
    for way, cache in (("stored", folder), ("kept", None)):
        seen.clear()
        said[way] = generate(model, Texts(), beams=2, max_new_tokens=8, batch_tokens=30, cache=cache)
        said[f"saw_{way}"] = sum(seen)
    Path(f"{folder}-{os.environ['RANK']}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
