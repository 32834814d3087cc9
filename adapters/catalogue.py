"""The published models, and what each takes: sizes are counted on models without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from adapters.memory import bytes_of

OPT = "MIT; OPT's own: research only"
FLAN = "MIT; Flan-T5: Apache-2.0"
LLAMA = "research only (LLaMA's and Vicuna's terms)"
POSITIONS, PATCH, WIDTH = "vision_model.embeddings.position_embedding", 14, 1408  # EVA-g's
CHAT = "region chat, captions, visual questions"

# What transformers' defaults (EVA-g, BERT-base) leave open: the language models.
_T5 = {"model_type": "t5", "vocab_size": 32128, "feed_forward_proj": "gated-gelu", "d_kv": 64,
       "tie_word_embeddings": False, "num_layers": 24, "num_decoder_layers": 24}  # fmt: skip
LANGUAGE: dict[str, dict[str, Any]] = {
    "opt-2.7b": {"model_type": "opt", "vocab_size": 50304, "hidden_size": 2560, "ffn_dim": 10240,
                 "word_embed_proj_dim": 2560, "num_hidden_layers": 32, "num_attention_heads": 32},
    "opt-6.7b": {"model_type": "opt", "vocab_size": 50304, "hidden_size": 4096, "ffn_dim": 16384,
                 "word_embed_proj_dim": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    "flan-t5-xl": {**_T5, "d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flan-t5-xxl": {**_T5, "d_model": 4096, "d_ff": 10240, "num_heads": 64},
    "vicuna-7b": {"model_type": "llama", "vocab_size": 32001, "hidden_size": 4096,
                  "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "vicuna-13b": {"model_type": "llama", "vocab_size": 32001, "hidden_size": 5120,
                   "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40},
}  # fmt: skip


@dataclass(frozen=True)
class Listed:
    """A published model. language: its language model, in LANGUAGE; None: it only compares."""

    model: str
    language: str | None
    licence: str
    suits: str
    instruct: bool = False
    image_size: int = 224


CATALOGUE = (
    Listed("Salesforce/blip2-opt-2.7b", "opt-2.7b", OPT, f"the smallest: {CHAT}"),
    Listed("Salesforce/blip2-opt-2.7b-coco", "opt-2.7b", OPT, "captions like COCO's",
           image_size=364),
    Listed("Salesforce/blip2-opt-6.7b", "opt-6.7b", OPT, CHAT),
    Listed("Salesforce/blip2-opt-6.7b-coco", "opt-6.7b", OPT, "captions like COCO's",
           image_size=364),
    Listed("Salesforce/blip2-flan-t5-xl", "flan-t5-xl", FLAN, f"the best of its size: {CHAT}"),
    Listed("Salesforce/blip2-flan-t5-xl-coco", "flan-t5-xl", FLAN, "captions like COCO's",
           image_size=364),
    Listed("Salesforce/blip2-flan-t5-xxl", "flan-t5-xxl", FLAN, CHAT),
    Listed("Salesforce/blip2-itm-vit-g", None, "MIT", "loupe rank, loupe find"),
    Listed("Salesforce/blip2-itm-vit-g-coco", None, "MIT", "loupe rank, loupe find",
           image_size=364),
    Listed("Salesforce/instructblip-flan-t5-xl", "flan-t5-xl", FLAN,
           "instructions, longer answers", instruct=True),
    Listed("Salesforce/instructblip-flan-t5-xxl", "flan-t5-xxl", FLAN,
           "instructions, longer answers", instruct=True),
    Listed("Salesforce/instructblip-vicuna-7b", "vicuna-7b", LLAMA,
           "instructions, descriptions in detail", instruct=True),
    Listed("Salesforce/instructblip-vicuna-13b", "vicuna-13b", LLAMA,
           "instructions, descriptions in detail", instruct=True),
)  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Each model with its parameters, and the bytes its weights take in each precision."""
    found = []
    for listed in CATALOGUE:
        shapes = shapes_of(listed.language, listed.instruct)
        shapes = {**shapes, POSITIONS: (1, (listed.image_size // PATCH) ** 2 + 1, WIDTH)}
        quantised = listed.language is not None
        found.append({
            "model": listed.model,
            "parameters": sum(torch.Size(shape).numel() for shape in shapes.values()),
            "licence": listed.licence,
            "bf16": bytes_of(shapes, torch.bfloat16),
            "int8": bytes_of(shapes, torch.bfloat16, "int8") if quantised else None,
            "nf4": bytes_of(shapes, torch.bfloat16, "nf4") if quantised else None,
            "suits": listed.suits,
        })  # fmt: skip
    return found


@cache
def shapes_of(language: str | None, instruct: bool) -> dict[str, tuple[int, ...]]:
    """The weights of a model of this shape, by name, each once; none is made."""
    import transformers

    family = "InstructBlip" if instruct else "Blip2"
    if language is None:
        config = transformers.Blip2Config(
            qformer_config={"vocab_size": 30523, "use_qformer_text_input": True},
            image_token_index=None,
        )
        model_class = transformers.Blip2ForImageTextRetrieval
    else:
        config = getattr(transformers, f"{family}Config")(
            qformer_config={"vocab_size": 30523} if instruct else None,
            text_config=LANGUAGE[language],
        )
        model_class = getattr(transformers, f"{family}ForConditionalGeneration")
    with torch.device("meta"):
        model = model_class(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if language and LANGUAGE[language]["model_type"] == "t5":  # its head is its own, in the files
        width = LANGUAGE[language]["d_model"]
        shapes["language_model.lm_head.weight"] = (LANGUAGE[language]["vocab_size"], width)
    return shapes
