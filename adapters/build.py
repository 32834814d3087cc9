"""From a checkpoint folder to a finished Assistant: each part by its registry, then the bridge."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from adapters import lavis, lora
from adapters.checkpoint import CONFIG, LORA, is_relative, load_config, load_trained, verify
from adapters.config import PartConfig, TokenizerConfig
from adapters.defaults import check_parts, default_model, default_named, folder_of
from adapters.folder import HERE, opening
from adapters.memory import Placement, Quantize
from adapters.packages import PREFIX, locate_package
from adapters.published import (
    PRESETS,
    PUBLISHED,
    RETRIEVAL,
    Published,
    open_published,
    open_retrieval,
)
from adapters.registry import LANGUAGE_MODELS, SEGMENTERS, VISION_ENCODERS
from adapters.segmenters import AUTO, HUB_ID, default_name, open_segmenter
from adapters.source import ModelSource, Source
from adapters.tokenizer import open_tokenizer
from qformer.assistant import Assistant, AssistantConfig
from qformer.contracts import CheckpointError
from qformer.retrieval import Ranker

log = logging.getLogger(__name__)


def build(
    model: str | Path | None = None,
    segmenter: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    vision: Source | None = None,
    language: Source | None = None,
    tokenizer: Source | None = None,
    quantize: Quantize | None = None,
    device_map: Literal["auto"] | None = None,
) -> Assistant:
    """The assistant of a checkpoint, in evaluation mode.

    model: "photos", "paintings", the folder of a Loupe checkpoint, the folder or hub id of a
    published BLIP-2 or InstructBLIP, or a LAVIS .pth of stage 2, with the vision and language
    (folders or hub ids) it was trained with, and the tokenizer of its Q-Former if that reads the
    question. None: "photos", or, where its parts are not here, "paintings", which is logged.
    segmenter:
    another one than the checkpoint's own, by short name, folder or hub id (adapters/segmenters.py);
    a published model has none of its own and gets "auto". dtype: of the frozen parts, whatever they
    are stored in; the bridge computes in float32. quantize:
    the language model's linear layers. device_map: "auto" spreads the language model over all
    GPUs and the CPU; the rest goes to the first GPU. Raises CheckpointError if a file is missing
    or damaged, or the memory too small.
    """
    if model is None:
        model, why = default_model()
        if why:
            log.warning(why)
    if device_map and torch.device(device).type == "cpu" and torch.cuda.is_available():
        device = "cuda:0"
    placement = Placement(str(device), quantize, device_map)
    if segmenter == AUTO:
        segmenter = default_name(device)
    if str(model).endswith(lavis.SUFFIXES):
        parts = lavis.open_lavis(Path(model), vision, language, dtype, tokenizer, placement)
        return placed(
            published_assistant(parts, segmenter or default_name(device), dtype), placement
        )
    if vision is not None or language is not None:
        raise CheckpointError(f"{model} brings its own frozen parts: leave out vision and language")
    source = find(model)
    settings = source.settings()
    if settings.get("architectures") == [RETRIEVAL] or compares(settings):
        raise CheckpointError(
            f"{model} compares pictures with texts and answers no questions: loupe rank and loupe "
            "find use it"
        )
    if settings.get("model_type") in PUBLISHED:
        with opening(source):
            parts = open_published(source, settings["model_type"], dtype, placement=placement)
        assistant = published_assistant(parts, segmenter or default_name(device), dtype)
    elif "vision" in settings and source.is_folder:
        assistant = open_checkpoint(source.folder, segmenter, dtype, placement)
    else:
        raise CheckpointError(
            f"{model} is of another kind (its {CONFIG} names no vision encoder, and is neither "
            "BLIP-2's nor InstructBLIP's): give one of those, or a Loupe checkpoint"
        )
    return placed(assistant, placement)


def build_ranker(
    model: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    vision: Source | None = None,
    tokenizer: Source | None = None,
) -> Ranker:
    """A model that compares pictures with texts: a Blip2ForImageTextRetrieval, a Loupe checkpoint
    with stage 1's heads, or a LAVIS .pth of stage 1 or retrieval, with the vision encoder and the
    tokenizer (BERT's) it was trained with. Raises CheckpointError."""
    placement = Placement(str(device))
    if str(model).endswith(lavis.SUFFIXES):
        return lavis.open_ranker(Path(model), vision, tokenizer, dtype, placement).to(device)
    source = find(model)
    settings = source.settings()
    if settings.get("heads") and source.is_folder:
        folder = source.folder
        verify(folder)
        config = load_config(folder)
        bridge, stage1 = load_trained(folder, config)
        assert stage1 is not None  # config.heads
        assert config.tokenizer is not None
        encoder = open_part(folder, VISION_ENCODERS, config.vision, dtype, placement)
        words = tokenizer_of(folder, config.tokenizer)
        return Ranker(encoder, bridge, stage1, words, config.bridge.end_id).to(device)
    if settings.get("model_type") == "blip-2" and settings.get("architectures") == [RETRIEVAL]:
        with opening(source):
            return open_retrieval(source, dtype, placement=placement).to(device)
    raise CheckpointError(
        f"{model} compares no pictures with texts (it has no ITC and ITM heads): give a "
        f"{RETRIEVAL}, such as Salesforce/blip2-itm-vit-g"
    )


def compares(settings: dict[str, Any]) -> bool:
    """Whether this is the config.json of a Loupe checkpoint of stage 1."""
    return bool(settings.get("heads")) and settings.get("language") is None


def placed(assistant: Assistant, placement: Placement) -> Assistant:
    """The assistant on its device; a language model that was put there part by part stays."""
    if not (placement.device_map or placement.quantize):
        return assistant.to(placement.device)
    for part in (assistant.vision, assistant.bridge, assistant.segmenter):
        if part is not None:
            cast(nn.Module, part).to(placement.device)
    return assistant


def find(model: str | Path) -> ModelSource:
    """A model's folder or hub id. Raises CheckpointError where it has no config.json, or is a
    default whose parts are not here."""
    folder = folder_of(model)
    if default_named(model):
        check_parts(folder)
    if not folder.is_dir() and HUB_ID.fullmatch(str(model)):
        return ModelSource(str(model))
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{str(model)!r} is not a model (it holds no {CONFIG}): give 'photos', 'paintings', "
            "the folder of a Loupe checkpoint or of a published BLIP-2 or InstructBLIP, or a hub "
            "id such as Salesforce/blip2-opt-2.7b"
        )
    return ModelSource(folder)


