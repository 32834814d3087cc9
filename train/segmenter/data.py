"""What a segmenter learns from: pictures with their masks in COCO form, seen in ever new ways."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from adapters.coco import read_dataset
from adapters.images import load_image
from qformer.contracts import ImageError, LoupeError, RegionError
from train.data.coco import area_of, by_picture, picture_of, pictures_in
from train.data.pictures import Gallery
from train.data.sample import Area, BadSampleError, Tally, lines_of

SMALLEST = 4  # places of the low resolution that a mask must cover to be learned from
LARGEST = 1e9  # pixels of a thing
CROPPED, PASTED, LIT, GREY = 0.6, 0.35, 0.8, 0.05  # how often a view is so changed


@dataclass(frozen=True)
class Pictured:
    """A picture's file and the areas of its things; covers: the pixels of each, as its data set
    states them. weight: how often it is drawn beside the others."""

    file: Path
    areas: tuple[Area, ...]
    covers: tuple[float, ...]
    weight: float = 1.0

    def load(self, most: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        """Pixels (H, W, 3) and up to `most` masks, bool (H, W): a large thing is drawn more often
        than a small one, as people click. Raises ImageError, RegionError."""
        pixels = load_image(self.file).numpy()
        odds = np.array(self.covers) ** 0.5
        count = min(most, len(self.areas))
        chosen = rng.choice(len(self.areas), count, replace=False, p=odds / odds.sum())
        size = pixels.shape[0], pixels.shape[1]
        return pixels, [self.areas[i].region_mask(size).numpy() for i in chosen]


def read_pictures(file: Path, images: Path, tally: Tally | None = None) -> list[Pictured]:
    """The pictures of a data set that have masks, crowds left out; what cannot be read is counted
    in `tally`. Raises LoupeError where there is none."""
    tally = Tally() if tally is None else tally
    whole, gallery = read_dataset(file), Gallery(images)
    pictures = pictures_in(whole, tally)
    things = by_picture(whole, pictures, tally, thing_of)
    found: list[Pictured] = []
    missing: list[Path] = []
    for id, image in pictures.items():
        with tally.row(f"image {id}"):
            if here := [one for one in things.get(id, ()) if one is not None]:
                path = Path(picture_of(image, gallery).key)
                areas, covers = zip(*here, strict=True)
                found.append(Pictured(path, areas, covers, weight_of(image)))
                missing += [] if path.is_file() else [path]
    if not found:
        reasons = "; ".join(lines_of(tally)) or "segment some pictures first"
        raise LoupeError(f"{file} holds no masks: {reasons}")
    if missing:
        raise LoupeError(
            f"{len(missing)} of {len(found)} pictures are not below {images}, {missing[0].name} the"
            " first: say where with --images"
        )
    return found


def thing_of(annotation: Mapping[str, Any], image: Mapping[str, Any]) -> tuple[Area, float] | None:
    """The area of one thing and the pixels it covers; None for a crowd, or what has no mask."""
    if annotation.get("iscrowd") or not annotation.get("segmentation"):
        return None
    covers = float(annotation.get("area", 1.0))
    return area_of(annotation, image), max(1.0, min(covers, LARGEST))


def weight_of(image: Mapping[str, Any]) -> float:
    weight = float(image.get("weight", 1.0))
    if not 0 < weight < math.inf:
        raise BadSampleError("a picture's weight is not above 0")
    return weight


def split(data: list[Pictured], share: float) -> tuple[list[Pictured], list[Pictured]]:
    """Pictures to learn from and pictures to measure on."""
    order = np.random.default_rng(0).permutation(len(data))
    held = set(order[: int(share * len(data))].tolist())
    return (
        [one for i, one in enumerate(data) if i not in held],
        [one for i, one in enumerate(data) if i in held],
    )


class Views:
    """Draws pictures by their weights. varied: each time in another way: flipped, cropped, in other
    light, with a thing of another picture on it (arXiv 2012.07177); else always as it is."""

    def __init__(self, data: Sequence[Pictured], masks: int, varied: bool) -> None:
        self.data, self.masks, self.varied = data, masks, varied
        weights = np.array([one.weight for one in data])
        self.odds = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> tuple[Path, np.ndarray, list[np.ndarray]]:
        """A picture's file, its pixels and masks as seen this time. Raises LoupeError where none
        of many can be read."""
        for _ in range(50):
            one = self.data[int(rng.choice(len(self.data), p=self.odds))]
            try:
                pixels, masks = one.load(self.masks * (2 if self.varied else 1), rng)
                if self.varied:
                    pixels, masks = self.vary(pixels, masks, rng)
            except (ImageError, RegionError):
                continue  # one bad file must not end the run
            return one.file, pixels, masks[: self.masks]
        raise LoupeError("no picture of the data set opens, or none has masks that do: check it")

    def vary(
        self, pixels: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        if rng.random() < CROPPED:
            pixels, masks = crop(pixels, masks, rng)
        if rng.random() < PASTED:
            other = self.data[int(rng.choice(len(self.data), p=self.odds))]
            pixels, masks = paste(pixels, masks, *other.load(1, rng), rng)
        if rng.random() < 0.5:
            pixels, masks = pixels[:, ::-1], [mask[:, ::-1] for mask in masks]
        if rng.random() < LIT:
            pixels = light(pixels, rng)
        return np.ascontiguousarray(pixels), masks


def crop(
    pixels: np.ndarray, masks: list[np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A part of the picture, from a third of each side on. What is left of a thing counts as one
    if it is a good part of it."""
    height, width = pixels.shape[:2]
    share = rng.uniform(0.35, 1.0) * rng.uniform(0.85, 1.18, 2)
    rows, columns = (
        max(8, min(n, round(n * s))) for n, s in zip((height, width), share, strict=True)
    )
    top, left = (int(rng.integers(n + 1)) for n in (height - rows, width - columns))
    part = slice(top, top + rows), slice(left, left + columns)
    kept = [mask[part] for mask in masks if mask[part].sum() >= 0.25 * mask.sum()]
    return pixels[part], kept or [mask[part] for mask in masks]


