"""Sets about regions: things under their masks, expressions, whole photos with one name, parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from adapters.images import load_image, load_region_mask
from adapters.rle import decode_rle, encode_rle
from train.data.sample import Area
from train.photos.colours import COLOURS, SPELLINGS, colour_of
from train.photos.lines import Lines, Regions, draws, read_jsonl
from train.photos.names import COCO, PEOPLE, stuff_name, words

SEEN = 3e-4  # of the picture: the least that a thing must cover to be named
PLAIN = 1e-3  # the least to be named in several wordings
STUFF = 0.5  # the share of panoptic stuff that is asked for
# Masks that hold other things, too, or have no colour of their own.
NO_COLOUR = frozenset(
    ("person", "dining table", "bowl", "skin", "tv", "laptop", "mirror", "orange")
)
SHIFTING = frozenset(("zebra", "giraffe"))  # of two colours, whatever the pixels say


@dataclass(frozen=True)
class Region:
    """A named region of a photo. share: of the picture that it covers."""

    image: str
    region: dict[str, Any]
    name: str
    share: float
    colour: str | None = None
    stuff: bool = False


def area(region: dict[str, Any]) -> Area:
    """A region as our lines write it."""
    if "box" in region:
        x0, y0, x1, y1 = map(float, region["box"])
        return Area(box=(x0, y0, x1, y1))
    return Area(rle=region["rle"])


def coco_regions(source: Path, folder: str) -> list[Region]:
    """What is annotated in `folder`, crowds left out. Colours by the pixels under the masks."""
    file = json.loads((source / folder / "instances.json").read_text())
    names = {image["id"]: image for image in file["images"]}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for one in file["annotations"]:
        if not one["iscrowd"]:
            by_image.setdefault(one["image_id"], []).append(one)
    found = []
    for number, ones in by_image.items():
        image = f"{folder}/images/{names[number]['file_name']}"
        picture = load_image(source / image).numpy()
        for one in ones:
            code = one["segmentation"]
            region_mask = decode_rle(code).numpy()
            name = one["category_name"] if one["isthing"] else stuff_name(one["category_name"])
            coloured = name not in NO_COLOUR | SHIFTING
            colour = colour_of(picture, region_mask) if coloured else None
            share = float(region_mask.mean())
            found.append(Region(image, {"rle": code}, name, share, colour, not one["isthing"]))
    return found


def named(kind: str, region: Region, lines: Lines, times: int) -> None:
    """A region's name as a caption of it and as the answer to a question."""
    texts = [region.name]
    if region.colour:
        texts.append(f"{region.colour} {region.name}")
    lines.say(texts, region.name, [region.region])
    lines.fact(kind, region.name, region.name, [region.region], times=times)


def things(regions: list[Region]) -> Iterator[Lines]:
    """coco_nc's things, and some of its stuff."""
    for region in regions:
        if region.share < SEEN:
            continue
        lines = Lines("things", region.image)
        lines.rng = draws("things", region.image, region.name, region.share)
        if region.stuff and lines.rng.random() > STUFF:
            continue
        several = region.share >= PLAIN and not region.stuff
        named("what", region, lines, 3 if several else 1)
        yield lines


# ---- expressions

# What may stand before the name in an expression, and what may follow it.
_BEFORE = words(
    "the a an left right far middle center front back top bottom first second third last big "
    "bigger biggest large larger largest small smaller little tall tallest short closest nearest "
    "other main only old young striped wooden upper lower leftmost rightmost whole dark light baby "
    "adult brown-white center-most nearer farthest furthest tallest full empty wet open"
) | {*COLOURS, *SPELLINGS} - {"orange"}
_AFTER = words(
    "on in at with to near by left right behind next closest that who facing standing sitting "
    "wearing holding under above from far front looking eating laying lying walking beside between "
    "farthest furthest nearest middle top bottom which being is has whose without against "
    "riding playing second third first"
)
_SAME = {
    "sofa": "couch", "plane": "airplane", "motorbike": "motorcycle", "phone": "cell phone",
    "cellphone": "cell phone", "doughnut": "donut", "television": "tv", "fridge": "refrigerator",
    "racket": "tennis racket", "hydrant": "fire hydrant", "laptop": "laptop", "plant":
    "potted plant", "teddy": "teddy bear", "hotdog": "hot dog", "vase": "vase",
}  # fmt: skip
_UNSURE = frozenset(("orange", "mouse", "remote", "tie", "book", "bear", "cup"))
_KNOWN = (
    {name: name for name in COCO if name not in _UNSURE} | _SAME | dict.fromkeys(PEOPLE, "person")
)


def clean(expression: str) -> str:
    """Without the leftovers of the game that expressions were collected in."""
    text = re.sub(r"click( on)?( the)?$", "", expression.strip().lower()).strip(" .,")
    return " ".join(text.split())


def head_of(expression: str) -> tuple[str | None, str | None]:
    """COCO's name of what an expression means, and its colour, where both are plainly said:
    "red car on the left" -> ("car", "red"). None where they are not."""
    words = re.findall(r"[a-z-]+", expression)
    place, colours = 0, []
    while place < len(words) and words[place] in _BEFORE and words[place] not in _KNOWN:
        if words[place] in COLOURS or words[place] in SPELLINGS:
            colours.append(SPELLINGS.get(words[place], words[place]))
        place += 1
    for length in (2, 1):
        name, rest = " ".join(words[place : place + length]), words[place + length :]
        if name in _KNOWN and (not rest or rest[0] in _AFTER):
            return _KNOWN[name], colours[0] if len(colours) == 1 else None
    return None, None


@dataclass
class Referred:
    """A box of a photo with all expressions for it. name: where the data set says it."""

    image: str
    box: list[float]
    expressions: list[str]
    name: str | None = None


