"""Photos that show one thing with one name: ImageNet, Caltech-101, groceries, clothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from train.photos.lines import Lines, Regions, read_jsonl
from train.photos.wordings import ask

CROPS = {"imagenet": 3}  # of a photo; one of the other sets'
CROPPED = (0.62, 0.93)  # the sides of a crop, in shares of the photo's
SETS = ("imagenet", "caltech101", "grocery", "clothing")

_CALTECH = {
    "faces": "face", "leopards": "leopard", "motorbikes": "motorbike", "airplanes": "airplane",
    "car side": "car", "cougar body": "cougar", "cougar face": "cougar", "crocodile head":
    "crocodile", "flamingo head": "flamingo", "binocular": "binoculars", "headphone": "headphones",
    "water lilly": "water lily", "wild cat": "wildcat", "cellphone": "cell phone", "sea horse":
    "seahorse",
}  # fmt: skip

# Kinds that many of ImageNet's classes belong to, by their WordNet numbers (both ends included).
KINDS: tuple[tuple[str, str, str], ...] = (
    ("shark", "n01484850", "n01494475"),
    ("bird", "n01514668", "n01622779"),
    ("bird", "n01795545", "n01860187"),
    ("bird", "n02002556", "n02058221"),
    ("frog", "n01641577", "n01644900"),
    ("turtle", "n01664065", "n01669191"),
    ("lizard", "n01675722", "n01695060"),
    ("snake", "n01728572", "n01756291"),
    ("spider", "n01773157", "n01775062"),
    ("crab", "n01978287", "n01981276"),
    ("dog", "n02085620", "n02113978"),
    ("wolf", "n02114367", "n02114712"),
    ("fox", "n02119022", "n02120505"),
    ("cat", "n02123045", "n02124075"),
    ("bear", "n02132136", "n02134418"),
    ("beetle", "n02165105", "n02177972"),
    ("butterfly", "n02276258", "n02281787"),
    ("monkey", "n02483708", "n02494079"),
    ("elephant", "n02504013", "n02504458"),
    ("fish", "n02514041", "n02655020"),
)
ANIMALS = ("n01440764", "n02655020")


@dataclass(frozen=True)
class Labelled:
    """A photo of one thing. given: its name as the data set writes it. kind: what more general
    word holds it, "" where none is known. animal: None where it is not known."""

    image: str
    set: str
    given: str
    name: str
    kind: str = ""
    animal: bool | None = None


def clean_name(given: str) -> str:
    """ "Faces" -> "face", "car_side" -> "car"."""
    name = " ".join(given.replace("_", " ").lower().split())
    return _CALTECH.get(name, name)


def kind_of(wnid: str) -> str:
    return next((kind for kind, first, last in KINDS if first <= wnid <= last), "")


def labelled(source: Path) -> list[Labelled]:
    found = []
    for part in SETS:
        for line in read_jsonl(source / f"photos/{part}/index.jsonl"):
            name = clean_name(line["name"])
            if "background" in name or "google" in name:
                continue
            wnid = line.get("wnid")
            kind = kind_of(wnid) if wnid else line.get("coarse", "")
            animal = None if wnid is None else ANIMALS[0] <= wnid <= ANIMALS[1]
            kind = "" if kind == name else kind
            image = f"photos/{part}/images/{line['image']}"
            found.append(Labelled(image, part, line["name"], name, kind, animal))
    return found


def held_back(found: list[Labelled]) -> set[str]:
    """One photo in ten of each set but ImageNet, which has one a class: spread over the names."""
    held = set()
    for part in SETS[1:]:
        photos = sorted((one.name, one.image) for one in found if one.set == part)
        held |= {image for _, image in photos[5::10]}
    return held


def whole(file: Path) -> Regions:
    """The whole of a picture as a region."""
    with Image.open(file) as opened:
        return [{"box": [0, 0, *opened.size]}]


def labels(source: Path, found: list[Labelled]) -> Iterator[Lines]:
    """Each photo as a region of its own whole, and once without one."""
    for one in found:
        lines = Lines("labels", one.image)
        region = whole(source / one.image)
        texts = [one.name]
        if one.kind and one.kind not in one.name:
            texts.append(f"{one.name}, a kind of {one.kind}")
        lines.say(texts, one.name, region)
        lines.fact("what", one.name, one.name, region)
        lines.question(*ask(lines.rng, "what", 1, marked=False), one.name, one.name)
        if one.kind:
            lines.fact("kind", one.name, one.name, region, about=one.kind, times=1)
        yield lines


def crops(source: Path, found: list[Labelled]) -> Iterator[Lines]:
    """Smaller boxes of each photo under the same name: of most names there are few photos."""
    for one in found:
        lines = Lines("crops", one.image)
        (region,) = whole(source / one.image)
        _, _, width, height = region["box"]
        for _ in range(CROPS.get(one.set, 1)):
            wide, high = lines.rng.uniform(*CROPPED, 2) * (width, height)
            left, top = lines.rng.normal(0.5, 0.25, 2).clip(0, 1) * (width - wide, height - high)
            box = [round(left), round(top), round(left + wide), round(top + high)]
            lines.say([one.name], one.name, [{"box": box}])
            lines.fact("what", one.name, one.name, [{"box": box}], times=2)
        yield lines


def differ(one: Labelled, other: Labelled) -> bool:
    """Whether the name of the other surely does not fit: they share no word and no kind."""
    words = {*one.name.split(), *one.kind.split()}
    return (
        one.set == other.set
        and one.set != "clothing"  # shirts, tops and blouses are not told apart by everyone
        and not words & {*other.name.split(), *other.kind.split()}
    )
