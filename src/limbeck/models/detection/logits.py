"""Logits whose sigmoid is the score, of detectors that know softmax."""

from __future__ import annotations

import torch
from torch import Tensor


def log_odds(logits: Tensor) -> Tensor:
    """log(p / (1 − p)) of each class, where p is the softmax over the last dimension: (…, classes) of the same shape.

    1 − p is the sum over the other classes, so that a class that has nearly all of the probability keeps its odds.
    """
    total = logits.logsumexp(-1, keepdim=True)
    top = logits.argmax(-1, keepdim=True)
    others = logits.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    # Of a class that is not the top one, p is at most a half, and log(1 − p) exact.
    shares = (logits - total).exp().scatter(-1, top, 0.0)
    rest = (total + torch.log1p(-shares)).scatter(-1, top, others)
    return logits - rest
