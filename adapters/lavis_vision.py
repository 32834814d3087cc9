"""The vision encoder in a LAVIS .pth, where it was trained too (EVA or CLIP): opened, and its
weights by the names of transformers' classes and back.

LAVIS' names are those of its eva_vit.py and clip_vit.py (commit 506965b).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.folder import listed, quiet
from adapters.source import ModelSource, Source
from adapters.vision import HuggingFaceVisionEncoder, Normalisation
from qformer.contracts import CheckpointError

PREFIX = "visual_encoder."
# (LAVIS, transformers); {i} is a block's number. A name without a leaf is that of a whole weight.
EVA = [
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("blocks.{i}.norm1", "encoder.layers.{i}.layer_norm1"),
    ("blocks.{i}.norm2", "encoder.layers.{i}.layer_norm2"),
    ("blocks.{i}.attn.qkv", "encoder.layers.{i}.self_attn.qkv"),
    ("blocks.{i}.attn.proj", "encoder.layers.{i}.self_attn.projection"),
    ("blocks.{i}.mlp.fc1", "encoder.layers.{i}.mlp.fc1"),
    ("blocks.{i}.mlp.fc2", "encoder.layers.{i}.mlp.fc2"),
]
CLIP = [
    ("class_embedding", "embeddings.class_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
    ("conv1", "embeddings.patch_embedding"),
    ("ln_pre", "pre_layrnorm"),  # so spelled there
    ("transformer.resblocks.{i}.ln_1", "encoder.layers.{i}.layer_norm1"),
    ("transformer.resblocks.{i}.ln_2", "encoder.layers.{i}.layer_norm2"),
    ("transformer.resblocks.{i}.attn.out_proj", "encoder.layers.{i}.self_attn.out_proj"),
    ("transformer.resblocks.{i}.mlp.c_fc", "encoder.layers.{i}.mlp.fc1"),
    ("transformer.resblocks.{i}.mlp.c_proj", "encoder.layers.{i}.mlp.fc2"),
]

HEADS = {1408: 16}  # EVA-g's attention heads are 88 wide; others' 64
PREPROCESSOR = {  # CLIP's
    "image_processor_type": "BlipImageProcessor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
}


@dataclass(frozen=True)
class Loose:
    """A frozen part whose weights came without a folder of their own."""

    weights: dict[str, Tensor]  # by the names of its Hugging Face class
    config: dict[str, Any]  # its config.json
    preprocessor: dict[str, Any]


def loose_vision(file: Path, visual: dict[str, Tensor], vision: Source | None) -> Loose:
    """The vision encoder in a .pth, by its class's names, with the settings that `vision` or the
    shapes tell. visual: by LAVIS' names, without the prefix. Raises CheckpointError."""
    is_eva = "pos_embed" in visual
    convert = eva_from_lavis if is_eva else clip_from_lavis
    weights, homeless = convert(visual)
    if homeless:
        raise CheckpointError(
            f"{file} has a vision encoder of another kind, with {len(homeless)} weights Loupe does "
            f"not know: {listed(homeless)}"
        )
    position = "embeddings.position_embedding" + ("" if is_eva else ".weight")
    told_by = ("embeddings.patch_embedding.weight", position, "encoder.layers.0.mlp.fc1.weight")
    if lacking := [name for name in told_by if name not in weights]:
        raise CheckpointError(f"{file} is incomplete: its vision encoder lacks {listed(lacking)}")
    width, _, patch, _ = weights["embeddings.patch_embedding.weight"].shape
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
        vision = ModelSource.of(vision)
        named = vision.settings()
        named = named.get("vision_config", named)
        kept = ("num_attention_heads", "hidden_act", "layer_norm_eps")
        config |= {key: named[key] for key in kept if key in named}
        return Loose(weights, config, vision.image_processor())
    return Loose(weights, config, PREPROCESSOR | {"size": {"height": side, "width": side}})


