"""Sets of yes and no, of numbers, and of colours that captions tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from train.photos.labels import KINDS, Labelled, differ
from train.photos.lines import Lines, draws
from train.photos.mentions import COUNTED, NOUNS, Captions
from train.photos.names import COCO, words
from train.photos.regions import Region

NUMBERS = ("one", "two", "three", "four")
MOST_ONES = 150  # photos with one of a thing, by name; of two and more there are fewer
SMALL = 2e-3  # of the picture; smaller things are not counted, and asked for less
WORN = words("hat sunglasses bag belt scarf watch dress skirt shorts boots tie jeans glasses")
_NEAR = {"bag": {"purse", "wallet"}, "glasses": {"sunglasses"}, "jeans": {"pants"}, "boots":
         {"shoes"}, "dress": {"romper", "skirt", "cape"}, "skirt": {"dress"}, "shorts":
         {"romper"}, "sunglasses": {"glasses"}, "hat": {"accessories"}}  # fmt: skip

Captioned = dict[str, Captions]  # by photo
Fact = tuple[str, str, str]  # a photo, a thing, and the answer


def by_photo(regions: Sequence[Region]) -> dict[str, list[Region]]:
    found: dict[str, list[Region]] = {}
    for region in regions:
        found.setdefault(region.image, []).append(region)
    return found


def company(present: Sequence[Sequence[str]]) -> dict[str, Counter[str]]:
    """How often names stand together in a photo."""
    found: dict[str, Counter[str]] = {}
    for names in present:
        for name in names:
            found.setdefault(name, Counter()).update(other for other in names if other != name)
    return found


def absent_names(
    present: set[str],
    names: Sequence[str],
    most: int,
    often: Counter[str],
    together: dict[str, Counter[str]],
    rng: np.random.Generator,
) -> list[str]:
    """Names that are not present, as POPE draws them: at random, the most frequent ones, and those
    that most often stand beside what is present. often, together: over all photos."""
    left = [name for name in names if name not in present]
    near = Counter({n: sum(together.get(p, Counter())[n] for p in present) for n in left})
    popular = sorted(left, key=lambda name: -often[name])[:12]
    close = [name for name, times in near.most_common(8) if times]
    found: dict[str, None] = {}
    for turn in range(4 * most):
        pool = (left, popular, close or left)[turn % 3]
        if pool and len(found) < most:
            found[pool[int(rng.integers(len(pool)))]] = None
    return list(found)


def coco_asked(regions: Sequence[Region]) -> Iterator[Fact]:
    """COCO's classes, as many absent as present; small things are not asked for."""
    here = by_photo(regions)
    photos = {
        image: {r.name for r in ones if not r.stuff and r.share > SMALL / 10}
        for image, ones in here.items()
    }
    often = Counter(name for names in photos.values() for name in names)
    together = company([sorted(names) for names in photos.values()])
    for image, names in photos.items():
        every = {region.name for region in here[image]}
        rng = draws("exist", image)
        yield from ((image, name, "yes") for name in sorted(names))
        for name in absent_names(every, COCO, len(names), often, together, rng):
            yield image, name, "no"


