"""The finished parts a recipe starts from, and the checkpoint it ends in."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters import lora
from adapters.build import EMBEDDED, locate
from adapters.checkpoint import (
    CONFIG,
    LORA,
    load_config,
    load_trained,
    save_checkpoint,
    verify,
)
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.folder import read_json
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from adapters.tokenizer import open_tokenizer
from qformer.bridge import Bridge, BridgeConfig
from qformer.contracts import Decoding, LoupeError
from qformer.prompt import PromptConfig
from qformer.stage1 import Stage1
from train.recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NEW = ("region_upgrade.", "language_projection.", "familiarity.")  # may be missing at the start
LEFT = (*NEW, "stage1.")  # may be left over


@dataclass
class Parts:
    """What a stage is made of. language: None in stage 1. folders: where the parts lie, as
    absolute folders or hub ids. kept: settings of the checkpoint it started from."""

    vision: Any
    language: Any
    tokenizer: Any
    bridge: Bridge
    folders: dict[str, PartConfig | TokenizerConfig | None]
    kept: CheckpointConfig | None
    lora: Path | None = None  # of the start, where it is kept as it is
    heads: Stage1 | None = None  # of the start


def open_parts(recipe: Recipe) -> Parts:
    """Raises LoupeError for parts that do not fit together."""
    kept, folder, old, heads = None, None, None, None
    named: dict[str, Any] = {
        "vision": recipe.start.vision,
        "language": recipe.start.language,
        "segmenter": None,
        "tokenizer": recipe.start.tokenizer,
    }
    if recipe.start.checkpoint is not None:
        folder = start_folder(recipe.start.checkpoint)
        verify(folder)
        kept = load_config(folder)
        old, heads = load_trained(folder, kept)
        for name in named:
            part = getattr(kept, name)
            if named[name] is None and part is not None:
                named[name] = dataclasses.replace(part, path=str(locate(folder, part.path)))
    dtype = DTYPES[recipe.dtype]
    vision = open_part(VISION_ENCODERS, named["vision"], "vision", dtype)
    language = None
    if recipe.stage != "stage1":
        language = open_part(LANGUAGE_MODELS, named["language"], "language", dtype)
    tokenizer = None
    if named["tokenizer"] is not None:
        tokenizer = open_tokenizer(named["tokenizer"].path, named["tokenizer"].revision)
    torch.manual_seed(recipe.loop.seed)
    bridge = fitting_bridge(recipe, old, vision, language, tokenizer)
    if recipe.start.bert is not None:
        from train.bert import start_from_bert

        start_from_bert(bridge.qformer, recipe.start.bert)
    parts = Parts(vision, language, tokenizer, bridge, named, kept, heads=heads)
    put_lora(parts, recipe, folder)
    return parts


def start_folder(name: str) -> Path:
    folder = EMBEDDED if name == "embedded" else Path(name)
    if not (folder / CONFIG).is_file():
        raise LoupeError(
            f"start.checkpoint={name!r} holds no {CONFIG}: give 'embedded' or the folder of a "
            "Loupe checkpoint (a published model is converted first: loupe convert)"
        )
    return folder


def open_part(registry: dict[str, Any], part: PartConfig | None, name: str, dtype) -> Any:
    if part is None:
        raise LoupeError(f"start.{name} is missing: give its kind ({', '.join(registry)}) and path")
    if part.kind not in registry:
        raise LoupeError(
            f"start.{name}.kind={part.kind!r} is unknown; known: {', '.join(registry)}"
        )
    source = Path(part.path) if Path(part.path).is_dir() else part.path
    return registry[part.kind](source, dtype, part.revision, **part.options)


def fitting_bridge(recipe: Recipe, old: Bridge | None, vision, language, tokenizer) -> Bridge:
    """The bridge to train: the start's weights in the recipe's shape. Raises LoupeError where
    widths clash."""
    if recipe.bridge is not None:
        config = recipe.bridge
    elif old is not None:
        config = old.config
    else:
        config = BridgeConfig()
    width = None if language is None else language.width
    if config.language_width not in (None, width) and language is not None:
        raise LoupeError(
            f"bridge.language_width={config.language_width}, but the language model is {width} "
            "wide: leave it out"
        )
    config = dataclasses.replace(
        config,
        language_width=width,
        instruct=config.instruct and language is not None,
        familiarity=False,  # it is fitted to the pictures of another run
    )
    qformer = config.qformer
    if qformer.encoder_hidden_size != vision.width:
        raise LoupeError(
            f"bridge.qformer.encoder_hidden_size={qformer.encoder_hidden_size}, but the vision "
            f"encoder's image_embeds are {vision.width} wide: set it to {vision.width}"
        )
    reads = language is None or config.instruct
    if reads and tokenizer is None:
        raise LoupeError("the Q-Former reads text here: give start.tokenizer.path")
    if reads and len(tokenizer) > qformer.vocab_size:
        raise LoupeError(
            f"bridge.qformer.vocab_size={qformer.vocab_size} is less than the {len(tokenizer)} of "
            "the tokenizer: raise it, or choose the tokenizer it was trained with"
        )
    bridge = Bridge(config)
    if language is not None:
        scale_projection(bridge, language)
    if old is not None:
        take_over(bridge, old.state_dict())
    return bridge


@torch.no_grad()
def scale_projection(bridge: Bridge, language: Any) -> None:
    """A new projection gives soft tokens as long as the words whose places they take."""
    weight = bridge.language_projection.weight
    words = language.model.get_input_embeddings().weight
    weight.mul_(words.float().std() / (weight.std() * weight.shape[1] ** 0.5))


def take_over(bridge: Bridge, state: dict[str, Tensor]) -> None:
    """Start from these weights; only what a stage adds may be new, or be left over."""
    ours = bridge.state_dict()
    for name, value in state.items():
        if name in ours and value.shape != ours[name].shape:
            raise LoupeError(
                f"the start's {name} is {tuple(value.shape)}, [bridge] makes it "
                f"{tuple(ours[name].shape)}: leave out [bridge], or give its own shape"
            )
    missing = [n for n in ours if n not in state and not n.startswith(NEW)]
    text = ("qformer.word_embeddings", "qformer.position_embeddings")
    left = [n for n in state if n not in ours and not n.startswith((*LEFT, *text))]
    left = [n for n in left if "text" not in n]
    if missing or left:
        raise LoupeError(
            f"the start does not fit [bridge]: {len(missing)} weights missing "
            f"({', '.join(missing[:2]) or 'none'}), {len(left)} left over "
            f"({', '.join(left[:2]) or 'none'})"
        )
    bridge.load_state_dict({n: v for n, v in state.items() if n in ours}, strict=False)


def put_lora(parts: Parts, recipe: Recipe, folder: Path | None) -> None:
    """A new LoRA, or the start's: trained on where the recipe has [lora], merged where not."""
    if parts.language is None:
        return
    theirs = folder / LORA if folder is not None and parts.kept and parts.kept.lora else None
    if theirs is not None and recipe.start.language is not None:
        theirs = None  # another language model than the LoRA's
    if recipe.lora is None:
        if theirs is not None:
            parts.lora = theirs
            lora.merge(parts.language, theirs)
        return
    chosen = recipe.lora
    if theirs is None:
        lora.attach(parts.language, chosen.rank, chosen.alpha or None, chosen.targets)
        return
    rank = read_json(theirs / lora.SETTINGS).get("r")
    if rank != chosen.rank:
        raise LoupeError(
            f"lora.rank={chosen.rank}, but the start's LoRA, which is trained on, has rank {rank}: "
            f"set lora.rank={rank}"
        )
    lora.resume(parts.language, theirs)


