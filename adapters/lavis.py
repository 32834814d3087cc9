"""A LAVIS .pth of BLIP-2 or InstructBLIP, opened beside the frozen parts it was trained with.

LAVIS (arXiv 2209.09019) saves what it trained and leaves the frozen parts to the reader: the vision
encoder (EVA-g, or CLIP ViT-L) and the language model (OPT or Flan-T5) come from folders or the hub.
A vision encoder that was trained too, as for captions and retrieval on COCO, is in the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.checkpoint import trained_of
from adapters.folder import HERE, listed
from adapters.language import encodes, text_settings
from adapters.lavis_vision import PREFIX, loose_vision, open_loose
from adapters.memory import Placement
from adapters.published import INSTRUCTION, Published, bert_tokenizer, prompt_of
from adapters.registry import LANGUAGE_MODELS, VISION_ENCODERS
from adapters.release import read_weights
from adapters.source import ModelSource, Source
from adapters.tokenizer import HubTokenizer, open_tokenizer
from adapters.vision import HuggingFaceVisionEncoder
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
LANGUAGE = ("opt_model.", "t5_model.", "llm_model.")  # what a file may hold, and is not read
# The names of the projection say what it speaks to: OPT, a T5, or another decoder (Vicuna).
PROJECTIONS = {"opt_proj": "an OPT", "t5_proj": "a T5", "llm_proj": "a Llama or its like"}


@dataclass(frozen=True)
class Held:
    """What a .pth holds. ours: the bridge and stage 1's heads, by our names. visual: the vision
    encoder, where it was trained too, by LAVIS' names without the prefix. homeless: what else a
    whole model has, its language model's weights for example. projection: a name of PROJECTIONS."""

    file: Path
    ours: dict[str, Tensor]
    visual: dict[str, Tensor]
    homeless: tuple[str, ...]
    projection: str | None = None

    def require(
        self, vision: Source | None, language: Source | None, tokenizer: Source | None
    ) -> None:
        """Raises CheckpointError, naming the options, if a part is in neither file nor option, or
        is another than the file was trained with."""
        speaks = "language_projection.weight" in self.ours
        reads = "qformer.word_embeddings.weight" in self.ours
        lacking = [
            (what, option)
            for needed, given, what, option in (
                (not self.visual, vision, "its vision encoder", "--vision"),
                (speaks, language, "its language model", "--language"),
                (reads, tokenizer, "the tokenizer of its Q-Former (BERT's)", "--tokenizer"),
            )
            if needed and given is None
        ]
        if lacking:
            raise CheckpointError(
                f"{self.file} does not hold {' nor '.join(what for what, _ in lacking)}: name what "
                f"it was trained with ({', '.join(option for _, option in lacking)})"
            )
        if speaks and language is not None and self.projection is not None:
            settings = text_settings(language)
            if projection_of(settings) != self.projection:
                raise CheckpointError(
                    f"{self.file} has {self.projection}, which speaks to"
                    f" {PROJECTIONS[self.projection]}, and {language} is a"
                    f" {settings.get('model_type')!r}: name the language model it was trained with"
                )

    def see(
        self, vision: Source | None, dtype: torch.dtype, placement: Placement
    ) -> HuggingFaceVisionEncoder:
        """The vision encoder at work: the file's own, if it holds one."""
        if self.visual:
            return open_loose(loose_vision(self.file, self.visual, vision), self.file, dtype)
        assert vision is not None  # `require` was asked first
        kind = vision_kind(vision)
        encoder: HuggingFaceVisionEncoder = VISION_ENCODERS[kind](
            vision, dtype, placement=placement
        )
        return encoder


def open_lavis(
    file: Path,
    vision: Source | None,
    language: Source | None,
    dtype: torch.dtype = torch.float32,
    tokenizer: Source | None = None,
    placement: Placement = HERE,
    num_heads: int | None = None,
) -> Published:
    """The parts of a stage-2 checkpoint (pretrain_opt, pretrain_flant5, InstructBLIP's and their
    like).

    vision, language: the frozen parts. A file that was tuned together with its vision encoder
    holds that one, and vision then only tells its settings. tokenizer: of a Q-Former that reads
    the question. num_heads: the file does not tell; by default BERT's width of 64 a head. Raises
    CheckpointError, for a file that is more than weights too.
    """
    held = hold(file)
    if "language_projection.weight" not in held.ours:
        raise CheckpointError(
            f"{file} has no projection into a language model (a stage-1 checkpoint?): give one of "
            "stage 2; loupe rank and loupe find read those of stage 1"
        )
    held.require(vision, language, tokenizer)
    assert language is not None  # just asked
    instruct = "qformer.word_embeddings.weight" in held.ours
    words = bert_tokenizer(tokenizer) if instruct and tokenizer is not None else None
    shape = shape_of(held.ours, words, num_heads)
    bridge, _ = trained_of(shape, held.ours, f"{file} is incomplete")
    decodes = not encodes(text_settings(language))
    kind = "decoder" if decodes else "encoder-decoder"
    return Published(
        held.see(vision, dtype, placement),
        bridge,
        LANGUAGE_MODELS[kind](language, dtype, placement=placement, stop=stop_of(language)),
        words,
        prompt_of(instruct, decodes),
    )


def open_ranker(
    file: Path,
    vision: Source | None,
    tokenizer: Source | None,
    dtype: torch.dtype = torch.float32,
    placement: Placement = HERE,
    num_heads: int | None = None,
) -> Ranker:
    """A stage-1 checkpoint (pretrain, or tuned for retrieval) at work. Raises CheckpointError."""
    held = hold(file)
    if "itm_head.weight" not in held.ours:
        raise CheckpointError(f"{file} has no ITC and ITM heads: give a checkpoint of stage 1")
    held.require(vision, None, tokenizer)
    assert tokenizer is not None  # just asked
    words = bert_tokenizer(tokenizer)
    shape = shape_of(held.ours, words, num_heads)
    bridge, stage1 = trained_of(
        shape, held.ours, f"{file} is incomplete", heads=True, absent=("generation_head.",)
    )
    assert stage1 is not None  # heads=True
    return Ranker(held.see(vision, dtype, placement), bridge, stage1, words, shape.end_id)


def projection_of(settings: Mapping[str, Any]) -> str:
    """What LAVIS calls the projection into a language model. settings: its config."""
    if encodes(settings):
        return "t5_proj"
    return "opt_proj" if settings.get("model_type") == "opt" else "llm_proj"


def stop_of(language: Source) -> str | None:
    """What ends an answer of this language model: BLIP-2's OPT stops at the end of a line."""
    is_opt = text_settings(language).get("model_type") == "opt"
    return "\n" if is_opt and len(open_tokenizer(language)("\n")) == 1 else None


def vision_kind(source: Source) -> str:
    """The registry's name for a vision encoder as LAVIS' models read it."""
    return VISION_KINDS.get(ModelSource.of(source).model_type or "", "hf")


def hold(file: Path) -> Held:
    """What a .pth holds. Raises CheckpointError for weights of another kind."""
    theirs = read_weights(file)
    ours, rest = from_lavis(theirs)
    visual = {name.removeprefix(PREFIX): theirs[name] for name in rest if name.startswith(PREFIX)}
    homeless = tuple(name for name in rest if not name.startswith(PREFIX))
    odd = [name for name in homeless if not name.startswith(LANGUAGE)]
    if odd:
        raise CheckpointError(f"{file} holds {len(odd)} weights Loupe does not know: {listed(odd)}")
    named = next((name for name in PROJECTIONS if f"{name}.weight" in theirs), None)
    return Held(file, ours, visual, homeless, named)


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
