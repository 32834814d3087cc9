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
from adapters.bert import start_from_bert
from adapters.build import anchored, locate
from adapters.checkpoint import (
    CONFIG,
    LORA,
    load_config,
    load_trained,
    save_checkpoint,
    verify,
)
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.defaults import folder_of
from adapters.memory import DTYPES, Placement
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from adapters.source import read_json
from adapters.tokenizer import open_tokenizer
from qformer.bridge import Bridge, BridgeConfig
from qformer.contracts import LoupeError
from qformer.stage1 import Stage1
from train.overrides import bridge_of, changed_part, decoding_of, prompt_of
from train.recipe import Recipe

NEW = ("region_upgrade.", "language_projection.", "familiarity.")  # may be missing at the start
LEFT = (*NEW, "stage1.")  # may be left over
LAYERS = "qformer.layers."
PER_QUERY = ("qformer.query_tokens", "region_upgrade.delta")  # (1, queries, width) each


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
    heads: Stage1 | None = None  # of stage 1


def open_parts(recipe: Recipe) -> Parts:
    """Raises LoupeError for parts that do not fit together."""
    named = planned_parts(recipe)
    kept, folder, old, heads = None, None, None, None
    if recipe.start.checkpoint:
        folder = start_folder(recipe.start.checkpoint)
        verify(folder)
        kept = load_config(folder)
        old, heads = load_trained(folder, kept)
    dtype = DTYPES[recipe.dtype]
    vision = open_part(VISION_ENCODERS, named["vision"], dtype)
    if recipe.vision_trains:
        vision.float()
    language = None
    if named["language"] is not None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        placement = Placement(device if recipe.quantize else "cpu", recipe.quantize)
        language = open_part(LANGUAGE_MODELS, named["language"], dtype, placement=placement)
    tokenizer = None
    if named["tokenizer"] is not None:
        words = named["tokenizer"]
        tokenizer = open_tokenizer(locate(Path(), words), words.subfolder)
    torch.manual_seed(recipe.loop.seed)
    bridge = fitting_bridge(recipe, old, vision, language, tokenizer)
    if recipe.stage == "stage1" and heads is None:
        heads = Stage1(bridge.qformer)
    if recipe.start.bert:
        start_from_bert(bridge.qformer, recipe.start.bert, heads)
    parts = Parts(vision, language, tokenizer, bridge, named, kept, heads=heads)
    put_lora(parts, recipe, folder)
    for part, module in (("qformer", bridge.qformer), ("vision", vision)):
        if chosen := recipe.lora_on(part):
            lora.attach_inside(module, chosen.rank, chosen.alpha or None, chosen.targets)
    if recipe.loop.checkpointing and language is not None:
        language.recompute()
    return parts


def planned_parts(recipe: Recipe) -> dict[str, Any]:
    """The frozen parts by name, as a PartConfig or TokenizerConfig each, or None. Raises LoupeError
    for one that is missing."""
    start = recipe.start
    named: dict[str, Any] = dict.fromkeys(("vision", "language", "segmenter", "tokenizer"))
    if start.checkpoint:
        folder = start_folder(start.checkpoint)
        kept = load_config(folder)
        for name in named:
            part = getattr(kept, name)
            if part is not None:
                named[name] = dataclasses.replace(part, path=anchored(folder, part.path))
    for name in ("vision", "language", "tokenizer"):
        part = getattr(start, name)
        if part is not None:
            named[name] = changed_part(named[name], part)
    if recipe.stage == "stage1":
        named["language"] = None
    for name in ("vision", "language")[: 1 + (recipe.stage != "stage1")]:
        registry = {"vision": VISION_ENCODERS, "language": LANGUAGE_MODELS}[name]
        if named[name] is None:
            raise LoupeError(
                f"start.{name} is missing: give its kind ({', '.join(registry)}) and path"
            )
        if named[name].kind not in registry:
            raise LoupeError(
                f"start.{name}.kind={named[name].kind!r} is unknown; known: {', '.join(registry)}"
            )
    return named


def start_folder(name: str) -> Path:
    folder = folder_of(name)
    if not (folder / CONFIG).is_file():
        raise LoupeError(
            f"start.checkpoint={name!r} holds no {CONFIG}: give 'paintings', 'photos' or the "
            "folder of a Loupe checkpoint (a published model is converted first: loupe convert)"
        )
    return folder


def open_part(registry: dict[str, Any], part: PartConfig, dtype: torch.dtype, **more: Any) -> Any:
    return registry[part.kind](locate(Path(), part), dtype, **part.options, **more)


