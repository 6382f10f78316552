"""The table of losses: what each is called, what it needs, where it comes from, what to weigh it with."""

from __future__ import annotations

from limbeck.losses.methods.answers import ANSWERS
from limbeck.losses.methods.cross_tokenizer import CROSS_TOKENIZER
from limbeck.losses.methods.detection import DETECTION
from limbeck.losses.methods.faces import FACES
from limbeck.losses.methods.features import FEATURES
from limbeck.losses.methods.language import LANGUAGE
from limbeck.losses.methods.logits import LOGIT_METHODS
from limbeck.losses.methods.method import Method
from limbeck.losses.methods.poses import POSES
from limbeck.losses.methods.relations import RELATIONS
from limbeck.losses.methods.transformers import TRANSFORMERS

METHODS: tuple[Method, ...] = (
    *ANSWERS,
    *LOGIT_METHODS,
    *LANGUAGE,
    *CROSS_TOKENIZER,
    *FEATURES,
    *RELATIONS,
    *TRANSFORMERS,
    *DETECTION,
    *FACES,
    *POSES,
)

__all__ = ["METHODS", "Method"]
