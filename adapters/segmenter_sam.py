"""SAM, SAM-HQ and SlimSAM over Hugging Face folders (arXiv 2304.02643, 2306.01567, 2312.05284).

Mask token 0 is the single mask, tokens 1-3 the three readings of one ambiguous click.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from adapters.segmenter import Embedding
from adapters.segmenter_folder import FolderSegmenter
from adapters.vision import Normalisation
from qformer.contracts import Capabilities


class SamSegmenter(FolderSegmenter):
    """A SamModel; a SlimSAM folder is one with fewer channels."""

    family = "sam"
    kinds = ("sam",)
    architecture = "SamModel"
    capabilities = Capabilities(licence="Apache-2.0")

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, normalisation)
        # SAM was released with torch's default; transformers' configs say 1e-6.
        for module in model.mask_decoder.transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return (self.model.get_image_embeddings(pixel_values),)

    def read(self, embedding: Embedding) -> dict[str, Any]:
        return {"image_embeddings": embedding.features[0]}


class SamHqSegmenter(SamSegmenter):
    """SAM-HQ: one more token, that reads an early layer of the encoder for finer edges."""

    family = "sam_hq"
    kinds = ("sam_hq",)
    architecture = "SamHQModel"

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        embedding, early = self.model.get_image_embeddings(pixel_values)
        return embedding, early[0]  # the decoder reads the first alone

    def read(self, embedding: Embedding) -> dict[str, Any]:
        early = {"hq_token_only": False, "intermediate_embeddings": [embedding.features[1]]}
        return super().read(embedding) | early
