"""From a target to the ratio that reaches it: FLOPs, which are exact, and latency, which is measured."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from limbeck.bench import eager, latency
from limbeck.errors import LimbeckError
from limbeck.models import forward_of
from limbeck.models.forward import evaluating
from limbeck.types import Batch

NEAR = 0.01
"""How near to the share of FLOPs a search ends early."""
FAR = 0.05
"""How far from it the nearest may be."""
TRIES = 9
MEASURES = 3


def search_flops(share_left: Callable[[float], float], target: float, most: float) -> float:
    """The ratio, at most `most`, that leaves about the share `target` of the FLOPs, which fall as it grows.

    Raises:
        LimbeckError: the nearest is more than 0.05 away.
    """
    tried: dict[float, float] = {}
    low, high = 0.0, most
    # About the square of what is left: channels count where they are made and where they are read.
    ratio = min(most, 1 - target**0.5)
    for _ in range(TRIES):
        tried[ratio] = share_left(ratio)
        if abs(tried[ratio] - target) <= NEAR:
            break
        low, high = (ratio, high) if tried[ratio] > target else (low, ratio)
        ratio = (low + high) / 2
    best = min(tried, key=lambda each: abs(tried[each] - target))
    if abs(tried[best] - target) > FAR:
        near = ", ".join(f"{left:.3f}" for left in sorted(set(tried.values())))
        raise LimbeckError(
            f"prune: cannot leave {target:.3f} of the FLOPs; the ratios tried leave {near}; ask for one of these, or "
            "take scope='model', which removes single channels"
        )
    return best


def search_latency(
    milliseconds: Callable[[float], float], dense: float, target: float, most: float
) -> tuple[float, float]:
    """The smallest ratio found that takes at most `target` milliseconds, and what it was measured to take.

    Raises:
        LimbeckError: the model is as fast as that already, or not even the ratio `most` reaches it, or measures differ
            too much to tell.
    """
    if dense <= target:
        raise LimbeckError(f"prune: the model takes {dense:.3g} ms already, which is within {target:.3g} ms")
    fastest = milliseconds(most)
    if fastest > target:
        raise LimbeckError(
            f"prune: without {most:.0%} of its channels the model still takes {fastest:.3g} ms, with all {dense:.3g}; "
            f"{target:.3g} ms needs a smaller or shallower model"
        )
    low, high, found = 0.0, most, fastest
    for _ in range(TRIES - 2):
        middle = (low + high) / 2
        took = milliseconds(middle)
        if took <= target:
            high, found = middle, took
            if took >= 0.97 * target:
                break
        else:
            low = middle
    # A lucky measure is no result: it has to come out so again, or a little more goes.
    for _ in range(MEASURES):
        again = milliseconds(high)
        if again <= target:
            return high, max(found, again)
        high = found = min(most, high + 0.05)
    raise LimbeckError(
        f"prune: measures of the same model lie on both sides of {target:.3g} ms, the last at {again:.3g}; measure "
        "on a machine with nothing else to do, or give measure="
    )


def milliseconds_of(model: nn.Module, example: Batch) -> float:
    """The median of a pass in eager PyTorch on one thread, the least of several measures."""
    with evaluating(model):
        runner = {"model": eager(model, forward_of(model), example)}
        return min(float(latency(runner, seconds=0.3)["model"]["p50"]) for _ in range(MEASURES))