def captions_asked(captioned: Captioned, most: int = 300) -> Iterator[Fact]:
    """Things that captions name, each as often there as not; half of those that are not stand
    beside what they often go with."""
    there = {image: captions.there() for image, captions in captioned.items()}
    absent = {image: set(captions.absent()) for image, captions in captioned.items()}
    together = company(list(there.values()))
    for name in NOUNS:
        rng = draws("exist", name)
        yes = [image for image, names in there.items() if name in names]
        no = [image for image, names in absent.items() if name in names]
        each = min(len(yes), len(no), most)
        if not each:
            continue
        yield from ((yes[i], name, "yes") for i in rng.permutation(len(yes))[:each])
        close = np.array([1e-6 + sum(together[name][o] for o in there[i]) for i in no])
        hard = rng.choice(len(no), each // 2, replace=False, p=close / close.sum())
        rest = [i for i in rng.permutation(len(no)) if i not in set(hard.tolist())]
        yield from ((no[i], name, "no") for i in [*hard, *rest[: each - len(hard)]])


def exist(facts: Iterable[Fact]) -> Iterator[Lines]:
    """Each fact in two wordings."""
    found: dict[str, Lines] = {}
    for image, name, answer in facts:
        lines = found.setdefault(image, Lines("exist", image))
        lines.exists(name, answer == "yes", 2)
    yield from found.values()


def label_exist(found: Sequence[Labelled]) -> Iterator[Lines]:
    """The name of a photo with one, and another's; kinds of animals likewise."""
    kinds = sorted({kind for kind, _, _ in KINDS})
    for one in found:
        lines = Lines("exist", one.image)
        others = (found[i] for i in lines.rng.permutation(len(found)))
        other = next((other for other in others if differ(one, other)), None)
        if other is None:
            continue
        lines.exists(one.name, True, 1)
        lines.exists(other.name, False, 1)
        if one.animal is not None:
            lines.exists("animal", one.animal, 1)
        if one.kind:
            lines.exists(one.kind, True, 2)
            apart = [kind for kind in kinds if kind != one.kind and not (
                {kind, one.kind} <= {"shark", "fish"} or {kind, one.kind} <= {"wolf", "dog", "fox"}
            )]  # fmt: skip
            if one.animal:
                lines.exists(apart[int(lines.rng.integers(len(apart)))], False, 2)
        yield lines


def worn_exist(regions: Sequence[Region]) -> Iterator[Lines]:
    """What people wear in ccp, all of which is labelled."""
    for image, ones in by_photo(regions).items():
        names = {region.name for region in ones}
        if not image.startswith("photos/ccp"):
            continue
        lines = Lines("exist", image)
        yes = sorted(WORN & names)
        no = sorted(name for name in WORN - names if not _NEAR.get(name, set()) & names)
        each = min(len(yes), len(no), 3)
        for name in lines.rng.permutation(yes)[:each]:
            lines.exists(str(name), True, 1)
        for name in lines.rng.permutation(no)[:each]:
            lines.exists(str(name), False, 1)
        yield lines


def counted(captioned: Captioned, regions: Sequence[Region], most: int = MOST_ONES) -> list[Fact]:
    """One to four of a thing, and now and then none: what captions agree on, and COCO's things
    where none is too small to be seen. most: photos with one of a thing, by captions."""
    found: list[Fact] = []
    ones: Counter[str] = Counter()
    for image, captions in captioned.items():
        for name, number in captions.counts().items():
            ones[name] += number == 1
            if number > 1 or ones[name] <= most:
                found.append((image, name, NUMBERS[number - 1]))
        absent = sorted(set(captions.absent()) & set(COUNTED))
        rng = draws("none", image)
        if absent and rng.random() < 0.04:
            found.append((image, absent[int(rng.integers(len(absent)))], "none"))
    for image, here in by_photo(regions).items():
        numbers = Counter(region.name for region in here if not region.stuff)
        small = {region.name for region in here if region.share < SMALL}
        for name, number in sorted(numbers.items()):
            if number <= len(NUMBERS) and name not in small:
                found.append((image, name, NUMBERS[number - 1]))
        rng = draws("none", image)
        name = COCO[int(rng.integers(len(COCO)))]
        if name not in numbers:
            found.append((image, name, "none"))
    return found


def counts(facts: Iterable[Fact]) -> Iterator[Lines]:
    """The rarer the number, the more wordings."""
    found: dict[str, Lines] = {}
    times = {"one": 2, "none": 1, "two": 3}
    for image, name, number in facts:
        lines = found.setdefault(image, Lines("count", image))
        lines.count(name, number, times.get(number, 6))
    yield from found.values()


def caption_colours(captioned: Captioned) -> Iterator[Lines]:
    """The colour of a thing that captions name with it, asked without a region."""
    for image, captions in captioned.items():
        lines = Lines("colour", image)
        for name, colour in captions.colours().items():
            lines.fact("colour of", colour, f"{colour} {name}", about=name)
        if lines.found:
            yield lines
