"""The published models, and what each takes. A test counts their parameters again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from adapters.memory import Count

OPT = "MIT; OPT's own: research only"
FLAN = "MIT; Flan-T5: Apache-2.0"
LLAMA = "research only (LLaMA's and Vicuna's terms)"
CHAT = "region chat, captions, visual questions"
PATCH, WIDTH = 14, 1408  # EVA-g's

OPT_2B = Count(bridge=107_133_696, frozen=3_637_628_160, linear=2_516_582_400, rows=737_280)
OPT_6B = Count(bridge=108_314_880, frozen=7_644_554_496, linear=6_442_450_944, rows=1_179_648)
XL = Count(bridge=106_739_968, frozen=3_835_706_624, linear=2_717_908_992, rows=1_179_648)
XXL = Count(bridge=108_314_880, frozen=12_121_281_792, linear=10_871_635_968, rows=2_359_296)
RETRIEVAL = Count(bridge=186_082_818, frozen=985_949_440)
# InstructBLIP's bridge reads text too
INSTRUCT_XL = Count(bridge=187_262_464, frozen=XL.frozen, linear=XL.linear, rows=XL.rows)
INSTRUCT_XXL = Count(bridge=188_837_376, frozen=XXL.frozen, linear=XXL.linear, rows=XXL.rows)
VICUNA_7B = Count(bridge=188_837_376, frozen=7_724_373_248, linear=6_476_005_376, rows=1_359_872)
VICUNA_13B = Count(bridge=189_624_832, frozen=14_001_824_000, linear=12_687_769_600, rows=2_129_920)


@dataclass(frozen=True)
class Listed:
    """A published model. count: of its parameters, at 224 pixels."""

    model: str
    count: Count
    licence: str
    suits: str
    image_size: int = 224

    @property
    def answers(self) -> bool:
        """Whether it has a language model; the others only compare pictures with texts."""
        return self.count.linear > 0

    @property
    def whole(self) -> Count:
        """Count its parameters, positions of larger pictures included."""
        more = (self.image_size // PATCH) ** 2 - (224 // PATCH) ** 2
        return replace(self.count, frozen=self.count.frozen + more * WIDTH)


CATALOGUE = (
    Listed("Salesforce/blip2-opt-2.7b", OPT_2B, OPT, f"the smallest: {CHAT}"),
    Listed("Salesforce/blip2-opt-2.7b-coco", OPT_2B, OPT, "captions like COCO's", 364),
    Listed("Salesforce/blip2-opt-6.7b", OPT_6B, OPT, CHAT),
    Listed("Salesforce/blip2-opt-6.7b-coco", OPT_6B, OPT, "captions like COCO's", 364),
    Listed("Salesforce/blip2-flan-t5-xl", XL, FLAN, f"the best of its size: {CHAT}"),
    Listed("Salesforce/blip2-flan-t5-xl-coco", XL, FLAN, "captions like COCO's", 364),
    Listed("Salesforce/blip2-flan-t5-xxl", XXL, FLAN, CHAT),
    Listed("Salesforce/blip2-itm-vit-g", RETRIEVAL, "MIT", "loupe rank, loupe find"),
    Listed("Salesforce/blip2-itm-vit-g-coco", RETRIEVAL, "MIT", "loupe rank, loupe find", 364),
    Listed("Salesforce/instructblip-flan-t5-xl", INSTRUCT_XL, FLAN, "instructions, longer answers"),
    Listed("Salesforce/instructblip-flan-t5-xxl", INSTRUCT_XXL, FLAN,
           "instructions, longer answers"),
    Listed("Salesforce/instructblip-vicuna-7b", VICUNA_7B, LLAMA,
           "instructions, descriptions in detail"),
    Listed("Salesforce/instructblip-vicuna-13b", VICUNA_13B, LLAMA,
           "instructions, descriptions in detail"),
)  # fmt: skip


def rows() -> list[dict[str, Any]]:
    """Each model with its parameters, and the bytes its weights take in each precision."""
    return [
        {
            "model": listed.model,
            "parameters": count.parameters,
            "licence": listed.licence,
            "bf16": count.bytes(torch.bfloat16),
            "int8": count.bytes(torch.bfloat16, "int8") if listed.answers else None,
            "nf4": count.bytes(torch.bfloat16, "nf4") if listed.answers else None,
            "suits": listed.suits,
        }
        for listed in CATALOGUE
        for count in [listed.whole]
    ]
