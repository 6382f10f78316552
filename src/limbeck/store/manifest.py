"""What a label store says of itself: whose signals of what data, how kept, in which files, with which checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from limbeck.errors import LimbeckError
from limbeck.files import read_json, write_json
from limbeck.store.codecs import Codec, codec_of

MANIFEST, PLAN, FORMAT = "manifest.json", "plan.json", "limbeck-labels/2"

Per = Literal["sample", "token", "next-token", "decoder-token"]
"""What a signal has a row for: a sample, a token of its text, a token from which the next is predicted, or a token of
its target."""


@dataclass(frozen=True, slots=True)
class SignalPlan:
    """One signal: what an item is, the shape of an item as the teacher gives it, and the codec that keeps it."""

    per: Per
    shape: tuple[int, ...]
    codec: Codec

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"per": self.per, "shape": list(self.shape), **self.codec.options()}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> SignalPlan:
        """What `plain` gave."""
        options = {key: value for key, value in plain.items() if key not in ("per", "shape")}
        return cls(plain["per"], tuple(plain["shape"]), codec_of(options))


@dataclass(frozen=True, slots=True)
class ViewPlan:
    """The augmented views: what makes them, from which seed, and how many there are."""

    augmentation: str
    mixing: str
    seed: int
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be stored, before the first shard is.

    `teacher` is its name, `weights` the hash of its weights; `preprocessing` says how pixels reached it (None for other
    data); `shards` are the numbers of records of each; `classes` names the logits, in their order, where that is known;
    `data` is a fingerprint of the samples, in their order.
    """

    teacher: str
    weights: str
    preprocessing: Mapping[str, Any] | None
    views: ViewPlan | None
    seed: int
    signals: Mapping[str, SignalPlan]
    shards: tuple[int, ...]
    classes: tuple[str, ...] = ()
    data: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "format": FORMAT,
            "teacher": self.teacher,
            "weights": self.weights,
            "preprocessing": None if self.preprocessing is None else dict(self.preprocessing),
            "views": None if self.views is None else asdict(self.views),
            "seed": self.seed,
            "signals": {name: signal.plain() for name, signal in self.signals.items()},
            "shards": list(self.shards),
            "classes": list(self.classes),
            "data": self.data,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Plan:
        """What `plain` gave."""
        return cls(
            plain["teacher"],
            plain["weights"],
            plain["preprocessing"],
            None if plain["views"] is None else ViewPlan(**plain["views"]),
            plain["seed"],
            {name: SignalPlan.of(signal) for name, signal in plain["signals"].items()},
            tuple(plain["shards"]),
            tuple(plain["classes"]),
            plain["data"],
        )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the store: its name, size in bytes, SHA-256, and what is in it."""

    file: str
    bytes: int
    sha256: str
    records: int = 0
    items: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished store's plan and its files; `constants` is None where the codecs need none."""

    plan: Plan
    files: tuple[FileEntry, ...]
    constants: FileEntry | None = None
    plain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """Samples times views."""
        return sum(entry.records for entry in self.files)

    @property
    def items(self) -> int:
        """Tokens in all records; as many as records where no signal has a row a token."""
        return sum(entry.items for entry in self.files)

    @property
    def bytes(self) -> int:
        """Of all files but this one."""
        return sum(entry.bytes for entry in (*self.files, *([self.constants] if self.constants else [])))

    def write(self, folder: Path) -> None:
        """Writes the manifest, whole or not at all, with a checksum of itself."""
        content = {
            **self.plan.plain(),
            "files": [asdict(entry) for entry in self.files],
            "constants": None if self.constants is None else asdict(self.constants),
        }
        write_json(folder / MANIFEST, {**content, "checksum": checksum(content)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in `folder`.

        Raises:
            LimbeckError: there is none, labelling was not finished, or the manifest is not as it was written.
        """
        path = folder / MANIFEST
        if not path.exists():
            if (folder / PLAN).exists():
                raise LimbeckError(f"{folder}: labelling was not finished; run the same `limbeck label` command again")
            raise LimbeckError(f"{folder}: holds no label store (no {MANIFEST}); write one with `limbeck label`")
        remedy = f"restore it, or delete {folder} and label the data again, as its shards cannot be checked without it"
        try:
            plain = read_json(path)
        except LimbeckError:
            raise LimbeckError(f"{path}: is cut off or no JSON; {remedy}") from None
        if not isinstance(plain, dict) or "checksum" not in plain:
            raise LimbeckError(f"{path}: is not the manifest of a label store; {remedy}")
        content = {key: value for key, value in plain.items() if key != "checksum"}
        if content.get("format") != FORMAT:
            raise LimbeckError(
                f"{path}: has format {content.get('format')!r}, this limbeck reads {FORMAT!r}; delete "
                f"{folder} and label the data again"
            )
        if checksum(content) != plain["checksum"]:
            raise LimbeckError(
                f"{path}: was changed after it was written (its checksum is {checksum(content)[:12]}…, it says "
                f"{str(plain['checksum'])[:12]}…); {remedy}"
            )
        constants = content["constants"]
        return cls(
            Plan.of(content),
            tuple(FileEntry(**entry) for entry in content["files"]),
            None if constants is None else FileEntry(**constants),
            content,
        )


def checksum(content: Any) -> str:
    """SHA-256 of a JSON value, in one spelling."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
