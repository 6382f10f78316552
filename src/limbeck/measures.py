"""What is measured of a model: each number's name, unit, direction and meaning, for all that shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that says how good a model is.

    `share` tells a fraction, shown in percent and compared in points, from a number that is shown as it is; `lower` a
    number of which less is better.
    """

    key: str
    title: str
    meaning: str
    share: bool = True
    lower: bool = False

    @property
    def heading(self) -> str:
        """The title with its unit: `accuracy, %`."""
        return f"{self.title}, %" if self.share else self.title

    @property
    def name(self) -> str:
        """The title at the start of a sentence."""
        return self.title[0].upper() + self.title[1:]

    @property
    def factor(self) -> float:
        """From the number as it is kept to the one that is shown."""
        return 100.0 if self.share else 1.0

    def gain(self, value: float, base: float) -> float:
        """How much better `value` is than `base`; below 0 where it is worse."""
        return base - value if self.lower else value - base

    def rank(self, value: float | None) -> float:
        """A number that is larger for a better value, and smallest for none."""
        if value is None:
            return float("-inf")
        return -value if self.lower else value

    def text(self, value: float, digits: int = 1) -> str:
        """`98.4 %`, or `12.3`."""
        return f"{100 * value:.{digits}f} %" if self.share else f"{value:.{digits + 2}g}"


MEASURES = {
    measure.key: measure
    for measure in (
        Measure("accuracy", "accuracy", "share of test samples answered rightly"),
        Measure("f1", "F1", "overlap of the words of answer and reference, the official way"),
        Measure("exact_match", "exact match", "share of answers equal to a reference, the official way"),
        Measure("bleu", "BLEU", "overlap of one to four words with the reference, sacreBLEU"),
        Measure("chrf", "chrF", "overlap of one to six characters with the reference"),
        Measure("perplexity", "perplexity", "exponential of the NLL a token", share=False, lower=True),
        Measure("bits_per_byte", "bits per byte", "what a byte of text costs, the same for all tokenizers",
                share=False, lower=True),
        Measure("word_perplexity", "word perplexity", "exponential of the NLL a word", share=False, lower=True),
        Measure("pearson", "Pearson’s r", "correlation of prediction and label", share=False),
        Measure("spearman", "Spearman’s ρ", "correlation of their ranks", share=False),
        Measure("mse", "MSE", "mean squared error", share=False, lower=True),
        Measure("mae", "MAE", "mean absolute error", share=False, lower=True),
        Measure("top5", "top-5", "share with the truth among the first five answers"),
        Measure("macro_f1", "macro-F1", "F1 averaged over classes, rare ones as much"),
        Measure("micro_f1", "micro-F1", "F1 of all decisions together"),
        Measure("ap50", "AP50", "average precision of boxes that overlap by half, averaged over classes"),
        Measure("ap", "AP", "average precision, averaged over overlaps of 0.5 to 0.95 and classes, as COCO’s"),
        Measure("ap75", "AP75", "average precision of boxes that overlap by three quarters"),
        Measure("ap_small", "AP, small", "AP of objects of less than 32² pixels"),
        Measure("ap_medium", "AP, medium", "AP of objects from 32² to 96² pixels"),
        Measure("ap_large", "AP, large", "AP of objects of more than 96² pixels"),
        Measure("ar", "AR", "share of objects found by 100 boxes, averaged over overlaps and classes"),
        Measure("pck10", "PCK@0.1", "share of joints within a tenth of the pose’s size of the truth"),
        Measure("pck05", "PCK@0.05", "share of joints within a twentieth of the pose’s size of the truth"),
        Measure("pck20", "PCK@0.2", "share of joints within a fifth of the pose’s size of the truth"),
        Measure("oks_ap", "OKS AP", "average precision of poses, averaged over similarities of 0.5 to 0.95, as COCO’s"),
        Measure("oks_ap50", "OKS AP50", "average precision of poses that are similar by half"),
        Measure("oks_ap75", "OKS AP75", "average precision of poses that are similar by three quarters"),
        Measure("joint_error_share", "joint error", "mean distance of a joint from the truth by the pose’s size",
                lower=True),
        Measure("joint_error", "joint error, pixels", "mean distance of a joint from the truth in the picture",
                share=False, lower=True),
        Measure("map", "mean AP", "average precision, averaged over classes"),
        Measure("mcc", "MCC", "Matthews’ correlation of prediction and label", share=False),
        Measure("nll", "NLL", "negative log-likelihood of the truth, nats", share=False, lower=True),
        Measure("ece", "ECE", "expected calibration error, 15 bins", lower=True),
        Measure("length_ratio", "length ratio", "words of the translation by those of the reference", share=False),
        Measure("tar_far2", "TAR at FAR 1e-2", "share of pairs of one person accepted where 1 in 100 of two is"),
        Measure("tar_far3", "TAR at FAR 1e-3", "share of pairs of one person accepted where 1 in 1,000 of two is"),
        Measure("auc", "AUC", "area under the ROC curve of the pairs", share=False),
        Measure("eer", "EER", "error where false accepts are as frequent as false rejects", lower=True),
        Measure("rank1", "rank-1", "share of pictures whose nearest in a gallery is of the same person"),
        Measure("gallery_tar_far2", "TAR in the teacher’s gallery",
                "as TAR at FAR 1e-2, the student’s picture compared with the teacher’s embedding of the other"),
        Measure("gallery_rank1", "rank-1 in the teacher’s gallery",
                "as rank-1, the student’s pictures searched in the teacher’s gallery"),
        Measure("agreement", "agreement", "share answered as the teacher answers"),
        Measure("teacher_cosine", "cosine to teacher", "mean cosine of embeddings of student and teacher", share=False),
        Measure("teacher_ap50", "AP50 to teacher", "AP50 with what the teacher is sure of as the truth"),
        Measure("missed", "missed", "share of the objects that the teacher finds and the student does not", lower=True),
        Measure("teacher_kl", "KL", "KL(teacher ‖ student), nats", share=False, lower=True),
        Measure("teacher_distance", "distance to teacher",
                "mean distance of a joint from the teacher’s by the pose’s size", lower=True),
        Measure("teacher_bleu", "BLEU to teacher", "overlap with what the teacher says"),
    )
}  # fmt: skip
"""Every measure that a report shows, in the order of its table."""


def measure_of(key: str) -> Measure:
    """A measure by its key; of one that is not in the table, what its name says."""
    return MEASURES.get(key) or Measure(key, key.replace("_", " "), key.replace("_", " "), share=False)
