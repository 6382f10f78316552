"""Faces by name: pictures of persons, and the pairs that models are measured on."""

from __future__ import annotations

from limbeck.sources.faces.loading import load_faces
from limbeck.sources.faces.pairs import Pairs, made_pairs, parse_pairs, read_pairs
from limbeck.sources.faces.sets import FaceData, FaceSet

__all__ = ["FaceData", "FaceSet", "Pairs", "load_faces", "made_pairs", "parse_pairs", "read_pairs"]