def paste(
    pixels: np.ndarray,
    masks: list[np.ndarray],
    other: np.ndarray,
    others: list[np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A thing of another picture set anywhere on this one, at a fifth to three quarters of its
    longer side; what it covers is no longer seen."""
    ys, xs = np.nonzero(others[0])
    part = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
    shape = np.array(others[0][part].shape)
    longest = rng.uniform(0.2, 0.75) * max(pixels.shape[:2])
    rows, columns = np.maximum(4, np.round(shape * longest / shape.max())).astype(int).tolist()
    rows, columns = min(rows, pixels.shape[0]), min(columns, pixels.shape[1])
    thing = Image.fromarray(other[part]).resize((columns, rows), Image.Resampling.BILINEAR)
    alpha = Image.fromarray((others[0][part] * 255).astype(np.uint8))
    alpha = np.asarray(alpha.resize((columns, rows), Image.Resampling.BILINEAR)) / 255.0
    top = int(rng.integers(pixels.shape[0] - rows + 1))
    left = int(rng.integers(pixels.shape[1] - columns + 1))
    place = slice(top, top + rows), slice(left, left + columns)
    pixels = pixels.copy()
    blend = alpha[..., None] * np.asarray(thing) + (1 - alpha[..., None]) * pixels[place]
    pixels[place] = blend.round().astype(np.uint8)
    pasted = np.zeros(pixels.shape[:2], bool)
    pasted[place] = alpha >= 0.5
    seen = [mask & ~pasted for mask in masks]
    left_over = zip(masks, seen, strict=True)
    return pixels, [pasted, *(new for mask, new in left_over if new.sum() >= 0.25 * mask.sum())]


def light(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other brightness, contrast and tint; now and then no colour at all."""
    values = pixels.astype(np.float32)
    if rng.random() < GREY:
        values = np.repeat(values.mean(2, keepdims=True), 3, 2)
    middle = values.mean()
    values = (values - middle) * rng.uniform(0.7, 1.3) + middle * rng.uniform(0.75, 1.25)
    return (values * rng.uniform(0.9, 1.1, 3)).clip(0, 255).astype(np.uint8)
