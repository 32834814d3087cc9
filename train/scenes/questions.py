"""Questions about painted scenes, in the words of wordings.py, with the one right answer to each.

A question is asked only where its answer is beyond dispute: no size between two bands, no place on
a border of the grid, no neighbour that is nearly as near as another. `TYPES` lists every type; each
is a function of a Scene and a generator that returns a Question, or None where the scene has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from train.scenes import wordings
from train.scenes.scene import COLOURS, HELD_OUT, KINDS, TEXTURES, Item, Scene
from train.scenes.wordings import PLURAL, THINGS, pick

PLACES = (
    *("top left", "top", "top right"),
    *("left", "centre", "right"),
    *("bottom left", "bottom", "bottom right"),
)
BIGGEST, SMALLEST = ("biggest", "largest"), ("smallest", "tiniest")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}


@dataclass(frozen=True)
class Question:
    """regions: item numbers asked about, named by `names`; evidence: what a reader of the picture
    who knows the question would note down (it trains the language model before any picture does);
    for what is counted or looked for, of each object whether it is meant.
    """

    type: str
    text: str
    answer: str
    regions: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    evidence: str = ""


def describe(item: Item, size: bool = True) -> str:
    """ "small striped red star"; a solid texture goes without saying."""
    words = [item.size] if size else []
    words += [item.texture] if item.texture != "solid" else []
    return " ".join([*words, item.colour, item.kind])


def a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def marks(scene: Scene, meant: Sequence[Item]) -> str:
    """Say of every object, from left to right, whether it is one of these: "no yes no"."""
    numbers = {id(item) for item in meant}
    return " ".join("yes" if id(item) in numbers else "no" for item in in_order(scene))


def in_order(scene: Scene) -> list[Item]:
    """Order the objects from left to right."""
    return sorted(scene.items, key=lambda item: item.x)


def caption(scene: Scene) -> str:
    """Every object from left to right: "a red star, a blue car and a green fish"."""
    names = [a(f"{i.colour} {i.kind}") for i in in_order(scene)]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


# Where a region is asked about, it is "this", "it" or called by its name.
def _name(rng, number=None):
    return f"region {number or int(rng.choice(6, p=(0.4, 0.25, 0.15, 0.1, 0.05, 0.05))) + 1}"


def _region_question(type, rng, phrasings, answer, i, evidence=None):
    name = _name(rng)
    text = pick(rng, phrasings)
    text = text.replace("{r}", pick(rng, ("this", "this", "it", name, f"the object in {name}")))
    return Question(type, text, answer, (i,), (name,), evidence or answer)


def _visible(scene: Scene, rng, clear_size=False) -> int | None:
    """An item shown well enough to ask about."""
    unit = scene.width * scene.height
    good = [
        i
        for i, item in enumerate(scene.items)
        if (not scene.areas or scene.areas[i] > 0.35 * item.half**2 * unit)
        and (item.clear_size or not clear_size)
    ]
    return pick(rng, good) if good else None


# ---- the whole picture -------------------------------------------------------------------------


def ask_caption(scene, rng):
    text = pick(rng, wordings.CAPTION)
    return Question("caption", text, caption(scene), evidence=caption(scene))


def _subject(scene, rng):
    """What is counted or looked for: (words in the singular, in the plural, matching items)."""
    how = rng.random()
    item = pick(rng, scene.items) if rng.random() < 0.6 else None
    if how < 0.35:
        colour = item.colour if item else pick(rng, COLOURS)
        return (
            f"{colour} {pick(rng, ('thing', 'object', 'shape'))}",
            f"{colour} {pick(rng, THINGS)}",
            [i for i in scene.items if i.colour == colour],
        )
    if how < 0.7:
        kind = item.kind if item else pick(rng, KINDS)
        return kind, PLURAL[kind], [i for i in scene.items if i.kind == kind]
    if how < 0.88:
        kind, colour = item.pair if item else (pick(rng, KINDS), pick(rng, COLOURS))
        if rng.random() < 0.3:  # near misses: the right kind in another colour
            colour = pick(rng, COLOURS)
        if (kind, colour) in HELD_OUT:
            return None
        found = [i for i in scene.items if i.pair == (kind, colour)]
        return f"{colour} {kind}", f"{colour} {PLURAL[kind]}", found
    texture = item.texture if item else pick(rng, TEXTURES)
    found = [i for i in scene.items if i.texture == texture]
    return f"{texture} {pick(rng, ('thing', 'object'))}", f"{texture} {pick(rng, THINGS)}", found


def ask_count(scene, rng):
    if rng.random() < 0.2:
        subject, found = pick(rng, THINGS), list(scene.items)
    else:
        subjects = _subject(scene, rng)
        if subjects is None:
            return None
        _, subject, found = subjects
        if len(found) < 2 and rng.random() < 0.45:  # zeros and ones are easy and many
            return None
    text = pick(rng, wordings.COUNT).replace("{s}", subject)
    return Question("count", text, str(len(found)), evidence=marks(scene, found))


def ask_exist(scene, rng):
    want = rng.random() < 0.5
    for _ in range(12):
        subjects = _subject(scene, rng)
        if subjects is not None and bool(subjects[2]) == want:
            break
    else:
        return None
    one, many, found = subjects
    text = pick(rng, wordings.EXIST).replace("{a}", a(one)).replace("{m}", many)
    answer = "yes" if found else "no"
    return Question("exist", text, answer, evidence=marks(scene, found))


def ask_biggest(scene, rng):
    items = sorted(range(len(scene.items)), key=lambda i: scene.items[i].half)
    if len(items) < 2:
        return None
    smallest = rng.random() < 0.35
    first, second = (items[0], items[1]) if smallest else (items[-1], items[-2])
    if not _clearly_bigger(scene, *((second, first) if smallest else (first, second))):
        return None
    text = pick(rng, wordings.BIGGEST)
    text = text.replace("{b}", pick(rng, SMALLEST if smallest else BIGGEST))
    item = scene.items[first]
    answer = f"the {item.colour} {item.kind}"
    return Question("biggest", text, answer, evidence=answer)


def _clearly_bigger(scene, i, j, ratio=1.2):
    areas = scene.areas or [item.half**2 for item in scene.items]
    return scene.items[i].half > ratio * scene.items[j].half and areas[i] > ratio * areas[j]


def ask_where(scene, rng):
    i = _visible(scene, rng)
    if i is None:
        return None
    item = scene.items[i]
    by_pair, by_kind = f"{item.colour} {item.kind}", item.kind
    others = [o for k, o in enumerate(scene.items) if k != i]
    unique = []
    if all(o.pair != item.pair for o in others) and item.pair not in HELD_OUT:
        unique.append(by_pair)
    if all(o.kind != item.kind for o in others):
        unique.append(by_kind)
    place = place_of(item)
    if not unique or place is None:
        return None
    subject = pick(rng, unique)
    text = pick(rng, wordings.WHERE).replace("{s}", subject)
    return Question("where", text, place, evidence=f"{subject} {place}")


def place_of(item: Item, margin: float = 0.03) -> str | None:
    """The item's cell of a 3 x 3 grid, None within `margin` of a border."""
    cells = []
    for value in (item.y, item.x):
        if min(abs(value - 1 / 3), abs(value - 2 / 3)) < margin:
            return None
        cells.append(int(value * 3))
    return PLACES[3 * cells[0] + cells[1]]


