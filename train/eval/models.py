"""Whatever is asked: Loupe's own models and peers, behind one small interface.

A model has a name, `ways` (what it can do: "write", "choose", "match", "retrieve", "find"), says
whether it `sees_regions`, and has a method for each of its ways; see `adapters.peers.base.Peer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adapters.build import build, find, locate
from adapters.config import PartConfig
from adapters.defaults import default_named, folder_of
from adapters.folder import revision_of
from adapters.lavis import SUFFIXES
from adapters.memory import Quantize
from adapters.peers.base import Batch
from adapters.published import PRESETS, PUBLISHED, RETRIEVAL, open_retrieval
from qformer import finding, together
from qformer.assistant import Assistant
from qformer.contracts import Decoding, LoupeError
from qformer.proposals import Everything, Proposal
from qformer.retrieval import Ranker
from qformer.together import Likelihood, Question
from qformer.view import View


@dataclass
class Read:
    """A picture that was read, and what is found in it."""

    view: View

    @cached_property
    def everything(self) -> list[Proposal]:
        return self.view.everything(Everything(**finding.GENEROUS))


class AssistantModel:
    """A Loupe assistant: it writes answers, ranks choices by likelihood, and sees regions."""

    sees_regions = True

    def __init__(self, name: str, assistant: Assistant, presets: bool, preset: str | None) -> None:
        """presets: whether to write as BLIP-2 does for each kind of task, rather than in the
        checkpoint's own way; preset: always this one."""
        self.name, self.assistant = name, assistant
        finds = () if assistant.segmenter is None else ("find",)  # nothing else proposes regions
        self.ways: tuple[str, ...] = ("write", "choose", *finds)
        self.presets, self.preset = presets, preset
        self._read: dict[int, Read] = {}

    def chosen(self, preset: str) -> str | None:
        """The preset that is written by in the place of one; None for the checkpoint's own way."""
        return self.preset or (preset if self.presets else None)

    def decoding(self, preset: str) -> Decoding:
        chosen = self.chosen(preset)
        return PRESETS[chosen] if chosen else self.assistant.config.decoding

    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        views = self._views(questions)
        return together.answers(self.assistant, questions, self.decoding(preset), views)

    def choose(self, questions: Sequence[Question]) -> list[list[Likelihood] | LoupeError]:
        return together.likelihoods(self.assistant, questions, views=self._views(questions))

    def _views(self, questions: Sequence[Question]) -> list[View]:
        """Give the Views of the questions' pictures. Those of the last call are kept, and no
        others: a picture that the next arm shows again is not encoded again."""
        read: dict[int, Read] = {}
        for image in (question.image for question in questions):
            # A View holds its image: no other gets its id.
            known = read.get(id(image)) or self._read.get(id(image))
            read[id(image)] = known or Read(View(self.assistant, image))
        self._read = read
        return [one.view for one in read.values()]

    def find(self, questions: Sequence[Question]) -> list[list[Tensor] | LoupeError]:
        """The region_masks that fit each question's text, best first; without a text those that the
        segmenter is surest of. Everything in a picture is proposed once, unless the segmenter reads
        the text itself."""
        result: list[list[Tensor] | LoupeError] = []
        segmenter = self.assistant.segmenter
        reads = segmenter is not None and segmenter.capabilities.text
        self._views(questions)
        for question in questions:
            read = self._read[id(question.image)]
            try:
                if reads and question.text:
                    proposals = read.view.find(question.text, threshold=0.0)
                else:
                    proposals = read.everything
                    if question.text:
                        found = finding.among(read.view, proposals, question.text)
                        proposals = [one.proposal for one in found]
                result.append([one.region_mask for one in proposals])
            except LoupeError as error:
                result.append(error)
        return result

    def about(self, preset: str) -> dict[str, Any]:
        name = self.chosen(preset) or "the checkpoint's own"
        return {"preset": name, "decoding": asdict(self.decoding(preset))}


class RankerModel:
    """A Blip2ForImageTextRetrieval: it matches pictures with texts, and sees no regions."""

    sees_regions = False
    ways: tuple[str, ...] = ("match", "retrieve")

    def __init__(self, name: str, ranker: Ranker) -> None:
        self.name, self.ranker = name, ranker

    @torch.no_grad()
    def match(self, questions: Sequence[Question]) -> list[list[float] | LoupeError]:
        """ITM's "they match" less "they do not", of each text in `choices`."""
        result: list[list[float] | LoupeError] = []
        for question in questions:
            try:
                memory = self.ranker.remember([question.image])
                no, yes = self.ranker.match_logits(memory, question.choices).unbind(1)
                result.append((yes - no).tolist())
            except LoupeError as error:
                result.append(error)
        return result

    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        return self.ranker.image_features(images)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        return self.ranker.text_features(texts)

    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """BLIP-2's match logit of one picture with each text, (texts,)."""
        return self.ranker.match_logits(self.ranker.remember([image]), texts)[:, 1]

    def about(self, preset: str) -> dict[str, Any]:
        return {}


def open_model(
    model: str,
    name: str = "loupe",
    segmenter: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    preset: str | None = None,
    vision: str | None = None,
    language: str | None = None,
    quantize: Quantize | None = None,
) -> Any:
    """Any model that Loupe opens. Raises CheckpointError."""
    if model.endswith(SUFFIXES):
        assistant = build(
            model, segmenter, device, dtype, vision=vision, language=language, quantize=quantize
        )
        return AssistantModel(name, assistant, True, preset)
    source = find(model)
    settings = source.settings()
    if settings.get("architectures") == [RETRIEVAL]:
        return RankerModel(name, open_retrieval(source, dtype).to(device))
    published = settings.get("model_type") in PUBLISHED
    assistant = build(
        model, segmenter, device, dtype, vision=vision, language=language, quantize=quantize
    )
    return AssistantModel(name, assistant, published, preset)


def provenance(model: str) -> dict[str, Any]:
    """What identifies a model: its name, revision where it has one, and a hash of all its files."""
    if model.startswith(("http://", "https://")):
        return {"model": model}  # a server does not say what it runs
    folder = folder_of(model)
    if folder.is_dir():
        name = default_named(model) or model
        return {"model": name, "sha256": hash_of(model_files(folder))}
    if Path(model).is_file():
        return {"model": model, "sha256": hash_of([Path(model)])}
    return {"model": model, "revision": revision_of(model)}


def model_files(folder: Path) -> list[Path]:
    """All files of a checkpoint, and of the parts its config.json names beside it."""
    folders = [folder]
    settings = find(folder).settings()
    for part in ("vision", "language", "segmenter"):
        named = settings.get(part)
        if isinstance(named, dict) and isinstance(named.get("path"), str):
            place = locate(folder, PartConfig("", named["path"]))
            if place.is_folder:
                folders.append(place.folder)
    files = (file for place in folders for file in place.rglob("*") if file.is_file())
    return sorted(file for file in files if "trainer" not in file.parts)


def hash_of(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
