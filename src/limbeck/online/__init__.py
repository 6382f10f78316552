"""Learning without a teacher that was trained before: students that teach one another."""

from __future__ import annotations

from limbeck.online.mutual import Mutual, PeerKD

__all__ = ["Mutual", "PeerKD"]