def fitting_config(
    recipe: Recipe, old: BridgeConfig | None, image_width: int, width: int | None, words: int | None
) -> BridgeConfig:
    """The bridge's shape between these parts. image_width: of image_embeds. width: of the language
    model, None without. words: in the tokenizer. Raises LoupeError where widths clash."""
    config = bridge_of(recipe, old)
    if config.language_width not in (None, width) and width is not None:
        raise LoupeError(
            f"bridge.language_width={config.language_width}, but the language model is {width} "
            "wide: leave it out"
        )
    instruct = config.instruct and width is not None
    # familiarity is fitted to the pictures of another run
    qformer = config.qformer
    if recipe.start.queries:
        if recipe.start.queries < qformer.num_queries:
            raise LoupeError(
                f"start.queries={recipe.start.queries}, but the checkpoint has "
                f"{qformer.num_queries}: give as many or more"
            )
        qformer = dataclasses.replace(qformer, num_queries=recipe.start.queries)
    config = dataclasses.replace(
        config, qformer=qformer, language_width=width, instruct=instruct, familiarity=False
    )
    if qformer.encoder_hidden_size != image_width:
        raise LoupeError(
            f"bridge.qformer.encoder_hidden_size={qformer.encoder_hidden_size}, but the vision "
            f"encoder's image_embeds are {image_width} wide: set it to {image_width}"
        )
    if (width is None or instruct) and words is None:
        raise LoupeError("the Q-Former reads text here: give start.tokenizer.path")
    if (width is None or instruct) and words is not None and words > qformer.vocab_size:
        raise LoupeError(
            f"bridge.qformer.vocab_size={qformer.vocab_size} is less than the {words} of the "
            "tokenizer: raise it, or choose the tokenizer it was trained with"
        )
    return config


def fitting_bridge(recipe: Recipe, old: Bridge | None, vision, language, tokenizer) -> Bridge:
    """The bridge to train: the start's weights in the recipe's shape."""
    config = fitting_config(
        recipe,
        old.config if old else None,
        vision.width,
        language.width if language else None,
        len(tokenizer) if tokenizer else None,
    )
    bridge = Bridge(config)
    if language is not None:
        scale_projection(bridge, language)
    if old is not None:
        state = with_queries(old.state_dict(), config.qformer.num_queries)
        take_over(bridge, shrunk(state, recipe.start.shrink))
    return bridge


def planned_bridge(
    recipe: Recipe, named: dict[str, Any], image_width: int, language: Any
) -> Bridge:
    """The same by its shape alone, on the meta device."""
    old = None
    if recipe.start.checkpoint:
        old = load_config(start_folder(recipe.start.checkpoint)).bridge
    width = None if language is None else language.get_input_embeddings().embedding_dim
    config = bridge_of(recipe, old)
    words = config.qformer.vocab_size if named["tokenizer"] else None
    with torch.device("meta"):
        return Bridge(fitting_config(recipe, old, image_width, width, words))


@torch.no_grad()
def scale_projection(bridge: Bridge, language: Any) -> None:
    """A new projection gives soft tokens as long as the words whose places they take."""
    weight = bridge.language_projection.weight
    words = language.model.get_input_embeddings().weight
    weight.mul_(words.float().std() / (weight.std() * weight.shape[1] ** 0.5))


def with_queries(state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """A bridge's weights for so many queries: a new one starts beside one of the old, in turn, as
    far away as they are from each other."""
    old = state["qformer.query_tokens"]
    places = torch.arange(max(count, old.shape[1])) % old.shape[1]
    grown = {n: state[n][:, places] for n in PER_QUERY if n in state}
    new = grown["qformer.query_tokens"][:, old.shape[1] :]
    new += old.std() * torch.randn_like(new)
    return state | grown


def shrunk(state: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """A bridge's weights with this share of the matrices in the Q-Former's layers."""
    inside = [n for n, value in state.items() if n.startswith(LAYERS) and value.ndim == 2]
    return state | {name: share * state[name] for name in inside}


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
    if theirs is not None and recipe.start.replaces("language"):
        theirs = None  # another language model than the LoRA's
    chosen = recipe.lora_on("language")
    if chosen is None:
        if theirs is not None:
            parts.lora = theirs
            lora.merge(parts.language, theirs)
        return
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
    if recipe.vision_trains:
        named["vision"] = dataclasses.replace(named["vision"], path="./vision", revision=None)
    heads = stage.module["stage1"] if recipe.stage == "stage1" or recipe.matching else None
    config = CheckpointConfig(
        vision=named["vision"],
        language=None if recipe.stage == "stage1" else named["language"],
        segmenter=named["segmenter"],
        tokenizer=named["tokenizer"],
        bridge=parts.bridge.config,
        prompt=prompt_of(recipe, kept, parts.language),
        decoding=decoding_of(recipe, kept),
        heads=heads is not None,
        lora=recipe.lora_on("language") is not None or parts.lora is not None,
        domain=recipe.domain,
    )
    language = parts.language if recipe.lora_on("language") else parts.lora
    bridge, vision = parts.bridge, parts.vision if recipe.vision_trains else None
    if recipe.lora_on("qformer"):
        bridge = lora.merged(bridge)
        heads = None if heads is None else lora.merged(heads)
    if recipe.lora_on("vision"):
        vision = lora.merged(parts.vision)
    base = parts.folders["language"]
    if base is not None and Path(base.path).is_dir():
        base = dataclasses.replace(base, path=str(Path(base.path).resolve()))
    save_checkpoint(folder, config, bridge, language, heads=heads, vision=vision, base=base)


def from_folder(part: Any, folder: Path) -> Any:
    """A part as a checkpoint in `folder` names it: a hub id stays, a folder becomes relative."""
    if part is None or not Path(part.path).is_dir():
        return part
    return dataclasses.replace(part, path=os.path.relpath(Path(part.path).resolve(), folder))
