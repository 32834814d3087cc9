"""What a recipe names, over what the checkpoint it starts from has: nothing else changes."""

from __future__ import annotations

import dataclasses
from typing import Any

from adapters.chat_template import chat_prompt
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from qformer.bridge import BridgeConfig
from qformer.config import Over
from qformer.contracts import Decoding
from qformer.prompt import PromptConfig
from train.recipe import Recipe


def changed_part(
    before: PartConfig | TokenizerConfig | None, part: Over[Any]
) -> PartConfig | TokenizerConfig:
    """A part of the start with what the recipe names of it. A revision, or a folder within, is one
    of the old path."""
    if before is not None and "path" in part.values:
        before = dataclasses.replace(before, revision=None)
        if isinstance(before, TokenizerConfig):
            before = dataclasses.replace(before, subfolder="")
    return part.over(before)


def bridge_of(recipe: Recipe, old: BridgeConfig | None) -> BridgeConfig:
    """The start's shape with what the recipe names of it."""
    return (old or BridgeConfig()) if recipe.bridge is None else recipe.bridge.over(old)


def prompt_of(recipe: Recipe, kept: CheckpointConfig | None, language: Any) -> PromptConfig:
    """The words around the soft tokens: those of the start, with what the recipe names of them. A
    language model that is new to the bridge is asked as its own chat template has it, if any."""
    before = kept.prompt if kept is not None else PromptConfig()
    new = kept is None or kept.language is None or recipe.start.replaces("language")
    if new and language is not None:
        before = chat_prompt(language) or before
    return before if recipe.prompt is None else recipe.prompt.over(before)


def decoding_of(recipe: Recipe, kept: CheckpointConfig | None) -> Decoding:
    """How answers are written: as the start does it, with what the recipe names of that."""
    before = kept.decoding if kept is not None else Decoding()
    return before if recipe.decoding is None else recipe.decoding.over(before)
