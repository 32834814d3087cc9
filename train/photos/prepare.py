"""`loupe data photos SOURCE --out FOLDER`: public photo data as training data in our own format.

Each set becomes a file, NAME.jsonl, to be read as format = "folder" with images = SOURCE, so that a
recipe weights each. What is kept back to choose between models is in val-NAME.jsonl. A photo is
either learned or kept back, in all sets alike. Pictures of nothing are painted into FOLDER/images.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from qformer.console import Parser
from qformer.contracts import LoupeError
from train.photos import facts, labels, regions, talk, texts
from train.photos.lines import Lines, share_of, write

NEEDED = (
    "coco_nc/instances.json",
    "coco_nc/captions.json",
    *(f"coco_nc/tasks/{name}.jsonl" for name in ("refer", "vqa", "vsr")),
    "photos/flickr8k/captions.jsonl",
    "photos/coco_small/annotations.jsonl",
    "photos/ade_text/index.jsonl",
    "photos/ccp/index.jsonl",
    "photos/ccp/names.json",
    *(f"photos/{name}/index.jsonl" for name in labels.SETS),
)
FLICKR_HELD = 300  # photos kept back, and shares of the other sets'
HELD = {"coco_nc": 0.1, "coco_small": 0.05, "ade_text": 0.05, "ccp": 0.05, "people": 0.05}
BLANK_HELD = 0.05


class Source:
    """What is read of the public data, once for all sets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.flickr = texts.flickr(folder)
        self.coco = texts.coco_captions(folder, "coco_nc")
        self.small = texts.small_captions(folder)
        self.scenes = texts.scene_captions(folder)
        self.things = regions.coco_regions(folder, "coco_nc")
        self.parts = regions.parts(folder)
        self.referred = regions.referred(folder)
        self.labels = labels.labelled(folder)
        photos = sorted(self.flickr, key=share_of)
        self.held = {*photos[:FLICKR_HELD], *labels.held_back(self.labels)}

    def is_held(self, image: str) -> bool:
        return image in self.held or held_by_name(image)

    def sets(self, out: Path) -> dict[str, Iterator[Lines]]:
        told = {**self.flickr, **self.coco, **self.small}
        # What is true of learned photos is balanced there, and apart in those kept back.
        learned = {image: said for image, said in told.items() if not self.is_held(image)}
        kept = {image: said for image, said in told.items() if image not in learned}
        photos = list(self.flickr)
        return {
            "captions": texts.captions({**told, **self.scenes}),
            "things": regions.things(self.things),
            "expressions": regions.expressions(self.referred),
            "labels": labels.labels(self.folder, self.labels),
            "crops": labels.crops(self.folder, self.labels),
            "parts": regions.worn(self.parts),
            "exist": chain(
                facts.exist(facts.coco_asked(self.things)),
                facts.exist(facts.captions_asked(learned)),
                facts.exist(facts.captions_asked(kept)),
                facts.label_exist(self.labels),
                facts.worn_exist(self.parts),
            ),
            "count": facts.counts(facts.counted(told, self.things)),
            "colour": chain(
                regions.colours([*self.things, *self.parts], self.referred),
                facts.caption_colours(told),
            ),
            "vqa": texts.questions(self.folder),
            "talk": talk.talk(photos),
            "blank": talk.blanks(out, self.folder),
        }


def held_by_name(image: str) -> bool:
    """Whether a photo is among the share of its set that is kept back."""
    part = next((name for name in HELD if f"{name}/" in image), None)
    return part is not None and share_of(image) < HELD[part]


def prepare(folder: Path, out: Path, say=lambda line: None) -> dict[str, int]:
    """Write every set; how many lines each file has. Raises LoupeError where data are missing."""
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        raise LoupeError(
            f"{folder} lacks {missing[0]}"
            + (f" and {len(missing) - 1} more files" if len(missing) > 1 else "")
            + ": give the folder that holds coco_nc/ and photos/"
        )
    out.mkdir(parents=True, exist_ok=True)
    source, counts = Source(folder), {}
    for name, found in source.sets(out).items():
        learned, kept = split(name, found, source)
        counts[name] = write(out / f"{name}.jsonl", learned)
        counts[f"val-{name}"] = write(out / f"val-{name}.jsonl", kept)
        say(f"{name}: {counts[name]} lines, {counts[f'val-{name}']} kept back")
    return counts


def split(name: str, found: Iterable[Lines], source: Source) -> tuple[list[dict], list[dict]]:
    """The lines to learn, and those that are kept back."""
    learned: list[dict] = []
    kept: list[dict] = []
    for lines in found:
        held = (
            share_of(lines.image) < BLANK_HELD if name == "blank" else source.is_held(lines.image)
        )
        (kept if held else learned).extend(lines.found)
    return learned, kept


def main(argv: Sequence[str]) -> int:
    parser = Parser(
        prog="loupe data photos", description="Turn public photo data into training data.",
        epilog=__doc__.split("\n\n", 1)[1],
    )  # fmt: skip
    parser.add_argument("source", metavar="SOURCE", help="the folder with coco_nc/ and photos/")
    parser.add_argument("--out", metavar="FOLDER", default="runs/photos/data",
                        help="where the files go (%(default)s)")  # fmt: skip
    arguments = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    prepare(Path(arguments.source), Path(arguments.out), say)
    print(arguments.out)
    return 0
