"""A LAVIS .pth of BLIP-2's second stage, opened beside the frozen parts it was trained with.

LAVIS (arXiv 2209.09019) saves what it trained and leaves the frozen parts to the reader: the vision
encoder (EVA-g, or CLIP ViT-L) and the language model (OPT or Flan-T5) come from folders or the hub.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from adapters.checkpoint import bridge_of
from adapters.folder import Source, read_settings
from adapters.published import PROMPTS, Published
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from qformer.bridge import BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError
from qformer.convert import from_lavis

SUFFIXES = (".pth", ".pt")
HEAD_WIDTH = 64  # BERT's
VISION_KINDS = {"blip_2_vision_model": "eva", "clip": "clip", "clip_vision_model": "clip"}
FROZEN = ("visual_encoder.", "opt_model.", "t5_model.", "llm_model.")


def open_lavis(
    file: Path,
    vision: Source,
    language: Source,
    dtype: torch.dtype = torch.float32,
    num_heads: int | None = None,
) -> Published:
    """The parts of a stage-2 checkpoint (pretrain_opt, pretrain_flant5 and their like).

    vision, language: the frozen parts. num_heads: the file does not tell; by default BERT's width
    of 64 a head. Raises CheckpointError, for a file that is more than weights too.
    """
    theirs = read_weights(file)
    ours, homeless = from_lavis(theirs)
    odd = sorted(key for key in homeless if not key.startswith(FROZEN))
    if odd:
        raise CheckpointError(f"{file} holds {len(odd)} weights Loupe does not know: {odd[:3]}")
    if "language_projection.weight" not in ours:
        raise CheckpointError(
            f"{file} has no projection into a language model (a stage-1 checkpoint?): give one of "
            "stage 2"
        )
    if "qformer.word_embeddings.weight" in ours:
        raise CheckpointError(
            f"{file} reads the question (InstructBLIP): open it by its hub id, for example "
            "Salesforce/instructblip-vicuna-7b, which brings the tokenizer"
        )
    bridge = bridge_of(shape_of(ours, num_heads), ours, f"{file} is incomplete")
    kind = VISION_KINDS.get(read_settings(vision, "config.json").get("model_type", ""), "hf")
    encodes = bool(read_settings(language, "config.json").get("is_encoder_decoder"))
    return Published(
        VISION_ENCODERS[kind](vision, dtype),
        bridge,
        LANGUAGE_MODELS["encoder-decoder" if encodes else "decoder"](language, dtype),
        None,
        PROMPTS["t5" if encodes else "opt"],
    )


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict of a .pth, by torch's reader of weights alone: it runs no code."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no file {file}: check the path") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} is damaged or holds more than weights, which could run code: it is refused"
        ) from None
    except (OSError, RuntimeError, EOFError):
        raise CheckpointError(f"{file} is damaged or cut short: copy it again") from None
    weights = saved.get("model", saved) if isinstance(saved, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise CheckpointError(f"{file} is no LAVIS checkpoint: it holds no weights by name")
    return weights


def shape_of(weights: dict[str, Tensor], num_heads: int | None = None) -> BridgeConfig:
    """The bridge these weights (our names) belong to; the settings that leave no trace in them are
    BERT's."""
    queries, width = weights["qformer.query_tokens"].shape[1:]
    layer = re.compile(r"qformer\.layers\.(\d+)\.(cross_attention)?")
    found = [match for name in weights if (match := layer.match(name))]
    reading = sorted({int(match[1]) for match in found if match[2]})
    layers = 1 + max(int(match[1]) for match in found)
    first = f"qformer.layers.{reading[0]}"
    qformer = QFormerConfig(
        hidden_size=width,
        num_layers=layers,
        num_heads=num_heads or max(1, width // HEAD_WIDTH),
        intermediate_size=len(weights[f"{first}.query_feed_forward.expand.weight"]),
        cross_attention_frequency=reading[1] - reading[0] if len(reading) > 1 else layers,
        encoder_hidden_size=weights[f"{first}.cross_attention.key.weight"].shape[1],
        num_queries=queries,
        vocab_size=0,
        text_feed_forward=f"{first}.text_feed_forward.expand.weight" in weights,
    )
    return BridgeConfig(qformer, language_width=len(weights["language_projection.weight"]))
