"""Models by their shape alone, on the meta device: what a plan counts, with no weights read.

KNOWN holds the shapes of the hub ids that shipped recipes name, so that those can be planned
without a network; of anything else config.json is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adapters.build import locate
from adapters.config import PartConfig
from adapters.efficientnet import EfficientNetLite, lite0_state
from adapters.folder import LANGUAGE_CLASSES
from adapters.hybrid import MODEL_TYPE, HybridConfig, HybridVit
from adapters.source import WHOLE_MODELS
from adapters.vision import ARCHITECTURES
from qformer.config import from_dict
from qformer.contracts import CheckpointError


def opt(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "opt", "architectures": ["OPTForCausalLM"], "vocab_size": 50272,
        "hidden_size": width, "word_embed_proj_dim": width, "ffn_dim": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": heads, "max_position_embeddings": 2048,
    }  # fmt: skip


def flan_t5(width: int, feed_forward: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128,
        "d_model": width, "d_kv": 64, "d_ff": feed_forward, "num_layers": 24, "num_heads": heads,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }  # fmt: skip


def tower(kind: str, width: int, layers: int, heads: int, image: int, patch: int) -> dict[str, Any]:
    vision = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "image_size": image, "patch_size": patch,
    }  # fmt: skip
    return {"model_type": kind, "vision_config": vision}


KNOWN: dict[str, dict[str, Any]] = {
    "facebook/opt-2.7b": opt(2560, 32, 32),
    "facebook/opt-6.7b": opt(4096, 32, 32),
    "google/flan-t5-xl": flan_t5(2048, 5120, 32),
    "google/flan-t5-xxl": flan_t5(4096, 10240, 64),
    "Qwen/Qwen3-1.7B": {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936,
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "head_dim": 128,
        "num_attention_heads": 16, "num_key_value_heads": 8, "tie_word_embeddings": True,
        "max_position_embeddings": 40960,
    },
    "openai/clip-vit-large-patch14": tower("clip", 1024, 24, 16, 224, 14),
    "google/siglip2-large-patch16-256": tower("siglip", 1024, 24, 16, 256, 16),
    "package:smollm2-135m-instruct": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 49152,
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
        "max_position_embeddings": 8192,
    },
    # what train/photos/start.py makes
    "runs/photos/start/vision": {"model_type": MODEL_TYPE, "trunk": "package:efficientnet-lite0"},
    # its vision encoder is EVA-g, cut as BLIP-2 cuts it; the defaults of Blip2VisionConfig
    "Salesforce/blip2-opt-2.7b": {
        "model_type": "blip-2", "vision_config": {}, "text_config": opt(2560, 32, 32)
    },
}  # fmt: skip


@dataclass
class BareVision:
    """model: on the meta device. tokens: of image_embeds, leading ones included."""

    model: Any
    image_size: tuple[int, int]
    tokens: int
    width: int


def settings_of(part: PartConfig) -> dict[str, Any]:
    if part.path in KNOWN:
        return KNOWN[part.path]
    return locate(Path(), part).settings()


def bare_vision(part: PartConfig) -> BareVision:
    """Raises CheckpointError for a model that is no vision encoder Loupe knows."""
    import transformers

    settings = settings_of(part)
    if settings.get("model_type") == MODEL_TYPE:
        config = from_dict(HybridConfig, settings, part.path)
        with torch.device("meta"):
            hybrid = HybridVit(config, EfficientNetLite(lite0_state())).eval()
        side = config.image_size
        return BareVision(hybrid, (side, side), hybrid.positions.shape[0], config.hidden_size)
    if settings.get("model_type") not in ARCHITECTURES:
        raise CheckpointError(
            f"{part.path} is no vision encoder Loupe knows: {', '.join(ARCHITECTURES)}"
        )
    name, leading = ARCHITECTURES[settings["model_type"]]
    model_class = getattr(transformers, name)
    inner = dict(settings.get("vision_config") or settings)
    inner.pop("model_type", None)
    if "vision_config" in settings and settings["model_type"] not in WHOLE_MODELS:
        inner = {k: v for k, v in inner.items() if k != "architectures"}
    config = model_class.config_class(**inner)
    if part.image_size:
        config.image_size = part.image_size
    with torch.device("meta"):
        model = model_class(config)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
    leading += getattr(config, "num_register_tokens", 0)
    tokens = leading + (height // patch) * (width // patch)
    return BareVision(model.eval(), (height, width), tokens, config.hidden_size)


def bare_language(part: PartConfig, dtype: torch.dtype) -> Any:
    """The language model of a folder or hub id, on the meta device."""
    import transformers

    settings = settings_of(part)
    if settings.get("model_type") in WHOLE_MODELS:
        settings = settings["text_config"]
        name = LANGUAGE_CLASSES.get(settings.get("model_type", ""))
    else:
        name = (settings.get("architectures") or [None])[0]
    model_class = getattr(transformers, name or "", None)
    if model_class is None:
        raise CheckpointError(f"{part.path} names no language model that transformers has")
    config = model_class.config_class(**{k: v for k, v in settings.items() if k != "model_type"})
    with torch.device("meta"):
        return model_class(config).to(dtype).eval().requires_grad_(False)
