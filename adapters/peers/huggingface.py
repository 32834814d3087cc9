"""What peers from Hugging Face folders share: the model, its picture and text processing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.folder import open_model, quiet
from adapters.frozen import Frozen
from adapters.published import PRESETS
from qformer.contracts import CheckpointError, Decoding
from qformer.together import Question


class HuggingFacePeer(Frozen):
    """A transformers model, its own image processor and its own tokenizer, as they are published.

    architecture: the class that holds it. ways: see `base.Peer`.
    """

    architecture = ""
    ways: tuple[str, ...] = ()
    sees_regions = False

    def __init__(self, name: str, model: Any, images: Any, tokenizer: Any) -> None:
        super().__init__()
        self.name, self.model = name, model
        self.images, self.tokenizer = images, tokenizer
        self.freeze()

    @classmethod
    def open(
        cls, source: str | Path, name: str = "peer", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Raises CheckpointError for a folder that is incomplete or of another class."""
        model = open_model(source, dtype, cls.architecture)
        named = (model.config.architectures or [cls.architecture])[0]
        if named != cls.architecture:
            raise CheckpointError(f"{source} holds a {named}, this peer is a {cls.architecture}")
        from transformers import AutoImageProcessor, AutoTokenizer

        try:
            with quiet():
                images = AutoImageProcessor.from_pretrained(source)
                tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # transformers raises a dozen kinds here
            raise CheckpointError(
                f"{source} lacks a whole tokenizer or its picture settings"
                f" ({type(error).__name__}): copy the folder again"
            ) from error
        return cls(name, model, images, tokenizer)

    def pixels(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """uint8 (height, width, 3) each -> pixel_values, and what comes with them."""
        read = self.images([image.cpu().numpy() for image in images], return_tensors="pt")
        return {
            key: value.to(self.device, self.dtype) if value.is_floating_point() else value
            for key, value in read.items()
        }

    def texts(self, texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
        """input_ids and attention_mask (texts, T); what is too long loses its end."""
        longest = min(getattr(self.tokenizer, "model_max_length", 512), 512)
        read = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt",
            return_token_type_ids=False, **options,
        )  # fmt: skip
        return {key: value.to(self.device) for key, value in read.items()}

    def decode(self, ids: Tensor) -> list[str]:
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def about(self, preset: str) -> dict[str, Any]:
        return {"class": self.architecture}


def generation(preset: str) -> dict[str, Any]:
    """A preset as `generate` takes it."""
    decoding: Decoding = PRESETS[preset]
    return {
        "max_new_tokens": decoding.max_new_tokens,
        "min_new_tokens": decoding.min_new_tokens,
        "num_beams": decoding.beams,
        "length_penalty": decoding.length_penalty,
        "repetition_penalty": decoding.repetition_penalty,
        "do_sample": False,
    }


def left_padded(rows: Sequence[Tensor], value: int) -> tuple[Tensor, Tensor]:
    """Ids (rows, T) that end together, and their attention_mask."""
    ids = pad_sequence([row.flip(0) for row in rows], True, value).flip(1)
    shown = pad_sequence([torch.ones_like(row) for row in rows], True, 0).flip(1)
    return ids, shown


def distinct(questions: Sequence[Question]) -> tuple[list[Tensor], list[int]]:
    """The pictures of some questions, each once, and which of them each question is about."""
    order: dict[int, int] = {}
    images: list[Tensor] = []
    for question in questions:
        if id(question.image) not in order:
            order[id(question.image)] = len(images)
            images.append(question.image)
    return images, [order[id(question.image)] for question in questions]
