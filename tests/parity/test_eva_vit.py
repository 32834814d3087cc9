"""EVA ViT as BLIP-2 reads it, against numbers of the reference implementation (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters.registry import VISION_ENCODERS
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "eva_vit.safetensors"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


def from_lavis(weights):
    """LAVIS names -> Blip2VisionModel's; its q and v biases become one with zeros for k."""
    ours = {}
    for name, value in weights.items():
        name = name.removeprefix("lavis.").removeprefix("visual_encoder.")
        if name.startswith("ln_vision."):
            ours[name.replace("ln_vision", "post_layernorm")] = value
            continue
        if name.endswith(".q_bias"):
            key = name.removesuffix("q_bias")
            v_bias = weights[f"lavis.visual_encoder.{key}v_bias"]
            name, value = f"{key}qkv.bias", torch.cat([value, torch.zeros_like(value), v_bias])
        if name.endswith(".v_bias"):
            continue
        for old, new in (
            ("cls_token", "embeddings.class_embedding"),
            ("pos_embed", "embeddings.position_embedding"),
            ("patch_embed.proj", "embeddings.patch_embedding"),
            ("blocks.", "encoder.layers."),
            (".norm1.", ".layer_norm1."),
            (".norm2.", ".layer_norm2."),
            (".attn.proj.", ".self_attn.projection."),
            (".attn.", ".self_attn."),
        ):
            name = name.replace(old, new)
        ours[name] = value
    return ours


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    from transformers import Blip2VisionConfig, Blip2VisionModel

    config = Blip2VisionConfig(
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=56,
        patch_size=14,
        layer_norm_eps=1e-6,
    )
    model = Blip2VisionModel(config)
    weights = {name: value for name, value in golden.items() if name.startswith("lavis.")}
    model.load_state_dict(from_lavis(weights))  # strict
    folder = tmp_path_factory.mktemp("eva")
    model.save_pretrained(folder)
    settings = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def vision(folder):
    return VISION_ENCODERS["eva"](folder)


def test_a_size_that_cuts_patches_is_refused(folder):
    with pytest.raises(CheckpointError, match="image_size=90 is not a multiple of the patches' 14"):
        VISION_ENCODERS["eva"](folder, image_size=90)


def test_a_larger_picture_is_read_with_interpolated_positions(golden, vision, folder):
    larger = VISION_ENCODERS["eva"](folder, image_size=84)
    assert (larger.image_size, larger.grid) == ((84, 84), (6, 6))
    norm = torch.nn.LayerNorm(48, eps=1e-5)
    norm.load_state_dict({n: golden[f"lavis.ln_vision.{n}"] for n in ("weight", "bias")})
    image_embeds = norm(larger.encode(golden["in.pixel_values_84"]))
    expected = golden["out.ln_vision_84_interpolated"]
    torch.testing.assert_close(image_embeds, expected, rtol=0, atol=1e-5)


def test_the_encoder_gives_the_blocks_output_without_a_norm(golden, vision):
    image_embeds = vision.encode(golden["in.pixel_values"])
    torch.testing.assert_close(image_embeds, golden["out.blocks_output"], rtol=0, atol=1e-5)


def test_the_bridges_norm_is_lavis_ln_vision(golden, vision):
    qformer = QFormerConfig(encoder_hidden_size=48, hidden_size=16, num_layers=1, num_heads=2)
    bridge = Bridge(BridgeConfig(qformer))
    weights = {name: golden[f"lavis.ln_vision.{name}"] for name in ("weight", "bias")}
    bridge.image_layernorm.load_state_dict(weights)
    image_embeds = bridge.image_layernorm(vision.encode(golden["in.pixel_values"]))
    torch.testing.assert_close(image_embeds, golden["out.ln_vision"], rtol=0, atol=1e-5)
