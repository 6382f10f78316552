"""Recipes: the typed YAML file of a run, and the only place where a name in a string becomes an object."""

from __future__ import annotations

from limbeck.recipe.build import build_augmentation, build_codecs, build_loss, build_terms, build_view
from limbeck.recipe.schema import (
    DataRecipe,
    LabelRecipe,
    ModelRecipe,
    Recipe,
    TeacherRecipe,
    expected_preprocessing,
    read_recipe,
    shipped_recipes,
)

__all__ = [
    "DataRecipe",
    "LabelRecipe",
    "ModelRecipe",
    "Recipe",
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
