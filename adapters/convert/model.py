"""What a model is made of, whatever form it lies in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.config import CheckpointConfig
from adapters.folder import open_model
from adapters.lavis_vision import Loose
from adapters.tokenizer import open_tokenizer
from adapters.weights import WeightFiles


@dataclass(frozen=True)
class Model:
    """weights: the bridge's and stage 1's, by our names, as they are stored. config: a Loupe
    checkpoint's; its parts are where they are now (absolute, or a hub id). loose: the vision
    encoder, where it has no folder yet. homeless: what the old form held and ours has no name for.
    lora: the folder of a LoRA on the language model."""

    config: CheckpointConfig
    weights: dict[str, Tensor]
    loose: Loose | None = None
    homeless: tuple[str, ...] = ()
    lora: Path | None = None


@dataclass(frozen=True)
class Report:
    """What was written. beside: weights the form has no place for, kept in a file of ours beside
    it. homeless: those that were left out."""

    form: str
    weights: int
    beside: tuple[str, ...] = ()
    homeless: tuple[str, ...] = ()
    remarks: tuple[str, ...] = field(default=())


def vision_of(model: Model) -> Loose:
    """The vision encoder's weights and settings, wherever they lie."""
    if model.loose is not None:
        return model.loose
    source = model.config.vision.source
    settings, stored = source.settings(), WeightFiles(source)
    if source.is_whole:
        settings = dict(settings["vision_config"])
        weights = stripped(stored.read(n for n in stored if n.startswith("vision_model.")))
    else:
        weights = stripped(stored.read(stored))
    preprocessor = source.image_processor()
    return Loose(weights, settings, preprocessor)


def stripped(weights: Mapping[str, Tensor], prefix: str = "vision_model.") -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items()}


def language_of(model: Model) -> tuple[dict[str, Tensor], Any]:
    """The language model's weights by its class's names, each once, and its transformers config.

    A LoRA is merged into them.
    """
    from adapters.lora import merge

    part = model.config.language
    assert part is not None  # asked by those who write one
    source = part.source
    stored, inside = WeightFiles(source), source.part("language_model")
    prefix = f"{inside}." if inside else ""
    first = next(name for name in stored if name.startswith(prefix))
    opened = open_model(source, stored.read([first])[first].dtype, part=inside)
    if part.stop is not None:
        opened.config.eos_token_id = open_tokenizer(source)(part.stop)[0]
    if model.lora is not None:
        from types import SimpleNamespace

        merge(SimpleNamespace(model=opened), model.lora)
    seen: set[tuple[int, torch.Size]] = set()
    weights = {}
    for name, value in opened.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if place not in seen:  # tied weights are stored once
            weights[name] = value
        seen.add(place)
    if model.lora is None:  # as they are stored: transformers keeps some of a T5's in float32
        kept = [name for name in weights if f"{prefix}{name}" in stored]
        raw = stored.read(f"{prefix}{name}" for name in kept)
        weights |= {name: raw[f"{prefix}{name}"] for name in kept}
    return weights, opened.config
