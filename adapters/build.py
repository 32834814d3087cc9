"""From a checkpoint folder to a finished Assistant: each part by its registry, then the bridge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from adapters import lavis, lora
from adapters.checkpoint import CONFIG, LORA, is_relative, load_bridge, load_config, verify
from adapters.config import PartConfig
from adapters.folder import Source, read_json, read_settings
from adapters.published import PRESETS, PUBLISHED, RETRIEVAL, Published, open_published
from adapters.registry import LANGUAGE_MODELS, SEGMENTERS, VISION_ENCODERS
from adapters.tokenizer import open_tokenizer
from qformer.assistant import Assistant, AssistantConfig
from qformer.contracts import CheckpointError

EMBEDDED = Path(__file__).parent / "embedded" / "loupe"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def build(
    model: str | Path = "embedded",
    segmenter: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    vision: Source | None = None,
    language: Source | None = None,
) -> Assistant:
    """The assistant of a checkpoint, in evaluation mode.

    model: "embedded", the folder of a Loupe checkpoint, the folder or hub id of a published BLIP-2
    or InstructBLIP, or a LAVIS .pth of stage 2, with the vision and language (folders or hub ids)
    it was trained with. segmenter: another one than the checkpoint's own, by folder or hub id; a
    published model has none. dtype: of the frozen parts, whatever they are stored in; the bridge
    computes in float32. Raises CheckpointError if a file is missing or damaged.
    """
    if str(model).endswith(lavis.SUFFIXES):
        if vision is None or language is None:
            raise CheckpointError(
                f"{model} holds the bridge alone: name the vision encoder and the language model "
                "it was trained with (--vision, --language)"
            )
        parts = lavis.open_lavis(Path(model), vision, language, dtype)
        return published_assistant(parts, segmenter, dtype).to(device)
    if vision is not None or language is not None:
        raise CheckpointError(f"{model} brings its own frozen parts: leave out vision and language")
    source, settings = find(model)
    if settings.get("architectures") == [RETRIEVAL]:
        raise CheckpointError(
            f"{model} compares pictures with texts and answers no questions: loupe rank uses it"
        )
    if settings.get("model_type") in PUBLISHED:
        parts = open_published(source, settings["model_type"], dtype)
        assistant = published_assistant(parts, segmenter, dtype)
    elif "vision" in settings and isinstance(source, Path):
        assistant = open_checkpoint(source, segmenter, dtype)
    else:
        raise CheckpointError(
            f"{model} is of another kind (its {CONFIG} names no vision encoder, and is neither "
            "BLIP-2's nor InstructBLIP's): give one of those, or a Loupe checkpoint"
        )
    return assistant.to(device)


def find(model: str | Path) -> tuple[Source, dict[str, Any]]:
    """A model's folder or hub id, and what its config.json says."""
    folder = EMBEDDED if str(model) == "embedded" else Path(model)
    if not folder.is_dir() and HUB_ID.fullmatch(str(model)):
        return str(model), read_settings(str(model), CONFIG)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{str(model)!r} is not a model (it holds no {CONFIG}): give 'embedded', the folder of "
            "a Loupe checkpoint or of a published BLIP-2 or InstructBLIP, or a hub id such as "
            "Salesforce/blip2-opt-2.7b"
        )
    return folder, read_json(folder / CONFIG)


def published_assistant(
    parts: Published, segmenter: str | Path | None, dtype: torch.dtype
) -> Assistant:
    segments = None if segmenter is None else open_segmenter(segmenter, dtype)
    config = AssistantConfig(parts.prompt, PRESETS["chat"])
    return Assistant(parts.vision, parts.bridge, parts.language, segments, config, parts.tokenizer)


def open_checkpoint(folder: Path, segmenter: str | Path | None, dtype: torch.dtype) -> Assistant:
    """The assistant of a Loupe checkpoint."""
    verify(folder)
    config = load_config(folder)
    bridge = load_bridge(folder, config)

    def part(registry: dict[str, Any], chosen: PartConfig) -> Any:
        if chosen.kind not in registry:
            raise CheckpointError(
                f"{folder / CONFIG}: kind {chosen.kind!r} is unknown; known: {', '.join(registry)}"
            )
        return registry[chosen.kind](locate(folder, chosen.path), dtype, chosen.revision)

    vision = part(VISION_ENCODERS, config.vision)
    language = part(LANGUAGE_MODELS, config.language)
    if config.lora:
        lora.merge(language, folder / LORA)
    if segmenter is not None:
        segments = open_segmenter(segmenter, dtype)
    else:
        segments = part(SEGMENTERS, config.segmenter) if config.segmenter else None
    tokenizer = None
    if config.tokenizer is not None:
        source = locate(folder, config.tokenizer.path)
        tokenizer = open_tokenizer(source, config.tokenizer.revision)
    settings = AssistantConfig(config.prompt, config.decoding, config.domain, config.suggestions)
    return Assistant(vision, bridge, language, segments, settings, tokenizer)


def open_segmenter(source: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A segmenter by its folder or hub id, of the kind its config.json says."""
    if not Path(source).is_dir() and not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"there is no folder {source}: give a segmenter's folder or hub id")
    kind = read_settings(source, CONFIG).get("model_type")
    if kind not in SEGMENTERS:
        raise CheckpointError(
            f"{source} is a {kind!r} model; as segmenters these are known: {', '.join(SEGMENTERS)}"
        )
    return SEGMENTERS[kind](source, dtype)


def locate(folder: Path, path: str) -> Source:
    """A part's folder beside the checkpoint, an absolute folder, or a hub id."""
    if is_relative(folder, path):
        return folder / path
    return Path(path) if Path(path).is_absolute() else path
