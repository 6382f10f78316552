"""Teachers behind an OpenAI-compatible endpoint: what they say is asked for once, and kept."""

from limbeck.teachers.endpoint.labels import label_by_endpoint
from limbeck.teachers.endpoint.named import is_endpoint, named_endpoint
from limbeck.teachers.endpoint.sequences import Decoding, Written, read_written, store_written, write_by_endpoint
from limbeck.teachers.endpoint.settings import Budget, Endpoint

__all__ = [
    "Budget",
    "Decoding",
    "Endpoint",
    "Written",
    "is_endpoint",
    "label_by_endpoint",
    "named_endpoint",
    "read_written",
    "store_written",
    "write_by_endpoint",
]
