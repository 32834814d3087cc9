"""SAM, SAM-HQ and SlimSAM over Hugging Face folders (arXiv 2304.02643, 2306.01567, 2312.05284).

Mask token 0 is the single mask, tokens 1-3 the three readings of one ambiguous click.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from adapters.folder import open_model, read_settings
from adapters.segmenter import Embedding, PromptableSegmenter
from adapters.vision import Normalisation
from adapters.weights import Source
from qformer.contracts import Capabilities, CheckpointError


class SamSegmenter(PromptableSegmenter):
    """A SamModel; a SlimSAM folder is one with fewer channels."""

    family = "sam"
    architecture = "SamModel"
    capabilities = Capabilities(licence="Apache-2.0")

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__(model, model.config.vision_config.image_size, normalisation)
        # SAM was released with torch's default; transformers' configs say 1e-6.
        for module in model.mask_decoder.transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5
        self.freeze()
        self.positions: Tensor
        with torch.no_grad():  # the same for every picture and click
            positions = model.get_image_wide_positional_embeddings()
        self.register_buffer("positions", positions, persistent=False)

    @classmethod
    def open(
        cls, source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        model_type = read_settings(source, "config.json", revision).get("model_type")
        if model_type != cls.family:
            raise CheckpointError(
                f"{source} is a {model_type!r} model, not {cls.family!r}: choose another"
            )
        model = open_model(source, dtype, revision, cls.architecture)
        return cls(model, Normalisation.open(source, revision))

    @property
    def low_size(self) -> int:
        return 4 * self.model.config.prompt_encoder_config.image_embedding_size

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return (self.model.get_image_embeddings(pixel_values),)

    def decode(
        self,
        embedding: Embedding,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        logits: Tensor | None = None,
        several: bool = True,
    ) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(
            input_points=None if points is None else points[None],
            input_labels=None if labels is None else labels[None],
            input_boxes=None if boxes is None else boxes[None],
            input_masks=None if logits is None else logits[None],
        )
        found = self.model.mask_decoder(
            image_embeddings=embedding.features[0],
            image_positional_embeddings=self.positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=several,
            **self.also(embedding),
        )
        return found[0][0], found[1][0]

    def also(self, embedding: Embedding) -> dict[str, Any]:
        """What else a variant's decoder reads."""
        return {}


class SamHqSegmenter(SamSegmenter):
    """SAM-HQ: one more token, that reads an early layer of the encoder for finer edges."""

    family = "sam_hq"
    architecture = "SamHQModel"

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        embedding, early = self.model.get_image_embeddings(pixel_values)
        return embedding, early[0]  # the decoder reads the first alone

    def also(self, embedding: Embedding) -> dict[str, Any]:
        return {"hq_token_only": False, "intermediate_embeddings": [embedding.features[1]]}
