"""What the families in transformers share: how a folder opens, how a prompt is decoded."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from adapters.folder import open_model
from adapters.prompts import Prompts
from adapters.segmenter import Embedding, PromptableSegmenter
from adapters.source import ModelSource, Source
from adapters.vision import IMAGENET, Normalisation
from qformer.config import from_dict
from qformer.contracts import CheckpointError
from qformer.proposals import Everything


class FolderSegmenter(PromptableSegmenter):
    """A family sets what a folder must be and gives `features` and `read`."""

    kinds: ClassVar[tuple[str, ...]]  # model_types
    architecture: ClassVar[str]  # the class that opens them
    normal: ClassVar[Normalisation] = IMAGENET  # where the folder does not say

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        # Not from model.config, which of a video model's folder is the outer one.
        super().__init__(model, model.prompt_encoder.input_image_size, normalisation)
        self.freeze()
        self.positions: Tensor
        with torch.no_grad():  # the same for every picture and click
            positions = model.get_image_wide_positional_embeddings()
        self.register_buffer("positions", positions, persistent=False)

    @classmethod
    def open(cls, source: Source, dtype: torch.dtype = torch.float32) -> Self:
        source = ModelSource.of(source)
        config = source.settings()
        if source.model_type not in cls.kinds:
            raise CheckpointError(
                f"{source} is a {source.model_type!r} model, not {cls.kinds[0]!r}: choose another"
            )
        model = open_model(source, dtype, cls.architecture)
        segmenter = cls(model, cls.normalisation(source))
        own = from_dict(Everything, config.get("everything", {}), f"config.json of {source}")
        segmenter.usual = own.over(cls.usual)
        segmenter.click_reach = config.get("click_reach")
        return segmenter

    @classmethod
    def normalisation(cls, source: Source) -> Normalisation:
        """What the folder says; the processors that wrote it may not be importable here."""
        settings = ModelSource.of(source).find_image_processor()
        return cls.normal if settings is None else Normalisation.of(settings, source)

    @property
    def low_size(self) -> int:
        return 4 * self.positions.shape[-1]

    def read(self, embedding: Embedding) -> dict[str, Any]:
        """What the mask decoder reads of a picture: its arguments."""
        raise NotImplementedError

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        sparse, dense = self.model.prompt_encoder(**prompts.for_transformers())
        read, positions = self.read(embedding), self.positions
        if prompts.apart:
            read, positions = (repeated(held, len(dense)) for held in (read, positions))
        found = self.model.mask_decoder(
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=prompts.several,
            **read,
        )
        return found[0].flatten(0, 1), found[1].flatten(0, 1)


def repeated(held: Any, times: int) -> Any:
    """What is held of one picture, (1, ...) each, as if of `times` pictures; no copy is made."""
    if isinstance(held, Tensor):
        return held.expand(times, *held.shape[1:])
    if isinstance(held, list):
        return [repeated(one, times) for one in held]
    if isinstance(held, dict):
        return {name: repeated(one, times) for name, one in held.items()}
    return held
