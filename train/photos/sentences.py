"""Captions of whole photos, and texts for photos and photos for texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qformer.assistant import Assistant
from qformer.contracts import LoupeError
from qformer.qformer import ImageMemory
from qformer.retrieval import Ranker
from qformer.together import Question, answers
from train.data.pictures import FilePicture
from train.eval import retrieval
from train.eval.case import Case
from train.eval.models import RankerModel
from train.eval.scoring import caption_scores
from train.photos.asking import Say
from train.photos.mentions import Captions

BATCH = 16
CANDIDATES = 16  # that contrast hands on to matching, each way; BLIP-2 takes 128


def cases(captioned: dict[str, Captions], folder: Path) -> list[Case]:
    return [
        Case(image, FilePicture(folder / image), "", captions.texts)
        for image, captions in captioned.items()
    ]


def caption_all(
    assistant: Assistant, asked: Sequence[Case], questions: Sequence[str], say: Say
) -> dict[str, list[str]]:
    """question -> what is answered for each photo; "" asks in the model's own words."""
    told: dict[str, list[str]] = {question: [] for question in questions}
    for start in range(0, len(asked), BATCH):
        images = [case.picture.load() for case in asked[start : start + BATCH]]
        views = [assistant.encode(image) for image in images]
        for question, texts in told.items():
            found = answers(assistant, [Question(i, question) for i in images], views=views)
            texts += ["" if isinstance(text, LoupeError) else text for text in found]
        say(f"{start + len(images)} of {len(asked)} photos captioned")
    return told


def caption_measures(asked: Sequence[Case], texts: Sequence[str]) -> dict[str, float]:
    """CIDEr, BLEU-1 to 4, ROUGE-L of captions."""
    found = caption_scores(asked, [{"answer": text} for text in texts])
    return {name: measure.value for name, measure in found.items()}


class Reading(RankerModel):
    """A model that compares, and reads a picture once for contrast and matching: what the encoder
    says of it is kept, in half precision."""

    def __init__(self, ranker: Ranker) -> None:
        super().__init__("ranker", ranker)
        self._read: dict[bytes, Tensor] = {}

    @torch.no_grad()
    def remember(self, images: Sequence[Tensor]) -> ImageMemory:
        vision, device = self.ranker.vision, self.ranker.device
        keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]
        new = {k: image for k, image in zip(keys, images, strict=True) if k not in self._read}
        if new:
            pixels = [vision.preprocess(image.to(device)) for image in new.values()]
            read = vision.encode(torch.stack(pixels)).to(torch.bfloat16)
            self._read |= dict(zip(new, read, strict=True))
        embeds = torch.stack([self._read[key] for key in keys])
        return self.ranker.bridge.remember(embeds.float())

    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return self.ranker.stage1.row_features(self.remember(images))

    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        return self.ranker.match_logits(self.remember([image]), texts)[:, 1]


class Scratch:
    """What `retrieval.match` writes into, kept in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.done: set[tuple[str, str]] = set()

    def write(self, records: Iterator[dict[str, Any]]) -> None:
        self.records += records


def recall(ranker: Ranker, asked: Sequence[Case], say: Say) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways: by contrast, and by matching of what contrast picks."""
    model, gallery = Reading(ranker), retrieval.gallery_of(asked)

    def told(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            say(f"{done} of {total} photos compared with {len(gallery.texts)} texts")

    found = retrieval.contrast(model, gallery, BATCH, CANDIDATES, told)
    places = {
        "contrast": (
            retrieval.ranks(found.texts, lambda i, t: gallery.owner[t] == i),
            retrieval.ranks(found.images, lambda t, i: gallery.owner[t] == i),
        )
    }
    book: Any = Scratch()
    retrieval.match(model, "matching", gallery, found, book, told)
    places["matching"] = retrieval.matched_ranks("matching", gallery, found, book)
    return {
        f"{way}: {name}": measure.value
        for way, (texts, images) in places.items()
        for name, (measure, _) in retrieval.recalls(texts, images, gallery).items()
    }