def save_parts(parts: Parts, recipe: Recipe, folder: Path, stage: Any) -> None:
    """Write what was trained: a checkpoint that `loupe chat --model` opens, or, after stage 1, what
    stage 2 starts from."""
    folder, kept = folder.resolve(), parts.kept
    named = {name: from_folder(part, folder) for name, part in parts.folders.items()}
    if recipe.trains.vision:
        named["vision"] = dataclasses.replace(named["vision"], path="./vision", revision=None)
    heads = stage.module["stage1"] if recipe.stage == "stage1" else None
    config = CheckpointConfig(
        vision=named["vision"],
        language=None if heads else named["language"],
        segmenter=named["segmenter"],
        tokenizer=named["tokenizer"],
        bridge=parts.bridge.config,
        prompt=prompt_of(recipe, kept),
        decoding=recipe.decoding or (kept.decoding if kept else Decoding()),
        heads=heads is not None,
        lora=recipe.lora is not None or parts.lora is not None,
        domain=recipe.domain,
    )
    language = parts.lora if recipe.lora is None else parts.language
    vision = parts.vision if recipe.trains.vision else None
    save_checkpoint(folder, config, parts.bridge, language, heads=heads, vision=vision)


def prompt_of(recipe: Recipe, kept: CheckpointConfig | None) -> PromptConfig:
    return recipe.prompt or (kept.prompt if kept is not None else PromptConfig())


def from_folder(part: Any, folder: Path) -> Any:
    """A part as a checkpoint in `folder` names it: a hub id stays, a folder becomes relative."""
    if part is None or not Path(part.path).is_dir():
        return part
    return dataclasses.replace(part, path=os.path.relpath(Path(part.path).resolve(), folder))
