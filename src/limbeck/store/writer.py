"""Writing a label store, shard by shard, so that a kill costs no more than the shard that was being made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.files import difference, read_json, write_json
from limbeck.store.codecs import Columns
from limbeck.store.manifest import MANIFEST, PLAN, FileEntry, Manifest, Plan
from limbeck.store.shards import mapped, verified, write_shard

CONSTANTS, SHARDS = "constants.safetensors", "labels-*.safetensors"
CONSTANTS_NOTE = "constants.json"


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Samples in views, encoded: of each its id, view, content id and number of items, all (records,) int64; and the
    columns of each signal. A sample has one item but in texts, whose tokens are its items."""

    ids: Tensor
    views: Tensor
    content: Tensor
    lengths: Tensor
    signals: Mapping[str, Columns]


class StoreWriter:
    """One process's part in writing a store.

    Finished shards carry a note with their checksum; the manifest is written last, when all are there, and the notes
    and the plan go. A folder with another plan, in which nothing may be overwritten, is an error that names the
    difference.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.plan = plan

    def begin(self) -> list[str]:
        """Claims the folder for the plan; one process does this.

        A finished store of this plan is compared with its checksums: those of its files that are missing or corrupt are
        to be made again, and what is wrong with each is given back.

        Raises:
            LimbeckError: the folder holds another plan, a manifest that nobody can trust, or something that is no label
                store.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise LimbeckError(f"{self.folder} is a file; a label store is a folder, so choose another path")
        known = self._known()
        if known is not None:
            plan = self.plan.plain()
            found = difference({key: known.get(key) for key in plan}, plan)
            if found:
                raise LimbeckError(
                    f"{self.folder} holds labels of another plan ({found}); choose another folder, or delete this one"
                )
        for left in self.folder.glob(".*.partial"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        wrong = self._reopened() if self.finished else []
        if not self.finished:
            write_json(self.folder / PLAN, self.plan.plain())
        return wrong

    def _known(self) -> Mapping[str, Any] | None:
        """The plan, as JSON has it, of what is in the folder; None where nothing is."""
        if self.finished:
            return Manifest.read(self.folder).plain
        if (self.folder / PLAN).exists():
            plan = read_json(self.folder / PLAN)
            return plan if isinstance(plan, dict) else {}
        if not self.folder.exists() or not any(self.folder.iterdir()):
            return None
        if any(self.folder.glob(SHARDS)):
            raise LimbeckError(
                f"{self.folder} holds shards without the {MANIFEST} that says whether they are whole; restore that, or "
                f"delete {SHARDS} and {CONSTANTS} there to label again"
            )
        raise LimbeckError(f"{self.folder} is not empty and holds no label store; choose another folder")

    def _reopened(self) -> list[str]:
        """What is wrong with a finished store's files; where something is, it is unfinished again, without them."""
        manifest = Manifest.read(self.folder)
        entries = [*manifest.files, *([manifest.constants] if manifest.constants else [])]
        wrong, good = [], []
        for entry in entries:
            try:
                verified(self.folder, entry)
                good.append(entry)
            except LimbeckError as error:
                wrong.append(str(error))
        if wrong:
            for entry in good:
                write_json((self.folder / entry.file).with_suffix(".json"), asdict(entry))
            write_json(self.folder / PLAN, self.plan.plain())
            (self.folder / MANIFEST).unlink()
        return wrong

    @property
    def finished(self) -> bool:
        """Whether the manifest is there."""
        return (self.folder / MANIFEST).exists()

    def missing(self) -> list[int]:
        """The numbers of the shards that are not there as they were written."""
        return [number for number in range(len(self.plan.shards)) if self._note(number) is None]

    def write(self, number: int, records: Records) -> None:
        """Writes one shard, then its note."""
        if len(records.ids) != self.plan.shards[number]:
            raise LimbeckError(
                f"{self.folder}: shard {number} was to hold {self.plan.shards[number]} samples, the data now gives "
                f"{len(records.ids)}; the data must not change while it is labelled"
            )
        starts = torch.zeros(len(records.lengths) + 1, dtype=torch.int64)
        torch.cumsum(records.lengths, 0, out=starts[1:])
        columns = {"id": records.ids, "view": records.views, "content": records.content, "start": starts}
        for signal, own in records.signals.items():
            columns |= {f"{signal}/{name}": column for name, column in own.items()}
        entry = write_shard(
            self.folder / _name(number), columns, records=len(records.ids), items=int(records.lengths.sum())
        )
        write_json(self.folder / _note_name(number), asdict(entry))

    def write_constants(self, constants: Columns) -> None:
        """Writes the tensors that the codecs need once; one process does this."""
        entry = write_shard(self.folder / CONSTANTS, constants, records=0, items=0)
        write_json(self.folder / CONSTANTS_NOTE, asdict(entry))

    def finish(self) -> None:
        """Writes the manifest and clears away what only labelling needed; one process does this, after all shards.

        Raises:
            LimbeckError: a shard is missing, or two samples are called the same.
        """
        if not self.finished:
            notes = [self._note(number) for number in range(len(self.plan.shards))]
            lost = [number for number, note in enumerate(notes) if note is None]
            if lost:
                raise LimbeckError(
                    f"{self.folder}: {len(lost)} of {len(notes)} shards are missing; run the same command again"
                )
            self._keys_differ()
            constants = self.folder / CONSTANTS_NOTE
            entry = FileEntry(**read_json(constants)) if constants.exists() else None
            Manifest(self.plan, tuple(note for note in notes if note is not None), entry).write(self.folder)
        for number in range(len(self.plan.shards)):
            (self.folder / _note_name(number)).unlink(missing_ok=True)
        (self.folder / CONSTANTS_NOTE).unlink(missing_ok=True)
        (self.folder / PLAN).unlink(missing_ok=True)

    def _keys_differ(self) -> None:
        shards = [mapped(self.folder / _name(number)) for number in range(len(self.plan.shards))]
        ids, views, content = (torch.cat([shard[name] for shard in shards]) for name in ("id", "view", "content"))
        different_keys(self.folder, ids, views, content)

    def _note(self, number: int) -> FileEntry | None:
        path = self.folder / _note_name(number)
        if not path.exists():
            return None
        try:
            entry = FileEntry(**read_json(path))
            verified(self.folder, entry)
        except (LimbeckError, TypeError):
            return None  # it is made again
        return entry


def _name(number: int) -> str:
    return f"labels-{number:05}.safetensors"


def _note_name(number: int) -> str:
    return f"labels-{number:05}.json"


def different_keys(folder: Path, ids: Tensor, views: Tensor, content: Tensor) -> None:
    """Raises LimbeckError where samples of one id and view (records,) are not of one content: a student would get the
    labels of either for both."""
    order = np.lexsort((views.numpy(), ids.numpy()))
    ids, views, content = (each[torch.from_numpy(order)] for each in (ids, views, content))
    same = (ids[1:] == ids[:-1]) & (views[1:] == views[:-1]) & (content[1:] != content[:-1])
    if bool(same.any()):
        at = int(same.nonzero()[0])
        raise LimbeckError(
            f"{folder}: several samples are called {int(ids[at])} in view {int(views[at])}, and have other contents; "
            "give each its own id, over all data sets that are labelled together (two splits must not both count from "
            "0), or give none, and samples are known by their content"
        )
