"""What a text's tokens spell, written again in the tokens of another tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from limbeck.alignment import NOWHERE, TokenBytes, special_counterparts
from limbeck.errors import LimbeckError
from limbeck.teachers.fingerprint import combined


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A text in both tokenisations: how many bytes of it have been read with each token, (tokens,) int64, -1 for one
    that cannot be aligned; the teacher's ids; and whether some of the text did not come back."""

    student_ends: Tensor
    teacher_ids: Tensor
    teacher_ends: Tensor
    lost: bool


class Speller:
    """Writes what the student's tokens spell in the teacher's; special tokens become their counterparts.

    Args:
        student: the tokenizer of the ids.
        teacher: the tokenizer to write them in.
        special: counterparts of special tokens that roles and names do not give.
        max_length: how many of the teacher's tokens a text may have; None for any number.

    Raises:
        LimbeckError: the bytes of a tokenizer's tokens cannot be told.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerFast,
        teacher: PreTrainedTokenizerFast,
        special: Mapping[str, str] | None = None,
        max_length: int | None = None,
    ) -> None:
        self.student, self.teacher = TokenBytes(student, "student"), TokenBytes(teacher, "teacher")
        self.first, self.inside = special_counterparts(self.student, self.teacher, special)
        self._max_length = max_length
        before: list[int] = teacher("a")["input_ids"]
        self._begin = before[:1] if before[0] in self.teacher.special else []
        fillings = (teacher.pad_token_id, teacher.eos_token_id)
        self.filling = next((int(each) for each in fillings if each is not None), 0)

    @property
    def vocabulary(self) -> int:
        """How many logits of the teacher's are tokens; a model may have more."""
        return len(self.teacher)

    def identity(self) -> str:
        """A hash of all that decides how texts are written."""
        settings = (self._max_length, sorted(self.first.items()), sorted(self.inside.items()))
        return combined(repr(self.student.content), repr(self.teacher.content), repr(settings))

    def documents(self, texts: Sequence[Sequence[int]]) -> list[Document]:
        """Texts of the student's tokens in both tokenisations."""
        spelled = [self._spelled(ids) for ids in texts]
        written = iter(self.teacher.encoded([text for each in spelled for text in each.texts]))
        return [self._written(each, [next(written) for _ in each.texts]) for each in spelled]

    def _spelled(self, ids: Sequence[int]) -> _Spelling:
        """The spans of text between special tokens, each of which counts as a byte."""
        tokens = self.student
        found = _Spelling([], [], [], False, True)
        at = clock = 0
        while at < len(ids) and found.whole:
            if tokens.pieces[ids[at]] is None:
                clock = self._special(ids[at], at, clock, found)
                at += 1
                continue
            stop = next((place for place in range(at, len(ids)) if tokens.pieces[ids[place]] is None), len(ids))
            pieces = [tokens.pieces[index] or b"" for index in ids[at:stop]]
            spelled = b"".join(pieces)
            leads = tokens.leads_again if found.texts else tokens.leads
            skipped = int(leads and spelled[:1] == b" ")
            read = -skipped
            for piece in pieces:
                read += len(piece)
                found.ends.append(clock + max(read, 0))
            self._text(spelled[skipped:], clock, found, last=stop == len(ids))
            clock += read
            at = stop
        found.ends.extend([NOWHERE] * (len(ids) - len(found.ends)))
        return found

    def _special(self, index: int, at: int, clock: int, found: _Spelling) -> int:
        """Adds a token without text at place `at` of its document; gives the bytes read with it."""
        known = index in self.student.special and index != self.student.tokenizer.unk_token_id
        other = (self.inside if at else self.first).get(index)
        if known and other is None and at:
            name = self.student.special[index]
            raise LimbeckError(
                f"the student's special token {name!r} is inside of a text, and the teacher's tokenizer has none like "
                f"it; say which it is: special={{{name!r}: …}}"
            )
        found.whole = known
        if other is not None:
            found.begins_special |= not at
            found.parts.append((clock, -1 - other))
            clock += 1
        found.ends.append(clock if known else NOWHERE)
        return clock

    @staticmethod
    def _text(spelled: bytes, clock: int, found: _Spelling, *, last: bool) -> None:
        """Adds a span of text, up to the first byte that is none; the end of a row may cut a character."""
        text = spelled
        try:
            spelled.decode()
        except UnicodeDecodeError as error:
            text = spelled[: error.start]
            found.whole = last and error.end == len(spelled) and error.reason == "unexpected end of data"
        if text:
            found.parts.append((clock, len(found.texts)))
            found.texts.append(text.decode())

    def _written(self, spelling: _Spelling, written: Sequence[Sequence[int]]) -> Document:
        """A text in the teacher's tokens, of which `written` are those of each span."""
        tokens = self.teacher
        ids = [] if spelling.begins_special else list(self._begin)
        ends = [0] * len(ids)
        lost = not spelling.whole
        for clock, part in spelling.parts:
            if part < 0:
                ids.append(-1 - part)
                ends.append(clock + 1)
                continue
            wanted, got = spelling.texts[part].encode(), tokens.joined(written[part])
            leads = int(got != wanted and tokens.leads and got[:1] == b" ")
            same, read = _common(got[leads:], wanted), -leads
            for index in written[part]:
                piece = tokens.pieces[index]
                read += len(piece or b"")
                ids.append(index)
                ends.append(clock + max(read, 0) if piece is not None and read <= same else NOWHERE)
            if same < max(len(got) - leads, len(wanted)):
                lost = True  # what follows is after another text
                break
        if not ids:
            ids, ends = [self.filling], [NOWHERE]
        cut = slice(self._max_length)
        return Document(torch.tensor(spelling.ends), torch.tensor(ids[cut]), torch.tensor(ends[cut]), lost)


@dataclass(slots=True, eq=False)
class _Spelling:
    """What a text's tokens spell: `texts`, and their order among special tokens.

    `parts` hold the byte at which each begins, and its place in `texts`, or -1 - id of a special token of the
    teacher's. `ends` are the bytes read with each of the student's tokens; `whole` says whether all could be spelled.
    """

    texts: list[str]
    parts: list[tuple[int, int]]
    ends: list[int]
    begins_special: bool
    whole: bool


def _common(one: bytes, other: bytes) -> int:
    """How many bytes are the same from the beginning."""
    if one == other:
        return len(one)
    shorter = min(len(one), len(other))
    return next((place for place in range(shorter) if one[place] != other[place]), shorter)
