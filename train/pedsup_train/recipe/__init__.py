"""Recipes: everything that decides a training run, as data."""

from pedsup_train.recipe.schema import SourceConfig as SourceConfig
