"""Tiny random segmenters of every family, as the folders their releases come in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

DECODER = {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32}
FPN = {
    "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "initializer_range": 0.2,
}


def save(model: Any, folder: Path) -> Path:
    """In half precision, as published folders often are."""
    model.half().save_pretrained(folder)
    values = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28], "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
    return folder


def sam_config(config_class: Any, **vision: Any) -> Any:
    config = config_class(
        vision_config={
            "hidden_size": 24, "output_channels": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 3,
            "global_attn_indexes": [1], "mlp_dim": 48, "num_pos_feats": 16,
            "initializer_range": 0.1, **vision,
        },
        prompt_encoder_config={
            "hidden_size": 32, "image_size": 64, "patch_size": 8, "image_embedding_size": 8,
        },
        mask_decoder_config=DECODER,
    )  # fmt: skip
    config.initializer_range = 0.1
    return config


def sam(folder: Path) -> Path:
    from transformers import SamConfig, SamModel

    torch.manual_seed(0)
    return save(SamModel(sam_config(SamConfig)), folder)


def sam_hq(folder: Path) -> Path:
    from transformers import SamHQConfig, SamHQModel

    torch.manual_seed(0)
    config = sam_config(SamHQConfig)
    config.mask_decoder_config.vit_dim = 24
    return save(SamHQModel(config), folder)


def sam2_config(config_class: Any) -> Any:
    return config_class(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64],
                "num_attention_heads_per_stage": [1, 1, 2, 4],
                "window_size_per_stage": [4, 2, 4, 2], "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4], "initializer_range": 0.2,
            },
            "backbone_channel_list": [64, 32, 16, 8], **FPN,
        },
        prompt_encoder_config={
            "hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 8,
        },
        mask_decoder_config=DECODER,
    )  # fmt: skip


def sam2(folder: Path) -> Path:
    from transformers import Sam2Config, Sam2Model

    torch.manual_seed(0)
    return save(Sam2Model(sam2_config(Sam2Config)), folder)


def sam3_vision() -> dict[str, Any]:
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14,
            "window_size": 2, "global_attn_indexes": [1], "pretrain_image_size": 28,
            "initializer_range": 0.2,
        },
        **FPN,
    }  # fmt: skip


def sam3_tracker_config() -> Any:
    from transformers import Sam3TrackerConfig

    prompts = {"hidden_size": 32, "image_size": 56, "patch_size": 14, "mask_input_channels": 8}
    return Sam3TrackerConfig(
        vision_config=sam3_vision(), prompt_encoder_config=prompts, mask_decoder_config=DECODER
    )


def sam3_tracker(folder: Path) -> Path:
    from transformers import Sam3TrackerModel

    torch.manual_seed(0)
    return save(Sam3TrackerModel(sam3_tracker_config()), folder)


def sam3_config() -> Any:
    from transformers import Sam3Config

    block = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    text = {
        "model_type": "clip_text_model", "vocab_size": 400, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "max_position_embeddings": 32, "projection_dim": 32,
    }  # fmt: skip
    return Sam3Config(
        vision_config=sam3_vision(),
        text_config=text,
        geometry_encoder_config={**block, "num_layers": 1, "roi_size": 3},
        detr_encoder_config={**block, "num_layers": 1},
        detr_decoder_config={**block, "num_layers": 2, "num_queries": 7},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
        initializer_range=0.2,
    )


def clip_tokenizer(folder: Path) -> None:
    """Bytes and a few merges: CLIP's tokenizer with next to no vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = ByteLevel.alphabet()
    letters = sorted(letters)
    words = [*letters, *(letter + "</w>" for letter in letters)][:396]
    vocabulary = {word: place for place, word in enumerate(words)}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)


def sam3(folder: Path) -> Path:
    from transformers import Sam3Model

    torch.manual_seed(0)
    save(Sam3Model(sam3_config()), folder)
    clip_tokenizer(folder)
    return folder


