"""Recipes: the typed YAML file of a run, and the only place where a name in a string becomes an object."""

from __future__ import annotations

from limbeck.recipe.build import (
    WEIGHT_KEYS,
    build_augmentation,
    build_codecs,
    build_loss,
    build_terms,
    build_view,
)
from limbeck.recipe.schema import (
    AssistantRecipe,
    DataRecipe,
    LabelRecipe,
    ModelRecipe,
    Recipe,
    StartRecipe,
    StudentRecipe,
    TeacherRecipe,
    expected_preprocessing,
    read_recipe,
    shipped_recipes,
)

__all__ = [
    "WEIGHT_KEYS",
    "AssistantRecipe",
    "DataRecipe",
    "LabelRecipe",
    "ModelRecipe",
    "Recipe",
    "StartRecipe",
    "StudentRecipe",
    "TeacherRecipe",
    "build_augmentation",
    "build_codecs",
    "build_loss",
    "build_terms",
    "build_view",
    "expected_preprocessing",
    "read_recipe",
    "shipped_recipes",
]