# ---- one region --------------------------------------------------------------------------------


def _attribute(type, phrasings, answer_of, clear_size=False):
    def ask(scene, rng):
        i = _visible(scene, rng, clear_size)
        if i is None:
            return None
        return _region_question(type, rng, phrasings, answer_of(scene.items[i]), i)

    return ask


ask_what = _attribute("what", wordings.WHAT, lambda i: a(f"{i.colour} {i.kind}"))
ask_colour = _attribute("colour", wordings.COLOUR, lambda i: i.colour)
ask_kind = _attribute("kind", wordings.KIND, lambda i: a(i.kind))
ask_texture = _attribute("texture", wordings.TEXTURE, lambda i: i.texture)
ask_size = _attribute("size", wordings.SIZE, lambda i: i.size, clear_size=True)
ask_describe = _attribute("describe", wordings.DESCRIBE, lambda i: a(describe(i)), clear_size=True)


def ask_verify(scene, rng):
    i = _visible(scene, rng)
    if i is None:
        return None
    item, right = scene.items[i], rng.random() < 0.5
    name, words = pick(rng, (("colour", COLOURS), ("kind", KINDS), ("texture", TEXTURES)))
    value = getattr(item, name)
    if not right:
        value = pick(rng, [w for w in words if w != value])
    asked = a(value) if name == "kind" else value
    phrasings = [text.replace("{s}", asked) for text in wordings.VERIFY]
    return _region_question("verify", rng, phrasings, "yes" if right else "no", i)


def ask_beside(scene, rng):
    """The nearest object in a direction, or at all."""
    i = _visible(scene, rng)
    if i is None:
        return None
    others = _around(scene, i)
    way = pick(rng, ("next to", *DIRECTIONS))
    if way == "next to":
        near = [(d, k) for k, d, _ in others]
    else:
        near = [(d, k) for k, d, angles in others if angles[way] < 40]
        border = [d for _, d, angles in others if 40 <= angles[way] <= 56]
        if border and (not near or min(border) < 1.3 * min(near)[0]):
            return None
        if not near and rng.random() < 0.6:
            return None
    near.sort()
    if len(near) > 1 and near[1][0] < 1.2 * near[0][0]:
        return None
    answer = a("{0.colour} {0.kind}".format(scene.items[near[0][1]])) if near else "nothing"
    return _region_question("beside", rng, wordings.BESIDE[way], answer, i)