def sam3_video(folder: Path) -> Path:
    """Detector and tracker in one folder, as SAM 3 is published."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    torch.manual_seed(0)
    tracker = sam3_tracker_config().to_dict()
    tracker.update(model_type="sam3_tracker_video", memory_attention_hidden_size=32, image_size=56)
    config = Sam3VideoConfig(detector_config=sam3_config().to_dict(), tracker_config=tracker)
    save(Sam3VideoModel(config), folder)
    clip_tokenizer(folder)
    # transformers 5.23 writes a prefix twice that the published file has once
    weights = load_file(folder / "model.safetensors")
    doubled = "tracker_model.tracker_model."
    weights = {name.replace(doubled, "tracker_model."): value for name, value in weights.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def efficientsam(folder: Path) -> Path:
    from adapters.efficientsam import EfficientSam, EfficientSamConfig
    from adapters.segmenter_efficientsam import save_efficientsam

    torch.manual_seed(0)
    config = EfficientSamConfig(
        image_size=64, patch_size=8, width=24, depth=2, heads=2, positions=4, channels=32,
        decoder_heads=2, decoder_mlp=48, iou_hidden=32, upscaling=(16, 8),
    )  # fmt: skip
    model = EfficientSam(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_efficientsam(model.half(), folder)
    return folder


def mobilesam(folder: Path) -> Path:
    """Under the names of the release."""
    from adapters.segmenter_mobilesam import MobileSam, save_mobilesam
    from adapters.tinyvit import TinyVitConfig

    torch.manual_seed(0)
    vision = TinyVitConfig(
        image_size=64, widths=(8, 16, 16, 24), depths=(1, 1, 1, 1), heads=(1, 2, 2, 2),
        windows=(3, 3, 4, 3), strides=(2, 1, 1), channels=32,
    )  # fmt: skip
    model = MobileSam(vision, {key: n for key, n in DECODER.items() if key != "hidden_size"})
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    save_mobilesam(model.half(), folder)
    return folder


def efficientnet_state(widths: tuple[int, ...] = (8, 10, 12, 16, 20, 24, 32)) -> dict[str, Any]:
    """A released EfficientNet-Lite's state dict in small: one block a stage, of these widths; two
    neighbours must differ, or they are one stage."""
    from torch import nn

    kernels, inner = (3, 3, 5, 3, 5, 5, 3), widths[0]
    state: dict[str, Any] = {}

    def put(conv: str, norm: str, module: nn.Conv2d) -> None:
        state[f"{conv}.weight"] = module.weight.detach() * 2
        made = nn.BatchNorm2d(module.out_channels)
        nn.init.uniform_(made.weight, 0.5, 1.5)
        nn.init.normal_(made.bias, 0.2, 0.2)
        state.update({f"{norm}.{name}": value for name, value in made.state_dict().items()})

    put("_conv_stem", "_bn0", nn.Conv2d(3, inner, 3, bias=False))
    for n, (out, kernel) in enumerate(zip(widths, kernels, strict=True)):
        block, wide = f"_blocks.{n}", inner * (2 if n else 1)
        if n:
            put(f"{block}._expand_conv", f"{block}._bn0", nn.Conv2d(inner, wide, 1, bias=False))
        depthwise = nn.Conv2d(wide, wide, kernel, groups=wide, bias=False)
        put(f"{block}._depthwise_conv", f"{block}._bn1", depthwise)
        put(f"{block}._project_conv", f"{block}._bn2", nn.Conv2d(wide, out, 1, bias=False))
        inner = out
    put("_conv_head", "_bn1", nn.Conv2d(inner, 40, 1, bias=False))
    head = nn.Linear(40, 10)
    state.update({"_fc.weight": head.weight.detach(), "_fc.bias": head.bias.detach()})
    return state


def lite_sam(folder: Path) -> Path:
    """Beside its trunk, which its config names by a relative path."""
    from adapters.segmenter_lite import LiteSamConfig, LiteSegmenter, save_lite

    torch.manual_seed(0)
    save_file(efficientnet_state(), folder / "trunk.safetensors", {"format": "pt"})
    config = LiteSamConfig(
        trunk="trunk.safetensors", image_size=64, width=32, blocks=1, convolutions=1
    )
    segmenter = LiteSegmenter.new(config, folder)
    for name, parameter in segmenter.model.named_parameters():
        if parameter.dim() > 1 and not name.startswith("trunk."):
            torch.nn.init.normal_(parameter, std=0.2)
    save_lite(segmenter, folder)
    return folder
