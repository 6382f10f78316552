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
from limbeck.recipe.schema import SHIPPING, TEACHER_KEYS, Recipe, read_recipe, shipped_recipes
from limbeck.recipe.shipping import Chain, PruneRecipe, QuantizeRecipe, read_chain

__all__ = [
    "SHIPPING",
    "TEACHER_KEYS",
    "WEIGHT_KEYS",
    "AssistantRecipe",
    "Chain",
    "LabelRecipe",
    "ModelRecipe",
    "PruneRecipe",
    "PseudoBoxesRecipe",
    "QuantizeRecipe",
    "Recipe",
    "SequenceRecipe",
    "StartRecipe",
    "StudentRecipe",
    "TeacherRecipe",
    "build_codecs",
    "build_loss",
    "build_terms",
    "read_chain",
    "read_recipe",
    "shipped_recipes",
]
