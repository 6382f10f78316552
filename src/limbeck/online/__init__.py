"""Learning while it happens: students that teach one another, and a student that is taught on what it says itself."""

from __future__ import annotations

from limbeck.online.mutual import Mutual, PeerKD
from limbeck.online.on_policy import OnPolicy, own_sample_kl
from limbeck.online.replay import ReplayBuffer
from limbeck.online.sampling import Prompts, Samples, sample

__all__ = ["Mutual", "OnPolicy", "PeerKD", "Prompts", "ReplayBuffer", "Samples", "own_sample_kl", "sample"]