def open_loose(loose: Loose, file: Path, dtype: torch.dtype) -> HuggingFaceVisionEncoder:
    """Open it as an encoder read at its last block, as in BLIP-2. Raises CheckpointError."""
    import transformers

    model_class = getattr(transformers, loose.config["architectures"][0])
    named = ("architectures", "model_type")
    shape = {key: value for key, value in loose.config.items() if key not in named}
    with quiet():
        model, report = model_class.from_pretrained(
            None,
            config=model_class.config_class(**shape),
            state_dict=loose.weights,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed below
        )
    unread = "post_layernorm."  # behind the last block: BLIP-2 has one of its own there
    odd = [key for key in report["missing_keys"] if not key.startswith(unread)]
    odd += [str(key[0]) for key in report["mismatched_keys"]]
    if odd:
        raise CheckpointError(
            f"{file} is incomplete: its vision encoder lacks {len(odd)} weights, or has them in "
            f"another shape: {listed(odd)}"
        )
    normalisation = Normalisation.of(loose.preprocessor, file)
    return HuggingFaceVisionEncoder(model, 1, normalisation, hidden_state=-1)


def eva_from_lavis(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """LAVIS' names (without the prefix) -> (Blip2VisionModel's, names without a home)."""
    joined = dict(weights)
    for name in [name for name in weights if name.endswith("attn.q_bias")]:
        block = name.removesuffix("q_bias")
        q, v = joined.pop(name), joined.pop(f"{block}v_bias")
        joined[f"{block}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])  # keys have none
    return renamed(joined, EVA)


def eva_to_lavis(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The way back. A key bias that is not zero has no home in LAVIS."""
    split, homeless = renamed(weights, [(theirs, ours) for ours, theirs in EVA])
    for name in [name for name in split if name.endswith("attn.qkv.bias")]:
        q, k, v = split.pop(name).chunk(3)
        block = name.removesuffix("qkv.bias")
        split |= {f"{block}q_bias": q.clone(), f"{block}v_bias": v.clone()}
        homeless += [f"{block}k_bias"] if bool(k.any()) else []
    return split, homeless


def clip_from_lavis(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """LAVIS' names (without the prefix) -> (CLIPVisionModel's, names without a home)."""
    split: dict[str, Tensor] = {}
    for name, value in weights.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if found is None:
            split[name] = value
            continue
        for letter, third in zip("qkv", value.chunk(3), strict=True):
            split[f"encoder.layers.{found[1]}.self_attn.{letter}_proj.{found[2]}"] = third.clone()
    own = {name: value for name, value in split.items() if name.startswith("encoder.")}
    rest, homeless = renamed({k: v for k, v in split.items() if k not in own}, CLIP)
    return rest | own, homeless


def clip_to_lavis(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The way back."""
    joined, thirds = {}, re.compile(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)")
    theirs = dict(weights)
    for name in weights:
        if found := thirds.fullmatch(name):
            parts = [theirs.pop(name.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
            block = f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"
            joined[block] = torch.cat(parts)
    rest, homeless = renamed(theirs, [(hf, lavis) for lavis, hf in CLIP])
    return rest | joined, homeless


def renamed(
    weights: dict[str, Tensor], names: list[tuple[str, str]]
) -> tuple[dict[str, Tensor], list[str]]:
    """Each weight under its new name; those no rule knows."""
    rules = []
    for old, new in names:
        spelled = re.escape(old).replace(r"\{i\}", r"(?P<i>\d+)")
        rules.append((re.compile(rf"{spelled}(?P<leaf>|\.weight|\.bias)"), new))
    found, homeless = {}, []
    for name, value in weights.items():
        for pattern, new in rules:
            if match := pattern.fullmatch(name):
                number = match.groupdict().get("i", "")
                found[new.replace("{i}", number) + match["leaf"]] = value
                break
        else:
            homeless.append(name)
    return found, homeless