def published_assistant(parts: Published, segmenter: str | Path, dtype: torch.dtype) -> Assistant:
    segments = open_segmenter(segmenter, dtype)
    config = AssistantConfig(parts.prompt, PRESETS["chat"])
    return Assistant(parts.vision, parts.bridge, parts.language, segments, config, parts.tokenizer)


def open_checkpoint(
    folder: Path, segmenter: str | Path | None, dtype: torch.dtype, placement: Placement = HERE
) -> Assistant:
    """The assistant of a Loupe checkpoint with a language model."""
    verify(folder)
    config = load_config(folder)
    bridge, _ = load_trained(folder, config)
    assert config.language is not None  # `compares` was asked first
    vision = open_part(folder, VISION_ENCODERS, config.vision, dtype, placement)
    language = open_part(folder, LANGUAGE_MODELS, config.language, dtype, placement)
    if config.lora:
        with opening(folder / LORA):
            if placement.quantize:  # few bits hold no small change: it stays beside them
                lora.resume(language, folder / LORA)
                language.freeze()
            else:
                lora.merge(language, folder / LORA)
    if segmenter is not None:
        segments = open_segmenter(segmenter, dtype)
    elif config.segmenter:
        segments = open_part(folder, SEGMENTERS, config.segmenter, dtype)
    else:
        segments = None
    tokenizer = None if config.tokenizer is None else tokenizer_of(folder, config.tokenizer)
    settings = AssistantConfig(
        config.prompt, config.decoding, config.domain, config.suggestions, config.confidence
    )
    return Assistant(vision, bridge, language, segments, settings, tokenizer)


def own_segmenter(
    model: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Any:
    """The segmenter of a Loupe checkpoint and nothing else of it; None where `model` is another
    kind of model, or the checkpoint has none. Raises CheckpointError."""
    if str(model).endswith(lavis.SUFFIXES):
        return None
    source = find(model)
    if not source.is_folder or not isinstance(source.settings().get("vision"), dict):
        return None
    verify(source.folder)
    chosen = load_config(source.folder).segmenter
    if chosen is None:
        return None
    return open_part(source.folder, SEGMENTERS, chosen, dtype).to(device)


def tokenizer_of(folder: Path, chosen: TokenizerConfig) -> Any:
    """The Q-Former's tokenizer that the config.json in `folder` names."""
    source = locate(folder, chosen)
    with opening(source):
        return open_tokenizer(source, chosen.subfolder)


def open_part(
    folder: Path,
    registry: dict[str, Any],
    chosen: PartConfig,
    dtype: torch.dtype,
    placement: Placement | None = None,
) -> Any:
    """A frozen part that the config.json in `folder` names."""
    if chosen.kind not in registry:
        raise CheckpointError(
            f"{folder / CONFIG}: kind {chosen.kind!r} is unknown; known: {', '.join(registry)}"
        )
    options: dict[str, Any] = {**chosen.options}
    if placement is not None:
        options["placement"] = placement
    source = locate(folder, chosen)
    with opening(source):
        return registry[chosen.kind](source, dtype, **options)


def locate(folder: Path, part: PartConfig | TokenizerConfig) -> ModelSource:
    """A part's folder beside the checkpoint, an absolute folder, a package's, or a hub id."""
    path: str | Path = part.path
    if part.path.startswith(PREFIX):
        path = locate_package(part.path.removeprefix(PREFIX))
    elif is_relative(folder, part.path):
        path = folder / part.path
    elif Path(path).is_absolute():
        path = Path(path)
    return ModelSource(path, part.revision)


def anchored(folder: Path, path: str) -> str:
    """The same path as it can be told outside of the checkpoint; what is not beside it stays."""
    return str(folder / path) if is_relative(folder, path) else path
