"""What a photo model is judged on: facts about photos that it never learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

from train.eval.metrics.vqa import normalise
from train.photos import facts, labels, regions, texts
from train.photos.facts import Captioned
from train.photos.labels import Labelled
from train.photos.lines import Regions, draws, read_jsonl, share_of
from train.photos.names import plural, right_names, with_article
from train.photos.prepare import held_by_name
from train.photos.regions import PLAIN, SEEN, Referred, Region
from train.photos.texts import tidy
from train.photos.wordings import TRAIN, fill

LARGE = 0.02  # of the picture
# The first of each type's wordings is how it is usually asked.
EACH_NUMBER = 100  # facts of a count


@dataclass(frozen=True, eq=False)
class Fact:
    """Something that is true of a photo. row: of the table. kind: of question, see wordings.py.
    region, wrong: what it is about, and another thing of the photo. clicked: whether the region is
    made by one click rather than given. truth: what is learned; right: all that is right. question:
    word for word, where the data set asks it so."""

    row: str
    image: str
    kind: str
    truth: str
    right: frozenset[str]
    about: str = ""
    question: str = ""
    region: Regions = ()
    wrong: Regions = ()
    clicked: bool = False
    share: float = 1.0

    def words(self, wording: str = "") -> str:
        """The question, in its usual wording if none is given."""
        if self.question:
            return self.question
        named = {"s": self.about, "a": with_article(self.about), "m": plural(self.about)}
        return fill(wording or TRAIN[self.kind][0], **named)


def rights(*names: str) -> frozenset[str]:
    """Answers as they are compared: without articles and signs, numbers as digits."""
    return frozenset(normalise(name) for name in names)


@dataclass
class Judged:
    """All that is judged on, of a SOURCE laid out as `prepare` reads it."""

    folder: Path

    @cached_property
    def things(self) -> list[Region]:
        return [r for r in regions.coco_regions(self.folder, "coco_by") if not r.stuff]

    @cached_property
    def dev(self) -> Captioned:
        return texts.flickr(self.folder, "dev")

    @cached_property
    def referred(self) -> list[Referred]:
        """Of coco_by, of which there are few, and those of photos that were kept back."""
        by = regions.referred_in(self.folder, "coco_by")
        return by + [one for one in regions.referred(self.folder) if held_by_name(one.image)]

    @cached_property
    def labelled(self) -> list[Labelled]:
        return labels.labelled(self.folder)

    @cached_property
    def breeds(self) -> dict[str, frozenset[str]]:
        """What is a dog, a cat, ... by ImageNet's names: finer than COCO's, and right."""
        found: dict[str, set[str]] = {}
        for one in self.labelled:
            if one.kind and one.set == "imagenet":
                found.setdefault(one.kind, set()).add(one.name)
        return {kind: frozenset(names) for kind, names in found.items()}

    def facts(self, wanted: tuple[str, ...] = ()) -> list[Fact]:
        """wanted: beginnings of the rows' names; all if none."""
        sources = {
            "what": (self.whats, self.products), "kind": (self.kinds,),
            "exist": (self.pope, self.exist), "colour": (self.colours,),
            "count": (self.counts,), "statement": (self.statements,),
        }  # fmt: skip
        return [
            fact
            for name, makers in sources.items()
            if not wanted or any(w.startswith(name) or name.startswith(w) for w in wanted)
            for make in makers
            for fact in make()
            if not wanted or fact.row.startswith(wanted)
        ]

    def whats(self) -> Iterator[Fact]:
        for region, wrong in self.beside(SEEN):
            right = right_names(region.name) | self.breeds.get(region.name, frozenset())
            yield Fact(
                "what: COCO's 80 classes", region.image, "what", region.name, rights(*right),
                region=[region.region], wrong=wrong, clicked=True, share=region.share,
            )  # fmt: skip

    def beside(self, least: float) -> Iterator[tuple[Region, Regions]]:
        """Each thing with the largest thing of another name beside it."""
        here = facts.by_photo(self.things)
        for region in self.things:
            if region.share < least:
                continue
            names = right_names(region.name)
            others = [one for one in here[region.image] if one.name not in names]
            other = max(others, key=lambda one: one.share, default=None)
            yield region, [] if other is None else [other.region]

    def products(self) -> Iterator[Fact]:
        held = labels.held_back(self.labelled)
        for one in self.labelled:
            if one.image in held:
                given = one.given.replace("_", " ")
                yield Fact(
                    f"what: {one.set}", one.image, "what", one.name,
                    rights(one.name, plural(one.name), given), region=self.whole(one.image),
                )  # fmt: skip

    def kinds(self) -> Iterator[Fact]:
        held = labels.held_back(self.labelled)
        for one in self.labelled:
            if one.image in held and one.kind:
                yield Fact(
                    "kind: groceries", one.image, "kind", one.name, rights(one.name),
                    about=one.kind, region=self.whole(one.image),
                )  # fmt: skip

    def whole(self, image: str) -> Regions:
        return labels.whole(self.folder / image)

    def pope(self) -> Iterator[Fact]:
        for folder, note in (("coco_by", ""), ("coco_nc", ", photos learned from")):
            path = self.folder / folder / "tasks/pope.jsonl"
            for line in read_jsonl(path) if path.is_file() else []:
                yield Fact(
                    f"exist: POPE's own{note}", f"{folder}/{line['image']}", "exist",
                    line["answers"][0], rights(*line["answers"]), question=line["question"],
                )  # fmt: skip

    def exist(self) -> Iterator[Fact]:
        asked = {
            "exist: as POPE, coco_by": facts.coco_asked(self.things),
            "exist: Flickr8k dev": facts.captions_asked(self.dev),
        }
        for row, found in asked.items():
            for image, name, answer in found:
                yield Fact(row, image, "exist", answer, rights(answer), about=name)

    def colours(self) -> Iterator[Fact]:
        for region, wrong in self.beside(2 * PLAIN):
            if region.colour:
                yield Fact(
                    "colour: coco_by", region.image, "colour", region.colour,
                    rights(region.colour, *SPELLED.get(region.colour, ())),
                    region=[region.region], wrong=wrong, clicked=True, share=region.share,
                )  # fmt: skip
        for image, captions in self.dev.items():
            for name, colour in captions.colours().items():
                yield Fact(
                    "colour of: Flickr8k dev", image, "colour of", colour,
                    rights(colour, *SPELLED.get(colour, ())), about=name,
                )  # fmt: skip

    def counts(self) -> Iterator[Fact]:
        """Of each number equally many, as far as there are."""
        found = facts.counted(self.dev, self.things, most=len(self.dev))
        left = Counter(dict.fromkeys((*facts.NUMBERS, "none"), EACH_NUMBER))
        for image, name, number in sorted(found, key=lambda fact: draws(*fact).random()):
            left[number] -= 1
            if left[number] >= 0:
                zero = " (none)" if number == "none" else ""
                yield Fact(
                    f"count: to four{zero}", image, "count", number, rights(number), about=name
                )

    def statements(self) -> Iterator[Fact]:
        """VSR's: of coco_by, and of photos that were kept back."""
        found = [
            (f"coco_by/{line['image']}", line["caption"], line["label"])
            for line in read_jsonl(self.folder / "coco_by/tasks/vsr.jsonl")
        ]
        for line in texts.small_lines(self.folder, "vsr"):
            image = f"photos/coco_small/images/{line['image']}"
            if held_by_name(image):
                found.append((image, line["statement"], line["label"]))
        for image, statement, label in found:
            answer = "yes" if label else "no"
            yield Fact(
                "statement: VSR", image, "statement", answer, rights(answer),
                about=tidy(statement),
            )  # fmt: skip


SPELLED = {"grey": ("gray",), "purple": ("violet",)}


def some(found: Iterable[Fact], most: int) -> list[Fact]:
    """`most` facts of each row, drawn by the photos' names, so that runs agree; all for 0."""
    rows: dict[str, list[Fact]] = {}
    for fact in found:
        rows.setdefault(fact.row, []).append(fact)
    return [fact for ones in rows.values() for fact in few(ones, most)]


About = TypeVar("About", Fact, Region)  # has the photo it is about


def few(found: Sequence[About], most: int) -> list[About]:
    """No more than `most`, spread over photos and, of a photo, over its facts (whose first are
    often all alike: what is there stands before what is not); all for 0."""
    if not most or len(found) <= most:
        return list(found)
    photos: dict[str, list[About]] = {}
    for one in found:
        photos.setdefault(one.image, []).append(one)
    mixed = [
        [ones[place] for place in draws("few", image).permutation(len(ones))]
        for image, ones in sorted(photos.items(), key=lambda photo: share_of(photo[0]))
    ]
    longest = max(map(len, mixed))
    turns = (ones[turn] for turn in range(longest) for ones in mixed if turn < len(ones))
    return list(islice(turns, most))
