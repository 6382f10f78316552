"""Recipes: the typed YAML file of a run, and the only place where a name in a string becomes an object."""

from __future__ import annotations

from limbeck.recipe.build import (
    WEIGHT_KEYS,
    build_codecs,
    build_loss,
    build_terms,
)
from limbeck.recipe.parts import (
    AssistantRecipe,
    LabelRecipe,
    ModelRecipe,
    PseudoBoxesRecipe,
    SequenceRecipe,
    StartRecipe,
    StudentRecipe,
    TeacherRecipe,
)
from limbeck.recipe.schema import TEACHER_KEYS, Recipe, read_recipe, shipped_recipes

__all__ = [
    "TEACHER_KEYS",
    "WEIGHT_KEYS",
    "AssistantRecipe",
    "LabelRecipe",
    "ModelRecipe",
    "PseudoBoxesRecipe",
    "Recipe",
    "SequenceRecipe",
    "StartRecipe",
    "StudentRecipe",
    "TeacherRecipe",
    "build_codecs",
    "build_loss",
    "build_terms",
    "read_recipe",
    "shipped_recipes",
]
