"""New, untrained frozen parts: the Hugging Face models that the embedded default is trained as."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def fresh_vision(size: int, width: int, layers: int, heads: int) -> nn.Module:
    """An untrained hybrid ViT (DPTModel): a small ResNet down to patches of 8 pixels, then
    transformer blocks with positions and a class token. Convolutions see shapes from far fewer
    pictures than a plain ViT does."""
    from transformers import DPTConfig, DPTModel, ResNetConfig

    stem = ResNetConfig(
        embedding_size=48,
        hidden_sizes=[64, width],
        depths=[2, 2],
        layer_type="basic",
        out_features=["stem", "stage1", "stage2"],
    )
    config = DPTConfig(
        is_hybrid=True,
        backbone_config=stem,
        backbone_featmap_shape=[1, width, size // 8, size // 8],
        backbone_out_indices=[0, 1],
        neck_ignore_stages=[0, 1],
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=3 * width,
        image_size=size,
        patch_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return DPTModel(config, add_pooling_layer=False)


def fresh_language(vocabulary: int, width: int, layers: int, heads: int, context: int) -> nn.Module:
    """An untrained LlamaForCausalLM; ids 0 to 3 are pad, unknown, start and end."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 16 * 16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    return LlamaForCausalLM(config)


def fresh_segmenter(size: int, patch: int, width: int, layers: int, heads: int) -> nn.Module:
    """An untrained SamModel: windowed attention with two global layers, three masks, IoU scores."""
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    grid = size // patch
    config = SamConfig(
        vision_config=SamVisionConfig(
            hidden_size=width,
            output_channels=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=size,
            patch_size=patch,
            window_size=grid // 3,
            global_attn_indexes=[layers // 2 - 1, layers - 1],
            mlp_dim=4 * width,
            num_pos_feats=width // 2,
            initializer_range=0.05,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=width, image_size=size, patch_size=patch, image_embedding_size=grid
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            hidden_size=width,
            mlp_dim=2 * width,
            num_attention_heads=4,
            iou_head_hidden_dim=width,
            layer_norm_eps=1e-5,
        ),
    )
    config.initializer_range = 0.05
    model = SamModel(config)
    # transformers draws the (fixed) frequencies of positions as if a checkpoint always replaced
    # them, 64 times too high to learn from; SAM draws them from a unit normal.
    frequencies = model.shared_image_embedding.positional_embedding
    frequencies.requires_grad_(False).normal_()
    return model


def save_frozen(model: Any, folder: Path, preprocessor: dict | None = None) -> None:
    """Write `model` as a Hugging Face folder in half precision."""
    half = copy.deepcopy(model).to(torch.float16)
    half.save_pretrained(folder)
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
