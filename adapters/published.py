"""BLIP-2 and InstructBLIP as they are published, opened in place: no conversion, no second copy.

Li et al. 2023 (arXiv 2301.12597), Dai et al. 2023 (arXiv 2305.06500), in the form of transformers'
Blip2ForConditionalGeneration and InstructBlipForConditionalGeneration. Regions work on them without
training: the same queries read the picture again, and a region's patches alone are visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from adapters.checkpoint import bridge_of
from adapters.folder import Source, open_model
from adapters.language_decoder import DecoderLanguageModel
from adapters.language_encoder_decoder import EncoderDecoderLanguageModel
from adapters.tokenizer import HubTokenizer, open_tokenizer
from adapters.vision import HuggingFaceVisionEncoder, Normalisation
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError, Decoding
from qformer.convert import from_huggingface
from qformer.prompt import PromptConfig
from qformer.retrieval import Ranker
from qformer.stage1 import Stage1

# model_type -> the class that holds the whole model
PUBLISHED = {
    "blip-2": "Blip2ForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
}
RETRIEVAL = "Blip2ForImageTextRetrieval"  # its model_type is "blip-2" too
INSTRUCTION = 128  # tokens of a question that InstructBLIP's Q-Former was trained to read

# These models know a picture's tokens and words, no names of regions: a region is first captioned
# by the model itself, and the tokens of all asked regions stand where the picture's do.
_SHARED: dict[str, Any] = {"composer": "text", "start_ids": "after picture", "turn": " "}
PROMPTS = {
    "opt": PromptConfig(**_SHARED, region="{name}: {tokens}. "),
    "t5": PromptConfig(
        **_SHARED, region="{name}: {tokens}. ", question="Question: {question} Short answer:"
    ),
    "instruct": PromptConfig(
        **_SHARED,
        region="{name}: {tokens}. ",
        question="{question}",
        caption="A short image description.",
    ),
}
# BLIP-2's own settings for captions and for questions (LAVIS); greedy for a chat, so that an answer
# can be read as it is written.
PRESETS = {
    "caption": Decoding(max_new_tokens=30, min_new_tokens=8, beams=5),
    "vqa": Decoding(max_new_tokens=10, min_new_tokens=1, beams=5, length_penalty=-1.0),
    "chat": Decoding(max_new_tokens=64),
}


@dataclass(frozen=True)
class Published:
    """The parts of a published model."""

    vision: HuggingFaceVisionEncoder
    bridge: Bridge
    language: DecoderLanguageModel | EncoderDecoderLanguageModel
    tokenizer: HubTokenizer | None  # of the Q-Former's text side, where it reads the question
    prompt: PromptConfig


def open_published(
    source: Source, kind: str, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Published:
    """A folder or hub id whose config.json says `kind`, one of PUBLISHED.

    dtype: of the frozen parts; the bridge computes in float32. Raises CheckpointError.
    """
    model = open_model(source, dtype, revision, PUBLISHED[kind])
    config, instruct = model.config, kind == "instructblip"
    encodes = not config.use_decoder_only_language_model
    words = open_tokenizer(source, revision)
    tokenizer = _bert_tokenizer(source, revision, "qformer_tokenizer") if instruct else None
    language_class = EncoderDecoderLanguageModel if encodes else DecoderLanguageModel
    shape = _bridge_config(config, tokenizer)
    bridge = _bridge(model, shape, source)
    vision = HuggingFaceVisionEncoder(  # the norm behind the last block belongs to the bridge
        model.vision_model, 1, Normalisation.open(source, revision), hidden_state=-1
    )
    prompt = PROMPTS["instruct" if instruct else "t5" if encodes else "opt"]
    return Published(vision, bridge, language_class(model.language_model, words), tokenizer, prompt)


def open_retrieval(
    source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
) -> Ranker:
    """A Blip2ForImageTextRetrieval. Raises CheckpointError."""
    model = open_model(source, dtype, revision, RETRIEVAL)
    words = _bert_tokenizer(source, revision)
    theirs = model.config.qformer_config
    qformer = _qformer_config(
        model.config,
        vocab_size=theirs.vocab_size,
        text_feed_forward=True,
        cls_id=words.tokenizer.cls_token_id,
        dec_id=theirs.vocab_size - 1,
        itc_size=model.config.image_text_hidden_size,
    )
    bridge = Bridge(BridgeConfig(qformer))
    stage1 = Stage1(bridge.qformer)
    own = ("vision_model.embeddings.", "vision_model.encoder.")
    ours, homeless = from_huggingface(
        {k: v for k, v in model.state_dict().items() if not k.startswith(own)}
    )
    ours = {name: value.float() for name, value in ours.items()}
    norm = {k: v for k, v in ours.items() if k.startswith("image_layernorm.")}
    rest = {k: v for k, v in ours.items() if k not in norm}
    # These two are for training alone, and not in the folder.
    absent = {k for k in stage1.state_dict() if k.startswith(("temperature", "generation_head."))}
    wrong = sorted(homeless + list((stage1.state_dict().keys() - absent) ^ rest.keys()))
    if wrong or not norm:
        raise CheckpointError(
            f"{source} is not a retrieval model that Loupe knows: {len(wrong)} weights do not fit,"
            f" {', '.join(wrong[:3])}"
        )
    stage1.load_state_dict(rest, strict=False)
    bridge.load_state_dict(norm, strict=False)
    vision = HuggingFaceVisionEncoder(
        model.vision_model, 1, Normalisation.open(source, revision), hidden_state=-1
    )
    return Ranker(vision, bridge, stage1, words, words.tokenizer.sep_token_id)


def _bert_tokenizer(source: Source, revision: str | None, subfolder: str = "") -> HubTokenizer:
    """The tokenizer of a Q-Former's text side."""
    words = open_tokenizer(source, revision, subfolder)
    if not isinstance(words, HubTokenizer) or words.tokenizer.cls_token_id is None:
        raise CheckpointError(
            f"the Q-Former's tokenizer in {source} is not BERT's (it has no [CLS]): copy the"
            " model's files again"
        )
    return words