def referred(source: Path) -> list[Referred]:
    """RefCOCO's, + and g's of coco_small and coco_nc; boxes in pixels of the files as they are."""
    found: dict[tuple[str, str], Referred] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for line in read_jsonl(source / "photos/coco_small/annotations.jsonl"):
        if not line["kind"].startswith("refer"):
            continue
        image = f"photos/coco_small/images/{line['image']}"
        if image not in sizes:
            sizes[image] = Image.open(source / image).size
        width, height = sizes[image]
        x, y, w, h = line["box_xywh_rel"]
        box = [x * width, y * height, (x + w) * width, (y + h) * height]
        add(found, Referred(image, box, [clean(line["expression"])]))
    for one in referred_in(source, "coco_nc"):
        add(found, one)
    return list(found.values())


def referred_in(source: Path, folder: str) -> list[Referred]:
    """The expressions among the tasks of coco_nc or coco_by."""
    found: dict[tuple[str, str], Referred] = {}
    for line in read_jsonl(source / folder / "tasks/refer.jsonl"):
        x, y, w, h = line["bbox_xywh"]
        expressions = [clean(one) for one in line["expressions"]]
        image = f"{folder}/{line['image']}"
        add(found, Referred(image, [x, y, x + w, y + h], expressions, line["category_name"]))
    return list(found.values())


def add(found: dict[tuple[str, str], Referred], one: Referred) -> None:
    one.box = [round(value, 1) for value in one.box]
    one.expressions = [text for text in one.expressions if text]
    if min(one.box[2] - one.box[0], one.box[3] - one.box[1]) < 2 or not one.expressions:
        return
    known = found.setdefault((one.image, str(one.box)), one)
    if known is not one:
        known.expressions += one.expressions


def expressions(found: list[Referred]) -> Iterator[Lines]:
    for one in found:
        lines = Lines("expressions", one.image)
        lines.rng = draws("expressions", one.image, one.box)
        region: Regions = [{"box": one.box}]
        texts = list(dict.fromkeys(one.expressions))
        longest = max(texts, key=len)
        lines.say(texts, longest, region)
        lines.fact("expression", longest, longest, region, times=1)
        name = one.name or agreed([head_of(text)[0] for text in texts])
        if name:
            lines.fact("what", name, name, region)
        yield lines


def agreed(values: list[str | None]) -> str | None:
    """What all that say anything say."""
    said = Counter(value for value in values if value is not None)
    return next(iter(said)) if len(said) == 1 else None


# ---- parts of people: what they wear

_PLAIN_PARTS = {"accessories": "accessory", "intimate": "underwear"}
_WORN_LEAST = 1e-3  # of the picture
# Wordings of each fact about a colour: most of what people wear is black, and hardly any pink.
_COLOUR_TIMES = {
    "black": 0.35,
    "brown": 1,
    "white": 1,
    "blue": 2,
    "grey": 2,
    "red": 3,
}  # below 1: a share
_RARE_TIMES = 4


def parts(source: Path) -> list[Region]:
    """What people wear in ccp, each class of a photo one region, and the people themselves."""
    names = json.loads((source / "photos/ccp/names.json").read_text())
    found = []
    for line in read_jsonl(source / "photos/ccp/index.jsonl"):
        image = f"photos/ccp/images/{line['image']}"
        label = np.asarray(Image.open(source / f"photos/ccp/labels/{line['labels']}"))
        picture = load_image(source / image).numpy()
        if picture.shape[:2] != label.shape:
            continue
        masks = {names[index]: label == index for index in line["present"] if index}
        for name, region_mask in {**masks, "person": label > 0}.items():
            share = float(region_mask.mean())
            if share < _WORN_LEAST:
                continue
            colour = None if name in NO_COLOUR else colour_of(picture, region_mask)
            code = encode_rle(torch.from_numpy(region_mask))
            name = _PLAIN_PARTS.get(name, name)
            found.append(Region(image, {"rle": code}, name, share, colour))
    for path in sorted((source / "photos/people/masks").glob("*")):
        picture_file = next((source / "photos/people/images").glob(f"{path.stem}.*"), None)
        if picture_file is None:
            continue
        with Image.open(picture_file) as opened:
            width, height = opened.size
        region_mask = load_region_mask(path, (height, width))
        image = f"photos/people/images/{picture_file.name}"
        code = encode_rle(region_mask)
        found.append(Region(image, {"rle": code}, "person", float(region_mask.float().mean())))
    return found


def worn(regions: list[Region]) -> Iterator[Lines]:
    for region in regions:
        lines = Lines("parts", region.image)
        lines.rng = draws("parts", region.image, region.name)
        named("what", region, lines, 1 if region.name in ("person", "skin") else 2)
        yield lines


def colours(regions: list[Region], found: list[Referred]) -> Iterator[Lines]:
    """Of regions: by their pixels, and by expressions that say a colour right before the name."""
    for region in regions:
        if region.colour and region.share >= PLAIN:
            lines = Lines("colour", region.image)
            lines.rng = draws("colour", region.image, region.name, region.share)
            notes = f"{region.colour} {region.name}"
            often = _COLOUR_TIMES.get(region.colour, _RARE_TIMES)
            if lines.rng.random() < often:
                lines.fact(
                    "colour", region.colour, notes, [region.region], times=max(1, int(often))
                )
                yield lines
    for one in found:
        heads = [head_of(text) for text in one.expressions]
        said = [colour for name, colour in heads if name not in (None, "person")]
        colour, name = agreed(said), agreed([name for name, _ in heads])
        if colour and name:
            lines = Lines("colour", one.image)
            lines.rng = draws("colour", one.image, one.box)
            lines.fact("colour", colour, f"{colour} {name}", [{"box": one.box}])
            yield lines
