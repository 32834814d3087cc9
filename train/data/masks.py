"""`loupe data masks`: pictures with masks, in the forms they are published in, as one COCO set.

The masks are class-free: a segmenter learns what can be pointed at, not what it is called.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters.coco import annotation, area, dataset, read_dataset, write_json
from adapters.components import Parts
from qformer.console import Parser
from qformer.contracts import LoupeError
from qformer.proposals import Proposal
from train.scenes.render import paint
from train.scenes.scene import sample_scene

SMALLEST = 0.001  # share of the picture that a mask must cover
Found = tuple[Path, tuple[int, int], list[dict[str, Any]]]  # file, (height, width), annotations
EXAMPLES = """examples:
  loupe data masks coco coco_nc --weight 6 --out runs/masks.json
  loupe data masks labels ccp --weight 2 --out runs/masks.json      added to what is there
  loupe data masks scenes painted --count 300 --out runs/masks.json
  loupe train segmenter runs/masks.json --from new:lite

FORM   what FOLDER holds
coco      instances.json in COCO's form, beside images/
labels    images/ and labels/*.png, one class a pixel (0 none): connected parts, and all as one
segments  images/ and segments/NAME_n.png, several people's: one index a segment
masks     images/ and masks/, the same paths: bright is inside
scenes    nothing yet: paintings of simple things are painted into it"""


def from_coco(folder: Path, count: int) -> Iterator[Found]:
    held = read_dataset(folder / "instances.json")
    of: dict[Any, list[dict[str, Any]]] = {}
    for one in held["annotations"]:
        if not one.get("iscrowd") and one.get("segmentation"):
            of.setdefault(one["image_id"], []).append(one)
    for image in held["images"]:
        size = image["height"], image["width"]
        masks = [area(one["segmentation"], size).numpy() for one in of.get(image["id"], [])]
        yield folder / "images" / image["file_name"], size, kept(masks)


def from_labels(folder: Path, count: int) -> Iterator[Found]:
    for file in sorted((folder / "labels").rglob("*.png")):
        labels = indices(file)
        masks = [part for index in np.unique(labels[labels > 0]) for part in parts(labels == index)]
        yield picture_of(folder, "labels", file), labels.shape, kept([*masks, labels > 0])


def from_segments(folder: Path, count: int) -> Iterator[Found]:
    of: dict[str, list[Path]] = {}
    for file in sorted((folder / "segments").rglob("*.png")):
        of.setdefault(file.stem.rpartition("_")[0], []).append(file)
    for stem, files in of.items():
        maps = [indices(file) for file in files]
        masks = [labels == index for labels in maps for index in np.unique(labels)]
        found = picture_of(folder, "segments", folder / "segments" / f"{stem}.png")
        yield found, maps[0].shape, kept(masks)


def from_masks(folder: Path, count: int) -> Iterator[Found]:
    for file in sorted((folder / "masks").rglob("*.png")):
        inside = indices(file) > 127
        yield picture_of(folder, "masks", file), inside.shape, kept([inside])


def from_scenes(folder: Path, count: int) -> Iterator[Found]:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, masks = paint(sample_scene(np.random.default_rng([number, 1])))
        file = folder / f"{number:05d}.png"
        Image.fromarray(picture).save(file)
        yield file, picture.shape[:2], kept(list(masks))


FORMS: dict[str, Callable[[Path, int], Iterator[Found]]] = {
    "coco": from_coco,
    "labels": from_labels,
    "segments": from_segments,
    "masks": from_masks,
    "scenes": from_scenes,
}


def indices(file: Path) -> np.ndarray:
    """A PNG of one channel, (height, width)."""
    try:
        with Image.open(file) as picture:
            values = np.asarray(picture)
    except OSError:
        raise LoupeError(f"{file} does not open as a picture: copy it again") from None
    if values.ndim != 2:
        raise LoupeError(f"{file} has colours: give an index or a grey value for each pixel")
    return values


def parts(inside: np.ndarray) -> list[np.ndarray]:
    """The connected parts that are not too small to learn from."""
    found = Parts(inside)
    large = np.flatnonzero(found.areas >= SMALLEST * inside.size)
    return [found.pixels(np.arange(len(found.areas)) == part) for part in large]


def picture_of(folder: Path, drawn: str, file: Path) -> Path:
    """The picture that a drawn PNG belongs to."""
    base = folder / "images" / file.relative_to(folder / drawn).with_suffix("")
    for suffix in (".jpg", ".jpeg", ".png"):
        if (found := base.with_name(base.name + suffix)).is_file():
            return found
    raise LoupeError(f"{file} has no picture at {base}.jpg or .png: copy the folder again")


def kept(masks: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """Annotations of those that cover enough, each once."""
    found = {}
    for inside in masks:
        if inside.sum() >= max(1, SMALLEST * inside.size):
            one = annotation(Proposal.of(torch.from_numpy(np.ascontiguousarray(inside)), 1.0))
            found[one["segmentation"]["counts"]] = one
    return list(found.values())


def add(file: Path, sets: Iterator[Found], weight: float) -> tuple[int, int]:
    """Into a COCO file, in place of what it says of the same pictures. Returns what was added:
    pictures and masks. weight: of the whole set in training, shared among its pictures."""
    new = {
        os.path.relpath(picture, file.parent): (size, masks)
        for picture, size, masks in sets
        if masks
    }
    if not new:
        return 0, 0
    file.parent.mkdir(parents=True, exist_ok=True)
    held = read_dataset(file) if file.exists() else dataset([])
    of: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in held["images"]}
    for one in held["annotations"]:
        of[one["image_id"]].append(one)
    old = [image for image in held["images"] if image["file_name"] not in new]
    pictures = [
        (image["file_name"], (image["height"], image["width"]), of[image["id"]]) for image in old
    ]
    whole = dataset([*pictures, *((name, *rest) for name, rest in new.items())])
    weights = [image.get("weight", 1.0) for image in old]
    weights += [round(weight / len(new), 6)] * len(new)
    for image, share in zip(whole["images"], weights, strict=True):
        image["weight"] = share
    write_json(file, whole)
    return len(new), sum(len(masks) for _, masks in new.values())


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="loupe data masks", description="Turn sets of masks into one COCO data set.",
        epilog=EXAMPLES,
    )  # fmt: skip
    parser.add_argument("form", metavar="FORM", choices=FORMS, help=", ".join(FORMS))
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True,
                        help="the COCO data set; what it holds stays")  # fmt: skip
    parser.add_argument("--weight", type=float, default=1.0,
                        help="how often it is learned from (%(default)s)")  # fmt: skip
    parser.add_argument("--count", type=int, default=300, help="scenes to paint (%(default)s)")
    parser.add_argument("--json", action="store_true", help="the counts as one JSON object")
    arguments = parser.parse_args(argv)
    if not arguments.weight > 0:
        raise LoupeError(f"--weight {arguments.weight} must be above 0")
    if arguments.form != "scenes" and not arguments.folder.is_dir():
        raise LoupeError(f"there is no folder {arguments.folder}: check the path")
    sets = FORMS[arguments.form](arguments.folder, arguments.count)
    pictures, masks = add(arguments.out, sets, arguments.weight)
    if not pictures:
        raise LoupeError(f"{arguments.folder} holds no masks of the form {arguments.form!r}")
    told = {"pictures": pictures, "masks": masks, "file": str(arguments.out)}
    print(json.dumps(told) if arguments.json else f"{pictures} pictures, {masks} masks added")
    return 0
