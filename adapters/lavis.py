"""A LAVIS .pth of BLIP-2 or InstructBLIP, opened beside the frozen parts it was trained with.

LAVIS (arXiv 2209.09019) saves what it trained and leaves the frozen parts to the reader: the vision
encoder (EVA-g, or CLIP ViT-L) and the language model (OPT or Flan-T5) come from folders or the hub.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.checkpoint import trained_of
from adapters.folder import HERE, listed, read_settings
from adapters.memory import Placement
from adapters.published import INSTRUCTION, Published, bert_tokenizer, prompt_of
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from adapters.tokenizer import HubTokenizer, open_tokenizer
from adapters.weights import Source
from qformer.bridge import BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError
from qformer.convert import from_lavis
from qformer.retrieval import Ranker

SUFFIXES = (".pth", ".pt")
HEAD_WIDTH = 64  # BERT's
VISION_KINDS = {
    **dict.fromkeys(("blip_2_vision_model", "blip-2", "instructblip"), "eva"),
    "clip": "clip",
    "clip_vision_model": "clip",
}
FROZEN = ("visual_encoder.", "opt_model.", "t5_model.", "llm_model.")


def open_lavis(
    file: Path,
    vision: Source,
    language: Source,
    dtype: torch.dtype = torch.float32,
    tokenizer: Source | None = None,
    placement: Placement = HERE,
    num_heads: int | None = None,
) -> Published:
    """The parts of a stage-2 checkpoint (pretrain_opt, pretrain_flant5, InstructBLIP's and their
    like).

    vision, language: the frozen parts. tokenizer: of a Q-Former that reads the question.
    num_heads: the file does not tell; by default BERT's width of 64 a head. Raises
    CheckpointError, for a file that is more than weights too.
    """
    ours = bridge_weights(file)
    if "language_projection.weight" not in ours:
        raise CheckpointError(
            f"{file} has no projection into a language model (a stage-1 checkpoint?): give one of "
            "stage 2; loupe rank and loupe find read those of stage 1"
        )
    instruct = "qformer.word_embeddings.weight" in ours
    if instruct and tokenizer is None:
        raise CheckpointError(
            f"{file} reads the question (InstructBLIP): name the tokenizer of its Q-Former too "
            "(--tokenizer), for example bert-base-uncased"
        )
    words = bert_tokenizer(tokenizer) if instruct and tokenizer is not None else None
    bridge, _ = trained_of(shape_of(ours, words, num_heads), ours, f"{file} is incomplete")
    encodes = bool(read_settings(language, "config.json").get("is_encoder_decoder"))
    kind = "encoder-decoder" if encodes else "decoder"
    return Published(
        open_vision(vision, dtype, placement),
        bridge,
        LANGUAGE_MODELS[kind](language, dtype, placement=placement, stop=stop_of(language)),
        words,
        prompt_of(instruct, not encodes),
    )


def open_ranker(
    file: Path,
    vision: Source,
    tokenizer: Source,
    dtype: torch.dtype = torch.float32,
    placement: Placement = HERE,
    num_heads: int | None = None,
) -> Ranker:
    """A stage-1 checkpoint (pretrain, or tuned for retrieval) at work. Raises CheckpointError."""
    ours = bridge_weights(file)
    if "itm_head.weight" not in ours:
        raise CheckpointError(f"{file} has no ITC and ITM heads: give a checkpoint of stage 1")
    words = bert_tokenizer(tokenizer)
    shape = shape_of(ours, words, num_heads)
    bridge, stage1 = trained_of(
        shape, ours, f"{file} is incomplete", heads=True, absent=("generation_head.",)
    )
    assert stage1 is not None  # heads=True
    return Ranker(open_vision(vision, dtype, placement), bridge, stage1, words, shape.end_id)


def stop_of(language: Source) -> str | None:
    """What ends an answer of this language model: BLIP-2's OPT stops at the end of a line."""
    is_opt = read_settings(language, "config.json").get("model_type") == "opt"
    return "\n" if is_opt and len(open_tokenizer(language)("\n")) == 1 else None


def open_vision(source: Source, dtype: torch.dtype, placement: Placement) -> Any:
    """A vision encoder as LAVIS' models read it."""
    model_type = read_settings(source, "config.json").get("model_type", "")
    kind = VISION_KINDS.get(model_type, "hf")
    return VISION_ENCODERS[kind](source, dtype, placement=placement)


def bridge_weights(file: Path) -> dict[str, Tensor]:
    """What of a .pth is the bridge's, by our names; frozen parts in it are left out. Raises
    CheckpointError for weights of another kind."""
    ours, homeless = from_lavis(read_weights(file))
    odd = [key for key in homeless if not key.startswith(FROZEN)]
    if odd:
        raise CheckpointError(f"{file} holds {len(odd)} weights Loupe does not know: {listed(odd)}")
    return ours


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


def shape_of(
    weights: dict[str, Tensor], words: HubTokenizer | None = None, num_heads: int | None = None
) -> BridgeConfig:
    """The bridge these weights (our names) belong to; the settings that leave no trace in them are
    BERT's. words: the tokenizer of a Q-Former that reads text."""
    queries, width = weights["qformer.query_tokens"].shape[1:]
    layer = re.compile(r"qformer\.layers\.(\d+)\.(cross_attention)?")
    found = [match for name in weights if (match := layer.match(name))]
    reading = sorted({int(match[1]) for match in found if match[2]})
    layers = 1 + max(int(match[1]) for match in found)
    first = f"qformer.layers.{reading[0]}"
    projection = weights.get("language_projection.weight")
    text: dict[str, Any] = {"vocab_size": 0}
    vocabulary = weights.get("qformer.word_embeddings.weight")
    if vocabulary is not None:
        text = {
            "vocab_size": len(vocabulary),
            "dec_id": len(vocabulary) - 1,  # [DEC] is added last
            "max_positions": len(weights["qformer.position_embeddings.weight"]),
        }
    if words is not None:
        text |= {"cls_id": words.tokenizer.cls_token_id, "pad_id": words.tokenizer.pad_token_id}
    if "vision_projection.weight" in weights:
        text["itc_size"] = len(weights["vision_projection.weight"])
    qformer = QFormerConfig(
        hidden_size=width,
        num_layers=layers,
        num_heads=num_heads or max(1, width // HEAD_WIDTH),
        intermediate_size=len(weights[f"{first}.query_feed_forward.expand.weight"]),
        cross_attention_frequency=reading[1] - reading[0] if len(reading) > 1 else layers,
        encoder_hidden_size=weights[f"{first}.cross_attention.key.weight"].shape[1],
        num_queries=queries,
        text_feed_forward=f"{first}.text_feed_forward.expand.weight" in weights,
        **text,
    )
    reads: dict[str, Any] = {}
    if projection is not None and vocabulary is not None:
        most = min(INSTRUCTION, qformer.max_positions)
        reads = {"instruct": True, "max_instruction": most}
    return BridgeConfig(
        qformer,
        language_width=None if projection is None else len(projection),
        end_id=None if words is None else words.tokenizer.sep_token_id,
        **reads,
    )
