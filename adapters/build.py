"""From a checkpoint folder to a finished Assistant: each part by its registry, then the bridge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adapters import lora
from adapters.checkpoint import CONFIG, LORA, is_relative, load_bridge, load_config, verify
from adapters.config import PartConfig
from adapters.folder import Source, read_json
from adapters.registry import LANGUAGE_MODELS, SEGMENTERS, VISION_ENCODERS
from adapters.tokenizer import open_tokenizer
from qformer.assistant import Assistant, AssistantConfig
from qformer.contracts import CheckpointError

EMBEDDED = Path(__file__).parent / "embedded" / "loupe"


def build(
    model: str | Path = "embedded",
    segmenter: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Assistant:
    """The assistant of a checkpoint, in evaluation mode.

    model: "embedded" or a Loupe checkpoint folder. segmenter: the folder of another segmenter
    than the checkpoint's own. dtype: of the frozen parts, whatever they are stored in; the bridge
    computes in float32. Raises CheckpointError if a file is missing or damaged.
    """
    folder = EMBEDDED if str(model) == "embedded" else Path(model)
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{str(model)!r} is not a model: give 'embedded' or the folder of a Loupe checkpoint "
            f"(one that holds {CONFIG} and manifest.json)"
        )
    if "vision" not in read_json(folder / CONFIG):
        raise CheckpointError(
            f"{folder} is a folder of another kind (its {CONFIG} names no vision encoder): give "
            "'embedded' or the folder of a Loupe checkpoint"
        )
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
    assistant = Assistant(vision, bridge, language, segments, settings, tokenizer)
    return assistant.to(device)


def open_segmenter(folder: str | Path, dtype: torch.dtype = torch.float32) -> Any:
    """A segmenter by its folder, of the kind its config.json says."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: give a segmenter's folder")
    kind = read_json(folder / "config.json").get("model_type")
    if kind not in SEGMENTERS:
        raise CheckpointError(
            f"{folder} is a {kind!r} model; as segmenters these are known: {', '.join(SEGMENTERS)}"
        )
    return SEGMENTERS[kind](folder, dtype)


def locate(folder: Path, path: str) -> Source:
    """A part's folder beside the checkpoint, an absolute folder, or a hub id."""
    if is_relative(folder, path):
        return folder / path
    return Path(path) if Path(path).is_absolute() else path
