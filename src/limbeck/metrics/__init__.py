"""What is measured of a model: how right, how near its teacher, at what cost, and whether seeds agree."""

from __future__ import annotations

from limbeck.metrics.classification import classification_details, classification_metrics
from limbeck.metrics.cost import PeakMemory, size_of
from limbeck.metrics.decoding import decode_heatmaps, decode_keypoints, decode_simcc
from limbeck.metrics.fidelity import agreement, disagreements, fidelity
from limbeck.metrics.gallery import Alignment, alignment_needed, fit_alignment
from limbeck.metrics.labels import multilabel_metrics, regression_metrics
from limbeck.metrics.language import language_metrics, token_divergences, token_scores
from limbeck.metrics.poses import TruePoses, oks, oks_ap, pck
from limbeck.metrics.question_answering import answer_fidelity, answer_metrics, decode_spans, span_kl
from limbeck.metrics.statistics import holm, interval, mean_std, paired
from limbeck.metrics.translation import sentence_scores, translation_fidelity, translation_metrics
from limbeck.metrics.verification import Verified, identification, pair_scores

__all__ = [
    "Alignment",
    "PeakMemory",
    "TruePoses",
    "Verified",
    "agreement",
    "alignment_needed",
    "answer_fidelity",
    "answer_metrics",
    "classification_details",
    "classification_metrics",
    "decode_heatmaps",
    "decode_keypoints",
    "decode_simcc",
    "decode_spans",
    "disagreements",
    "fidelity",
    "fit_alignment",
    "holm",
    "identification",
    "interval",
    "language_metrics",
    "mean_std",
    "multilabel_metrics",
    "oks",
    "oks_ap",
    "pair_scores",
    "paired",
    "pck",
    "regression_metrics",
    "sentence_scores",
    "size_of",
    "span_kl",
    "token_divergences",
    "token_scores",
    "translation_fidelity",
    "translation_metrics",
]
