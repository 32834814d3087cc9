"""LAVIS' .pth files, of stage 1, retrieval, stage 2 and InstructBLIP, read whole and written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.checkpoint import check_weights
from adapters.config import CheckpointConfig, PartConfig, TokenizerConfig
from adapters.convert import vision_names as names
from adapters.convert.model import Loose, Model, Report, vision_of
from adapters.folder import is_folder, listed, read_settings
from adapters.lavis import FROZEN, VISION_KINDS, read_weights, shape_of, stop_of
from adapters.published import PRESETS, bert_tokenizer, prompt_of
from adapters.weights import Source
from qformer.contracts import CheckpointError
from qformer.convert import from_lavis, to_lavis

HEADS = {1408: 16}  # EVA-g's attention heads are 88 wide; others' 64
PREPROCESSOR = {  # CLIP's
    "image_processor_type": "BlipImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


def read(
    file: Path,
    vision: Source | None = None,
    language: Source | None = None,
    tokenizer: Source | None = None,
    num_heads: int | None = None,
) -> Model:
    """vision: not needed where the file holds the vision encoder, as fine-tuned ones do; named all
    the same, it tells its settings. language: for a file of stage 2. tokenizer: BERT's, for a file
    with the Q-Former's text side. num_heads: see adapters.lavis.open_lavis."""
    theirs = read_weights(file)
    ours, homeless = from_lavis(theirs)
    visual = {
        name.removeprefix(names.PREFIX): theirs[name]
        for name in homeless
        if name.startswith(names.PREFIX)
    }
    homeless = [name for name in homeless if not name.startswith(names.PREFIX)]
    odd = [name for name in homeless if not name.startswith(FROZEN)]
    if odd:
        raise CheckpointError(f"{file} holds {len(odd)} weights Loupe does not know: {listed(odd)}")
    speaks, reads = "language_projection.weight" in ours, "qformer.word_embeddings.weight" in ours
    for needed, given, what, option in (
        (not visual, vision, "the vision encoder", "--vision"),
        (speaks, language, "the language model", "--language"),
        (reads, tokenizer, "the tokenizer of the Q-Former (BERT's)", "--tokenizer"),
    ):
        if needed and given is None:
            raise CheckpointError(f"{file} does not hold {what}: name it ({option})")
    words = bert_tokenizer(tokenizer) if reads and tokenizer is not None else None
    shape = shape_of(ours, words, num_heads)
    heads = "itm_head.weight" in ours
    check_weights(shape, ours, f"{file} is incomplete", heads=heads)
    loose = None
    if visual:
        loose = loose_vision(file, visual, vision)
        kind = "eva" if loose.config["model_type"] == "blip_2_vision_model" else "clip-trimmed"
        seen = PartConfig(kind, "vision")
    else:
        assert vision is not None  # asked above
        model_type = read_settings(vision, "config.json").get("model_type", "")
        seen = PartConfig(VISION_KINDS.get(model_type, "hf"), placed(vision))
    spoken, decodes = None, True
    if speaks and language is not None:
        settings = read_settings(language, "config.json")
        decodes = not settings.get("is_encoder_decoder")
        kind = "decoder" if decodes else "encoder-decoder"
        spoken = PartConfig(kind, placed(language), stop=stop_of(language))
    config = CheckpointConfig(
        vision=seen,
        language=spoken,
        bridge=shape,
        tokenizer=TokenizerConfig(placed(tokenizer)) if words and tokenizer else None,
        prompt=prompt_of(shape.instruct, decodes),
        decoding=PRESETS["chat"],
        heads=heads,
    )
    return Model(config, ours, loose, tuple(homeless))


def placed(source: Source) -> str:
    """A folder as an absolute path; a hub id as it is."""
    return str(Path(source).resolve()) if is_folder(source) else str(source)


def loose_vision(file: Path, visual: dict[str, Tensor], vision: Source | None) -> Loose:
    """The vision encoder in a .pth, by its class's names, with the settings that `vision` or the
    shapes tell."""
    is_eva = "pos_embed" in visual
    convert = names.eva_from_lavis if is_eva else names.clip_from_lavis
    weights, homeless = convert(visual)
    if homeless:
        raise CheckpointError(
            f"{file} has a vision encoder of another kind, with {len(homeless)} weights Loupe does "
            f"not know: {listed(homeless)}"
        )
    width, _, patch, _ = weights["embeddings.patch_embedding.weight"].shape
    position = "embeddings.position_embedding" + ("" if is_eva else ".weight")
    side = round((weights[position].shape[-2] - 1) ** 0.5) * patch
    config = {
        "architectures": ["Blip2VisionModel" if is_eva else "CLIPVisionModel"],
        "model_type": "blip_2_vision_model" if is_eva else "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": len(weights["encoder.layers.0.mlp.fc1.weight"]),
        "num_hidden_layers": sum(name.endswith("layer_norm1.weight") for name in weights),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "image_size": side,
        "patch_size": patch,
        "hidden_act": "gelu" if is_eva else "quick_gelu",
        "layer_norm_eps": 1e-6 if is_eva else 1e-5,
    }
    if vision is not None:  # it knows what leaves no trace in the shapes
        named = read_settings(vision, "config.json")
        named = named.get("vision_config", named)
        kept = ("num_attention_heads", "hidden_act", "layer_norm_eps")
        config |= {key: named[key] for key in kept if key in named}
        return Loose(weights, config, read_settings(vision, "preprocessor_config.json"))
    return Loose(weights, config, PREPROCESSOR | {"size": {"height": side, "width": side}})


def write(model: Model, target: Path) -> Report:
    """The bridge, and the vision encoder where LAVIS has names for it; a language model never."""
    if model.lora is not None:
        raise CheckpointError(
            "LAVIS has no place for a LoRA: convert to hf, where it is merged into the model"
        )
    if target.suffix not in (".pth", ".pt"):
        raise CheckpointError(f"{target} is to be a LAVIS file: let its name end in .pth")
    config = model.config
    projection = "opt_proj"
    if config.language is not None:
        encodes = config.language.kind == "encoder-decoder"
        projection = "t5_proj" if encodes else "llm_proj" if config.bridge.instruct else "opt_proj"
    weights, homeless = to_lavis(model.weights, projection)
    remarks = []
    loose = vision_of(model)
    backward: Any = {
        "blip_2_vision_model": names.eva_to_lavis,
        "instructblip_vision_model": names.eva_to_lavis,
        "clip_vision_model": names.clip_to_lavis,
    }.get(loose.config.get("model_type", ""))
    if backward is None:
        remarks.append(
            f"LAVIS has no {loose.config.get('model_type')} vision encoder: it is left out"
        )
    else:
        visual, odd = backward(
            {k: v for k, v in loose.weights.items() if not k.startswith("post_layernorm.")}
        )
        weights |= {f"{names.PREFIX}{name}": value for name, value in visual.items()}
        homeless = [*homeless, *(f"{names.PREFIX}{name}" for name in odd)]
    if config.language is not None:
        remarks.append("LAVIS reads the language model from its own folder: it is left out")
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    try:
        torch.save({"model": {k: v.contiguous() for k, v in weights.items()}}, new)
        os.replace(new, target)
    finally:
        new.unlink(missing_ok=True)
    left = (*model.homeless, *homeless)
    return Report("a LAVIS file", len(weights), (), left, tuple(remarks))
