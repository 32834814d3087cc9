"""Texts for pictures and pictures for texts: contrast picks candidates, matching orders them.

BLIP-2 (arXiv 2301.12597), section 4.4, and LAVIS' retrieval evaluation: 128 candidates each way,
scored by match logit plus cosine. LAVIS holds the encoder's output of every picture, 19 GB for
COCO's 5,000; here a picture is encoded twice, once for contrast and once for all the texts it is
to be matched with, and only contrastive vectors are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qformer.contracts import ImageError, LoupeError
from qformer.retrieval import KEEP
from train.data.sample import Picture
from train.eval import scores
from train.eval.book import PREDICTIONS, Book, Kept
from train.eval.case import Case
from train.eval.page import table_page
from train.eval.run import Asked, header_of, read_cases
from train.eval.stats import Measure, compare

RANKS = (1, 5, 10)
TEXTS = 5  # captions of a picture that count, as the field does
CHUNK = 64  # pictures compared with all texts at once
RANKS_OF_ALL = "ranks"  # the id of the record that holds them
CONTRAST, MATCHING, ALL_MATCHED = "contrast", "contrast, then matching", "matching of every pair"
Say = Callable[[int, int], None]
Recalls = dict[str, tuple[Measure, list[str]]]  # with the picture that each item is about


@dataclass
class Candidates:
    """What contrast picked. Memory: (pictures + texts) * keep numbers, and the vectors."""

    texts: np.ndarray  # (pictures, k): for each picture the nearest texts, nearest first
    text_cosines: np.ndarray
    images: np.ndarray  # (texts, k): for each text the nearest pictures, nearest first
    image_cosines: np.ndarray

    def asked_of(self, image: int) -> np.ndarray:
        """The texts that a picture is to be matched with, for either direction."""
        return np.unique(np.concatenate([self.texts[image], self._texts_near(image)]))

    def _texts_near(self, image: int) -> np.ndarray:
        if not hasattr(self, "_order"):
            flat = self.images.ravel()
            self._order = np.argsort(flat, kind="stable")
            self._starts = np.searchsorted(flat[self._order], np.arange(len(self.texts) + 1))
        found = self._order[self._starts[image] : self._starts[image + 1]]
        return found // self.images.shape[1]


def pick(
    image_features: Iterator[Tensor], text_features: Tensor, pictures: int, keep: int = KEEP
) -> Candidates:
    """image_features: (n, vectors, width) a chunk, `pictures` in all. text_features: (texts, w).

    A picture is as near to a text as the nearest of its vectors (BLIP-2, section 3.1).
    """
    texts, device = len(text_features), text_features.device
    k_texts, k_images = min(keep, texts), min(keep, pictures)
    near_texts = torch.empty(pictures, k_texts, dtype=torch.long)
    text_cosines = torch.empty(pictures, k_texts)
    image_cosines = torch.full((texts, k_images), -torch.inf, device=device)
    near_images = torch.zeros(texts, k_images, dtype=torch.long, device=device)
    start = 0
    for features in image_features:
        vectors = features.unbind(1)  # one after the other: never (pictures, vectors, texts)
        cosines = vectors[0] @ text_features.T
        for vector in vectors[1:]:
            torch.maximum(cosines, vector @ text_features.T, out=cosines)
        stop = start + len(features)
        best = cosines.topk(k_texts, dim=1)
        near_texts[start:stop], text_cosines[start:stop] = best.indices.cpu(), best.values.cpu()
        numbers = torch.arange(start, stop, device=device).expand(texts, -1)
        both = torch.cat([image_cosines, cosines.T], dim=1)
        best = both.topk(k_images, dim=1)
        image_cosines = best.values
        near_images = torch.cat([near_images, numbers], dim=1).gather(1, best.indices)
        start = stop
    return Candidates(
        near_texts.numpy(), text_cosines.numpy(), near_images.cpu().numpy(),
        image_cosines.cpu().numpy(),
    )  # fmt: skip


def every_pair(pictures: int, texts: int) -> Candidates:
    """All are candidates of all, for a model that has no vectors to pick by."""
    pairs = (pictures, texts)
    return Candidates(
        np.broadcast_to(np.arange(texts), pairs), np.broadcast_to(np.float32(0), pairs),
        np.broadcast_to(np.arange(pictures), pairs[::-1]),
        np.broadcast_to(np.float32(0), pairs[::-1]),
    )  # fmt: skip


@dataclass(frozen=True)
class Gallery:
    """The pictures and texts of a retrieval task. owner: of each text, its picture's number."""

    ids: list[str]
    pictures: list[Picture]
    texts: list[str]
    owner: np.ndarray