def _around(scene, i):
    """(item, distance in pixels, degrees off each direction) of every other item."""
    here, found = scene.items[i], []
    for k, other in enumerate(scene.items):
        if k != i:
            dx, dy = (other.x - here.x) * scene.width, (other.y - here.y) * scene.height
            distance = math.hypot(dx, dy)
            angles = {
                way: math.degrees(math.acos(max(-1, min(1, (dx * x + dy * y) / distance))))
                for way, (x, y) in DIRECTIONS.items()
            }
            found.append((k, distance, angles))
    return found


def ask_others(scene, rng):
    i = _visible(scene, rng)
    if i is None:
        return None
    name = "colour" if rng.random() < 0.6 else "kind"
    value = getattr(scene.items[i], name)
    alike = [o for k, o in enumerate(scene.items) if getattr(o, name) == value and k != i]
    if not alike and rng.random() < 0.5:
        return None
    phrasings = [text.replace("{t}", pick(rng, THINGS)) for text in wordings.OTHERS[name]]
    return _region_question("others", rng, phrasings, str(len(alike)), i, marks(scene, alike))


def ask_region_where(scene, rng):
    i = _visible(scene, rng)
    place = place_of(scene.items[i]) if i is not None else None
    if place is None:
        return None
    return _region_question("region_where", rng, wordings.REGION_WHERE, place, i)


# ---- two regions -------------------------------------------------------------------------------


def _pair(scene, rng):
    if len(scene.items) < 2:
        return None
    i, j = (int(k) for k in rng.permutation(len(scene.items))[:2])
    numbers = sorted(int(n) for n in rng.permutation(4)[:2] + 1) if rng.random() < 0.3 else [1, 2]
    return i, j, tuple(f"region {n}" for n in numbers)


def _named(text, first, second):
    return text.replace("{1}", first).replace("{2}", second)


def ask_bigger(scene, rng):
    pair = _pair(scene, rng)
    if pair is None:
        return None
    i, j, names = pair
    if not (_clearly_bigger(scene, i, j) or _clearly_bigger(scene, j, i)):
        return None
    smaller = rng.random() < 0.3
    first = (scene.items[i].half > scene.items[j].half) != smaller
    word = pick(rng, ("smaller",) if smaller else ("bigger", "larger"))
    text = _named(pick(rng, wordings.BIGGER), *names).replace("{b}", word)
    answer = names[0] if first else names[1]
    return Question("bigger", text, answer, (i, j), names, evidence=f"{word} {answer}")


def _same(type, name, phrasings):
    def ask(scene, rng):
        want = rng.random() < 0.5
        for _ in range(6):
            pair = _pair(scene, rng)
            if pair is None:
                return None
            i, j, names = pair
            same = getattr(scene.items[i], name) == getattr(scene.items[j], name)
            if same == want:
                break
        else:
            return None
        answer = "yes" if same else "no"
        text = _named(pick(rng, phrasings), *names)
        values = f"{getattr(scene.items[i], name)} {getattr(scene.items[j], name)}"
        return Question(type, text, answer, (i, j), names, evidence=f"{values} {answer}")

    return ask


ask_same_colour = _same("same_colour", "colour", wordings.SAME_COLOUR)
ask_same_kind = _same("same_kind", "kind", wordings.SAME_KIND)


def ask_relation(scene, rng):
    pair = _pair(scene, rng)
    if pair is None:
        return None
    i, j, names = pair
    angles = next(angles for k, _, angles in _around(scene, j) if k == i)
    way = min(angles, key=angles.__getitem__)
    if angles[way] > 38:
        return None
    first, second = (names[0], names[1]) if rng.random() < 0.8 else (names[1], names[0])
    if first != names[0]:
        way = {"left": "right", "right": "left", "above": "below", "below": "above"}[way]
    text = _named(pick(rng, wordings.RELATION), first, second)
    answer = way if way in ("above", "below") else f"to the {way}"
    return Question("relation", text, answer, (i, j), names, evidence=answer)


PICTURE_TYPES: dict[str, Callable] = {
    "caption": ask_caption,
    "count": ask_count,
    "exist": ask_exist,
    "biggest": ask_biggest,
    "where": ask_where,
}
REGION_TYPES: dict[str, Callable] = {
    "what": ask_what,
    "colour": ask_colour,
    "kind": ask_kind,
    "texture": ask_texture,
    "size": ask_size,
    "describe": ask_describe,
    "verify": ask_verify,
    "beside": ask_beside,
    "others": ask_others,
    "region_where": ask_region_where,
}
PAIR_TYPES: dict[str, Callable] = {
    "bigger": ask_bigger,
    "same_colour": ask_same_colour,
    "same_kind": ask_same_kind,
    "relation": ask_relation,
}
TYPES = PICTURE_TYPES | REGION_TYPES | PAIR_TYPES
