"""The seam: `teacher(batch) -> Signal`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.losses import Loss
from limbeck.teachers.fingerprint import weights_hash
from limbeck.types import Batch, Signal


class Teacher(ABC):
    """Gives signals for a batch, without gradient. It is never a submodule of what is trained.

    Attributes:
        onto: the names of the classes that its logits were mapped onto; None where they are as they come.
        known: those of them that it knows.
        compact: whether its signals of texts have rows only for the tokens that count.
    """

    onto: tuple[str, ...] | None = None
    known: frozenset[str] = frozenset()
    compact: bool = False

    @abstractmethod
    def __call__(self, batch: Batch) -> Signal:
        """The signals asked for with `require`, on the batch's device."""

    @abstractmethod
    def require(self, names: Collection[str]) -> None:
        """Says which signals calls must give; raises LimbeckError for one that this teacher cannot give."""

    def offers(self, name: str) -> bool:
        """Whether a loss that can do without the signal `name` may ask for it."""
        return False

    def refuses(self, name: str, loss: Loss) -> str:
        """Why this teacher's signal `name` cannot serve a loss; empty where it can."""
        return ""

    def give_heads(self, wanted: bool) -> bool:
        """Says whether logits may come as a LinearHead; gives whether they will."""
        return False

    def as_part(self) -> Teacher:
        """This teacher as one of several, where it need not know all classes."""
        return self

    def masks(self, batch: Batch) -> Mapping[str, Tensor]:
        """Of which tokens of a batch it says something, (batch, length) boolean by signal, as the masks of its signals
        are, but without running it; empty where it speaks of all."""
        return {}

    def identity(self) -> str:
        """A hash of all that decides this teacher's answers; the same on any machine."""
        return weights_hash(self.modules())

    def modules(self) -> Iterable[nn.Module]:
        """The modules that must stay as they are while a student learns from them."""
        return ()

    def update(self, student: nn.Module) -> None:  # noqa: B027  (most teachers have nothing to do)
        """Called after each optimizer step; only a teacher that follows its student does something."""

    def state_dict(self) -> dict[str, Tensor]:
        """What must be saved to resume; empty for a teacher that does not change."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave."""
        if state:
            raise LimbeckError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)[:3]}")


def dense(signal: Signal, who: str) -> Signal:
    """Gives `signal` back; raises LimbeckError where a part of it is no dense tensor, which nobody can average."""
    for name, target in signal.targets.items():
        raise LimbeckError(
            f"{who} needs dense tensors of its teachers, but one gives {name} as {type(target).__name__}; label the "
            "data with the codec 'dense'"
        )
    return signal
