"""How good translations are by sacreBLEU's scores, and how near a student's are to its teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from limbeck.errors import LimbeckError, nearest

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU, CHRF

Similarity = Literal["bleu", "chrf"]
SIMILARITIES: tuple[Similarity, ...] = ("bleu", "chrf")


def translation_metrics(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """How near translations are to their references, by sacreBLEU (Post 2018, arXiv:1804.08771).

    `hypotheses` and `references` (samples,) are texts as people write them, not split into tokens.

    - `bleu`: corpus BLEU (Papineni et al. 2002), a fraction; sacreBLEU's default: 13a tokens, exponential smoothing
      (signature nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp);
    - `chrf`: chrF2 (Popović 2015), a fraction: characters up to 6-grams (nrefs:1|case:mixed|eff:yes|nc:6|nw:0);
    - `length_ratio`: 13a tokens of the hypotheses over those of the references; below 1 BLEU has a brevity penalty.

    Raises:
        LimbeckError: there is no text, the two are not of one length, or sacrebleu is not installed.
    """
    _same_length(hypotheses, references)
    bleu = _bleu().corpus_score(list(hypotheses), [list(references)])
    chrf = _chrf().corpus_score(list(hypotheses), [list(references)])
    return {"bleu": bleu.score / 100, "chrf": chrf.score / 100, "length_ratio": bleu.sys_len / max(bleu.ref_len, 1)}


def translation_fidelity(student: Sequence[str], teacher: Sequence[str]) -> dict[str, float]:
    """How near a student's translations are to its teacher's, both (samples,) texts.

    - `agreement`: the fraction of samples with the very same translation;
    - `teacher_bleu`: corpus BLEU of the student against the teacher, a fraction; see `translation_metrics`.

    Raises:
        LimbeckError: as `translation_metrics`.
    """
    _same_length(student, teacher)
    same = sum(one == other for one, other in zip(student, teacher, strict=True))
    return {"agreement": same / len(student), "teacher_bleu": translation_metrics(student, teacher)["bleu"]}


def sentence_scores(
    hypotheses: Sequence[str], references: Sequence[str], *, similarity: Similarity = "bleu"
) -> list[float]:
    """How near each translation by itself is to its reference, fractions; both are (samples,) texts.

    Sentence BLEU only counts the lengths of n-grams that a hypothesis has, so that short ones are not 0.

    Raises:
        LimbeckError: as `translation_metrics`; the similarity is not known.
    """
    _same_length(hypotheses, references)
    if similarity not in SIMILARITIES:
        raise LimbeckError(f"unknown similarity {similarity!r}{nearest(str(similarity), SIMILARITIES)}")
    metric = _bleu(effective_order=True) if similarity == "bleu" else _chrf()
    pairs = zip(hypotheses, references, strict=True)
    return [metric.sentence_score(hypothesis, [reference]).score / 100 for hypothesis, reference in pairs]


def _same_length(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise LimbeckError("translations: expected lists of texts, got one text; give [text]")
    if len(hypotheses) != len(references) or not len(references):
        raise LimbeckError(
            f"translations: expected at least one text and a reference for each, got {len(hypotheses)} texts and "
            f"{len(references)} references"
        )


def _bleu(*, effective_order: bool = False) -> BLEU:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise _missing() from None
    return BLEU(effective_order=effective_order)


def _chrf() -> CHRF:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        raise _missing() from None
    return CHRF()


def _missing() -> LimbeckError:
    return LimbeckError('translations are measured by sacrebleu, which is not installed; pip install "limbeck[text]"')