def gallery_of(cases: Sequence[Case]) -> Gallery:
    texts: list[str] = []
    owner: list[int] = []
    for number, case in enumerate(cases):
        said = case.answers[:TEXTS]
        texts += said
        owner += [number] * len(said)
    pictures = [case.picture for case in cases]
    return Gallery([case.id for case in cases], pictures, texts, np.array(owner))


def features(model: Any, gallery: Gallery, batch: int, say: Say) -> Iterator[Tensor]:
    """The pictures' contrastive features, a batch at a time."""
    for start in range(0, len(gallery.pictures), batch):
        images = [load(picture) for picture in gallery.pictures[start : start + batch]]
        yield model.image_features(images)
        say(min(start + batch, len(gallery.pictures)), len(gallery.pictures))


def contrast(model: Any, gallery: Gallery, batch: int, keep: int, say: Say) -> Candidates:
    """The candidates that a model's vectors pick."""
    texts = gallery.texts
    parts = [model.text_features(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
    seen = features(model, gallery, batch, say)
    return pick(seen, torch.cat(parts), len(gallery.pictures), keep)


def load(picture: Picture) -> Tensor:
    """Raises LoupeError where it is missing: a rank among fewer is another rank."""
    try:
        return picture.load()
    except ImageError as error:
        raise LoupeError(f"retrieval needs every picture: {error}") from None


def ranks(order: np.ndarray, right: Callable[[int, int], bool]) -> np.ndarray:
    """Find the first right one in each row of candidates, best first: its place; -1 for none."""
    return np.array(
        [
            next((place for place, other in enumerate(row) if right(index, int(other))), -1)
            for index, row in enumerate(order)
        ]
    )


def recalls(text_ranks: np.ndarray, image_ranks: np.ndarray, gallery: Gallery) -> Recalls:
    """Recall both ways, with the pictures that each row is about."""
    names = gallery.ids
    owners = [names[number] for number in gallery.owner]
    found: Recalls = {}
    for kind, places, groups, of in (
        ("text", text_ranks, names, len(gallery.texts) / max(1, TEXTS)),
        ("image", image_ranks, owners, len(names)),
    ):
        for rank in RANKS:
            hits = (places >= 0) & (places < rank)
            chance = min(1.0, rank / max(1, of))
            found[f"{kind} R@{rank}"] = Measure.mean(hits, chance), groups
    return found


def evaluate(
    asked: Asked, models: dict[str, Any], about: dict[str, Any], out: Path, say: Say,
    batch: int = 32, keep: int = KEEP,
) -> dict[str, Any]:  # fmt: skip
    """Every model in turn; scores.json and page.html. Resumes within the matching."""
    if asked.shard != (1, 1):
        raise LoupeError("retrieval compares all with all: it has no --shard (it resumes)")
    begun = time.perf_counter()
    for name, model in models.items():
        if "retrieve" not in model.ways:
            raise LoupeError(
                f"{name} can {', '.join(model.ways)} and compares no vectors: give a"
                " Blip2ForImageTextRetrieval, or --no-model and a peer (clip, align, blip-itm,"
                " vilt-itm)"
            )
    cases = read_cases(asked)
    gallery = gallery_of(cases.all)
    book = Book(out / PREDICTIONS, header_of(asked, cases, about), [*enumerate(cases.all)])
    systems: dict[str, Any] = {}
    for name, model in models.items():
        start = time.perf_counter()
        contrasts = hasattr(model, "image_features")
        if contrasts:
            found = contrast(model, gallery, batch, keep, say)
            places = (
                ranks(found.texts, lambda i, t: gallery.owner[t] == i),
                ranks(found.images, lambda t, i: gallery.owner[t] == i),
            )
            seconds = time.perf_counter() - start
            system = f"{name}: {CONTRAST}"
            keep_ranks(book, system, *places)
            systems[system] = summaries(recalls(*places, gallery), seconds)
        else:
            found = every_pair(len(gallery.pictures), len(gallery.texts))
        if hasattr(model, "rerank"):
            system = f"{name}: {MATCHING if contrasts else ALL_MATCHED}"
            match(model, system, gallery, found, book, say)
            places = matched_ranks(system, gallery, found, book)
            seconds = time.perf_counter() - start
            keep_ranks(book, system, *places)
            systems[system] = summaries(recalls(*places, gallery), seconds)
    result = {
        "task": asked.task, "says": asked.definition.says, "rule": asked.definition.rule,
        "data": {
            **asdict(asked.data), "sha256": cases.sha256, "cases": len(gallery.ids),
            "texts": len(gallery.texts), "limit": asked.limit, "candidates": keep,
            "left_out": cases.left_out,
        },
        "models": about, "systems": systems, "machine": scores.machine(),
        "seconds": round(time.perf_counter() - begun, 2),
    }  # fmt: skip
    scores.save_json(result, out / "scores.json")
    (out / "page.html").write_text(table_page(result), encoding="utf-8")
    return result


def keep_ranks(book: Book, system: str, text_ranks: np.ndarray, image_ranks: np.ndarray) -> None:
    """Note every place, for comparisons."""
    if (RANKS_OF_ALL, system) not in book.done:
        book.write([{"id": RANKS_OF_ALL, "system": system, "text": text_ranks.tolist(),
                     "image": image_ranks.tolist()}])  # fmt: skip


def kept_recalls(kept: Kept) -> dict[str, Recalls]:
    """The recalls of each system of a run, from its book alone."""
    gallery = gallery_of([case for _, case in sorted(kept.cases)])
    return {
        record["system"]: recalls(np.array(record["text"]), np.array(record["image"]), gallery)
        for record in kept.records
        if record["id"] == RANKS_OF_ALL
    }


def comparison(first: Recalls, second: Recalls) -> dict[str, Any]:
    """The paired test of two systems over the same pictures and texts."""
    return {
        name: asdict(compare(measure, second[name][0], groups))
        for name, (measure, groups) in first.items()
    }


def summaries(found: Recalls, seconds: float) -> dict[str, Any]:
    told = {name: scores.summary(measure, groups) for name, (measure, groups) in found.items()}
    return {"scores": told, "strata": {}, "errors": 0, "seconds": round(seconds, 2)}


def match(
    model: Any, system: str, gallery: Gallery, found: Candidates, book: Book, say: Say
) -> None:
    """Match every picture with its candidates: each is read once, and then forgotten."""
    for number, (id, picture) in enumerate(zip(gallery.ids, gallery.pictures, strict=True)):
        if (id, system) in book.done:
            continue
        texts = found.asked_of(number)
        logits = model.rerank(load(picture), [gallery.texts[text] for text in texts])
        values = [round(value, 5) for value in logits.tolist()]
        book.write([{"id": id, "system": system, "texts": texts.tolist(), "scores": values}])
        say(number + 1, len(gallery.ids))


def matched_ranks(
    system: str, gallery: Gallery, found: Candidates, book: Book
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the right ones by match logit plus cosine, (pictures,) and (texts,)."""
    numbers = {id: number for number, id in enumerate(gallery.ids)}
    by_image = np.full(found.images.shape, -np.inf)  # (texts, k), as found.images
    text_ranks = np.full(len(gallery.ids), -1)
    for record in book.records:
        if record["system"] != system or record["id"] == RANKS_OF_ALL:
            continue
        image = numbers[record["id"]]
        texts, logits = np.array(record["texts"]), np.array(record["scores"])  # texts ascending
        candidates = found.texts[image]
        own = logits[np.searchsorted(texts, candidates)] + found.text_cosines[image]
        order = candidates[np.argsort(-own, kind="stable")]
        places = np.flatnonzero(gallery.owner[order] == image)
        text_ranks[image] = places[0] if len(places) else -1
        rows, columns = np.nonzero(found.images[texts] == image)
        by_image[texts[rows], columns] = logits[rows]
    total = by_image + found.image_cosines
    order = np.take_along_axis(found.images, np.argsort(-total, axis=1, kind="stable"), axis=1)
    return text_ranks, ranks(order, lambda text, image: gallery.owner[text] == image)