def _qformer_config(config: Any, **changes: Any) -> QFormerConfig:
    theirs = config.qformer_config
    return QFormerConfig(
        hidden_size=theirs.hidden_size,
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        intermediate_size=theirs.intermediate_size,
        cross_attention_frequency=theirs.cross_attention_frequency,
        encoder_hidden_size=theirs.encoder_hidden_size,
        num_queries=config.num_query_tokens,
        max_positions=theirs.max_position_embeddings,
        dropout=theirs.hidden_dropout_prob,
        layer_norm_eps=theirs.layer_norm_eps,
        pad_id=theirs.pad_token_id or 0,
        **changes,
    )


def _bridge_config(config: Any, tokenizer: HubTokenizer | None) -> BridgeConfig:
    """tokenizer: of the Q-Former, where it reads the question."""
    theirs = config.qformer_config
    if tokenizer is None:
        return BridgeConfig(
            _qformer_config(config, vocab_size=0, text_feed_forward=False),
            language_width=config.text_config.hidden_size,
        )
    return BridgeConfig(
        _qformer_config(
            config,
            vocab_size=theirs.vocab_size,
            cls_id=tokenizer.tokenizer.cls_token_id,
            dec_id=theirs.vocab_size - 1,
        ),
        language_width=config.text_config.hidden_size,
        instruct=True,
        max_instruction=min(INSTRUCTION, theirs.max_position_embeddings),
        end_id=tokenizer.tokenizer.sep_token_id,
    )


def _bridge(model: Any, config: BridgeConfig, source: Source) -> Bridge:
    """The Q-Former and what surrounds it, out of a whole model; the rest keeps its weights."""
    frozen = ("vision_model.embeddings.", "vision_model.encoder.", "language_model.")
    theirs = {k: v for k, v in model.state_dict().items() if not k.startswith(frozen)}
    ours, homeless = from_huggingface(theirs)
    return bridge_of(config, ours, f"{source} is not a BLIP-2 that Loupe knows", homeless)
