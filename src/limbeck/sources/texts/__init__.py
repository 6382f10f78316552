"""Texts by name, and the tokens that models read of them."""

from limbeck.sources.texts.classification import TextData, TextSet, load_texts
from limbeck.sources.texts.documents import Documents, load_documents
from limbeck.sources.texts.packing import PackedSet
from limbeck.sources.texts.pair_data import PairData, load_pairs
from limbeck.sources.texts.pairs import PairSet
from limbeck.sources.texts.parallel import Parallel, ParallelTexts, read_parallel
from limbeck.sources.texts.questions import WindowSet
from limbeck.sources.texts.reading import TextPart, TextSource, read_texts
from limbeck.sources.texts.retokenizing import Retokenize
from limbeck.sources.texts.squad import Question, load_questions
from limbeck.sources.texts.tokenizing import Tokenizing, open_tokenizer, train_tokenizer

__all__ = [
    "Documents",
    "PackedSet",
    "PairData",
    "PairSet",
    "Parallel",
    "ParallelTexts",
    "Question",
    "Retokenize",
    "TextData",
    "TextPart",
    "TextSet",
    "TextSource",
    "Tokenizing",
    "WindowSet",
    "load_documents",
    "load_pairs",
    "load_questions",
    "load_texts",
    "open_tokenizer",
    "read_parallel",
    "read_texts",
    "train_tokenizer",
]
