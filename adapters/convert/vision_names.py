"""Names of vision encoders' weights: LAVIS' EVA and CLIP <-> transformers' classes of them."""

from __future__ import annotations

import re

import torch
from torch import Tensor

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
