"""Skeletons: which joints there are, which are joined, which are a left and a right of each other, and how exactly each
can be annotated. People or animals: all of it is data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.errors import LimbeckError, nearest

SIGMA = 0.1
"""The OKS sigma of a joint of which none is known, as DeepLabCut has it for all."""

COCO_SIGMAS: Mapping[str, float] = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089, "neck": 0.079, "head_top": 0.079,
}  # fmt: skip
"""COCO's sigmas of people's joints by their names without a side; those of neck and head are CrowdPose's."""

_LEFT_OR_RIGHT = re.compile(
    r"(?i:left|right)"
    r"|(?<![A-Za-z])[LRlr](?![A-Za-z])"  # l_ear, ear-R
    r"|(?<![A-Z])[LR](?=[A-Z][a-z])"  # LEar, frontLPaw
    r"|(?<=[a-z])[LR](?![A-Za-z])"  # earL
)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Joints by name, and what is known of them.

    Attributes:
        joints: the names, in the order of the data.
        edges: pairs of joints that are joined by a bone, by their places, for drawing.
        pairs: the left and the right of a joint, by their places: a mirrored picture swaps them.
        sigmas: of each joint how far annotators differ, in shares of the person's size: the constants of COCO's object
            keypoint similarity. `SIGMA` for all where none are given.

    Raises:
        LimbeckError: a name twice, a place that there is not, a joint with two mirror images, sigmas that are not
            positive or not one a joint.
    """

    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.joints or len(set(self.joints)) != len(self.joints):
            raise LimbeckError(f"skeleton: expected joints with a name of their own each, got {self.joints}")
        for what, given in (("edge", self.edges), ("pair", self.pairs)):
            for each in given:
                if len(each) != 2 or each[0] == each[1] or not all(0 <= at < len(self.joints) for at in each):
                    raise LimbeckError(f"skeleton: the {what} {each} is not of two of the {len(self.joints)} joints")
        mirrored = [at for pair in self.pairs for at in pair]
        if len(set(mirrored)) != len(mirrored):
            twice = next(at for at in mirrored if mirrored.count(at) > 1)
            raise LimbeckError(f"skeleton: the joint {self.joints[twice]!r} is in two left-right pairs")
        if not self.sigmas:
            object.__setattr__(self, "sigmas", (SIGMA,) * len(self.joints))
        if len(self.sigmas) != len(self.joints) or not all(sigma > 0 for sigma in self.sigmas):
            raise LimbeckError(
                f"skeleton: expected a sigma above 0 for each of the {len(self.joints)} joints, got {self.sigmas}"
            )

    def __len__(self) -> int:
        return len(self.joints)

    @property
    def mirrored(self) -> tuple[int, ...]:
        """For each joint the place of the one that a mirrored picture shows in its stead."""
        order = list(range(len(self.joints)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return tuple(order)

    def at(self, name: str) -> int:
        """The place of a joint. Raises LimbeckError for a name that there is not."""
        if name not in self.joints:
            raise LimbeckError(f"skeleton: no joint {name!r}{nearest(name, self.joints)}")
        return self.joints.index(name)


def skeleton_of(joints: Sequence[str], edges: Sequence[Sequence[int]] = ()) -> Skeleton:
    """A skeleton of these joints, whose left and right are told by their names (`left_eye`, `r_hip`, `EarLeft`, `LEye`,
    `eyeR`, and `leye` where there is an `reye`), with COCO's sigmas where all of them are known."""
    names = tuple(joints)
    places = {name.lower(): at for at, name in enumerate(names)}
    pairs, bare = set(), [_sideless(name) for name in names]
    for at, name in enumerate(names):
        turned = _LEFT_OR_RIGHT.sub(lambda found: _OTHER[found.group().lower()], name)
        glued = turned == name and name[:1].lower() in _OTHER
        if glued:
            turned = _OTHER[name[0].lower()] + name[1:]
        other = places.get(turned.lower(), at)
        if other != at:
            pairs.add((min(at, other), max(at, other)))
            bare[at] = _sideless(name[1:]) if glued else bare[at]
    sigmas = [COCO_SIGMAS.get(name) for name in bare]
    known = tuple(sigma for sigma in sigmas if sigma is not None)
    return Skeleton(
        names,
        tuple((int(edge[0]), int(edge[1])) for edge in edges),
        tuple(sorted(pairs)),
        known if len(known) == len(names) else (),
    )


def _sideless(name: str) -> str:
    return re.sub(r"_+", "_", _LEFT_OR_RIGHT.sub("", name).lower().replace(" ", "_").replace("-", "_")).strip("_")
