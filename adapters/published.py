"""BLIP-2 and InstructBLIP as they are published, opened in place: no conversion, no second copy.

Li et al. 2023 (arXiv 2301.12597), Dai et al. 2023 (arXiv 2305.06500), in the form of transformers'
Blip2ForConditionalGeneration and InstructBlipForConditionalGeneration. Regions work on them without
training: the same queries read the picture again, and a region's patches alone are visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters import memory
from adapters.checkpoint import trained_of
from adapters.folder import HERE
from adapters.language_decoder import DecoderLanguageModel
from adapters.language_encoder_decoder import T5_OVERFLOWS, EncoderDecoderLanguageModel
from adapters.memory import FROZEN, Count, Placement
from adapters.source import ModelSource, Source
from adapters.tokenizer import HubTokenizer, open_tokenizer
from adapters.vision import HuggingFaceVisionEncoder, open_eva
from adapters.weights import WeightFiles
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError, Decoding
from qformer.convert import from_huggingface
from qformer.prompt import PromptConfig
from qformer.retrieval import Ranker

# model_type -> the class that holds the whole model
PUBLISHED = {
    "blip-2": "Blip2ForConditionalGeneration",
    "instructblip": "InstructBlipForConditionalGeneration",
}
RETRIEVAL = "Blip2ForImageTextRetrieval"  # its model_type is "blip-2" too
TRAINING = ("temperature", "generation_head.")  # heads that no Hugging Face model has
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


def prompt_of(instruct: bool, decodes: bool) -> PromptConfig:
    """instruct: the question enters the Q-Former. decodes: the language model is a decoder."""
    return PROMPTS["instruct" if instruct else "opt" if decodes else "t5"]


@dataclass(frozen=True)
class Published:
    """The parts of a published model."""

    vision: HuggingFaceVisionEncoder
    bridge: Bridge
    language: DecoderLanguageModel | EncoderDecoderLanguageModel
    tokenizer: HubTokenizer | None  # of the Q-Former's text side, where it reads the question
    prompt: PromptConfig


def open_published(
    source: Source,
    kind: str,
    dtype: torch.dtype = torch.float32,
    placement: Placement = HERE,
) -> Published:
    """A folder or hub id whose config.json says `kind`, one of PUBLISHED.

    dtype: of the frozen parts; the bridge computes in float32. Each part reads its own weights
    where the files are mapped into memory. Raises CheckpointError.
    """
    source = ModelSource.of(source)
    config, instruct = whole_config(source), kind == "instructblip"
    encodes = not config.use_decoder_only_language_model
    if encodes and dtype == torch.float16:
        raise CheckpointError(f"{source}: {T5_OVERFLOWS}")
    stored = WeightFiles(source)
    memory.check(source, Count.of(stored.shapes()), dtype, placement)  # before anything is read
    tokenizer = bert_tokenizer(source, "qformer_tokenizer") if instruct else None
    ours, homeless = bridge_weights(stored)
    what = f"{source} is not a BLIP-2 that Loupe knows"
    bridge, _ = trained_of(bridge_config(config, tokenizer), ours, what, homeless)
    language_class = EncoderDecoderLanguageModel if encodes else DecoderLanguageModel
    return Published(
        vision_of(source, dtype, placement),
        bridge,
        language_class.open(source, dtype, placement=placement),
        tokenizer,
        prompt_of(instruct, not encodes),
    )


def open_retrieval(
    source: Source,
    dtype: torch.dtype = torch.float32,
    placement: Placement = HERE,
) -> Ranker:
    """A Blip2ForImageTextRetrieval. Raises CheckpointError."""
    source = ModelSource.of(source)
    words, config = bert_tokenizer(source), whole_config(source)
    stored = WeightFiles(source)
    memory.check(source, Count.of(stored.shapes()), dtype, placement)
    ours, homeless = bridge_weights(stored)
    # Two heads are for training alone, and not in the folder.
    what = f"{source} is not a retrieval model that Loupe knows"
    shape = retrieval_config(config, words)
    bridge, stage1 = trained_of(shape, ours, what, homeless, heads=True, absent=TRAINING)
    assert stage1 is not None  # heads=True
    vision = vision_of(source, dtype, placement)
    return Ranker(vision, bridge, stage1, words, words.tokenizer.sep_token_id)


def vision_of(
    source: ModelSource, dtype: torch.dtype, placement: Placement
) -> HuggingFaceVisionEncoder:
    """A whole model's vision encoder; the norm behind its last block belongs to the bridge."""
    return open_eva(source, dtype, placement=placement)


def whole_config(source: ModelSource) -> Any:
    """transformers' config of a whole model."""
    from transformers import AutoConfig

    source.settings()  # its absence is said in our words
    return AutoConfig.from_pretrained(**source.pinned)


def bridge_weights(stored: WeightFiles) -> tuple[dict[str, Tensor], list[str]]:
    """What of a whole model is the bridge's, by our names, and what has no home."""
    return from_huggingface(stored.read(name for name in stored if not name.startswith(FROZEN)))


def bert_tokenizer(source: Source, subfolder: str = "") -> HubTokenizer:
    """The tokenizer of a Q-Former's text side."""
    words = open_tokenizer(source, subfolder)
    if not isinstance(words, HubTokenizer) or words.tokenizer.cls_token_id is None:
        raise CheckpointError(
            f"the Q-Former's tokenizer in {source} is not BERT's (it has no [CLS]): copy the"
            " model's files again"
        )
    return words


def qformer_config(config: Any, **changes: Any) -> QFormerConfig:
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


def bridge_config(config: Any, tokenizer: HubTokenizer | None) -> BridgeConfig:
    """tokenizer: of the Q-Former, where it reads the question."""
    theirs = config.qformer_config
    if tokenizer is None:
        return BridgeConfig(
            qformer_config(config, vocab_size=0, text_feed_forward=False),
            language_width=config.text_config.hidden_size,
            image_norm_eps=config.vision_config.layer_norm_eps,
        )
    return BridgeConfig(
        qformer_config(
            config,
            vocab_size=theirs.vocab_size,
            cls_id=tokenizer.tokenizer.cls_token_id,
            dec_id=theirs.vocab_size - 1,
        ),
        language_width=config.text_config.hidden_size,
        instruct=True,
        max_instruction=min(INSTRUCTION, theirs.max_position_embeddings),
        end_id=tokenizer.tokenizer.sep_token_id,
        image_norm_eps=config.vision_config.layer_norm_eps,
    )


def retrieval_config(config: Any, words: HubTokenizer) -> BridgeConfig:
    """words: the Q-Former's tokenizer."""
    theirs = config.qformer_config
    return BridgeConfig(
        qformer_config(
            config,
            vocab_size=theirs.vocab_size,
            text_feed_forward=True,
            cls_id=words.tokenizer.cls_token_id,
            dec_id=theirs.vocab_size - 1,
            itc_size=config.image_text_hidden_size,
        ),
        image_norm_eps=config.vision_config.layer_norm_eps,
        end_id=words.tokenizer.sep_token_id,
    )
