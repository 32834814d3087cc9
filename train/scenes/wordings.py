"""The words of questions: several phrasings for each type, and what people make of them.

{s} is what is asked for, {a} the same with its article, {m} in the plural; {b} a comparison; {r}
the region; {1} and {2} the names of two; {t} a word for things.
"""

from __future__ import annotations

import numpy as np

from train.scenes.scene import KINDS

THINGS = ("things", "objects", "shapes", "items")
PLURAL = {kind: kind + "s" for kind in KINDS} | {"fish": "fish"}

# ---- the whole picture

CAPTION = (
    "describe the picture",
    "what is in the picture?",
    "what do you see?",
    "describe this image",
    "what does the picture show?",
    "write a caption",
    "what is here?",
    "list the objects",
    "what is in this image?",
    "describe it",
    "what can you see in this picture?",
)
COUNT = (
    "how many {s} are there?",
    "how many {s} are in the picture?",
    "count the {s}",
    "how many {s}?",
    "how many {s} do you see?",
    "how many {s} can you see?",
    "what is the number of {s}?",
)
EXIST = (
    "is there {a}?",
    "is there {a} in the picture?",
    "do you see {a}?",
    "are there any {m}?",
    "any {m}?",
    "can you see {a}?",
    "does the picture show {a}?",
    "are there {m} in the picture?",
)
BIGGEST = (
    "which is the {b}?",
    "which object is the {b}?",
    "what is the {b} thing?",
    "which one is {b}?",
    "what is the {b} object?",
    "name the {b} thing",
)
WHERE = (
    "where is the {s}?",
    "where is the {s} in the picture?",
    "where do you see the {s}?",
    "in which part of the picture is the {s}?",
    "where can i find the {s}?",
)

# ---- one region

WHAT = (
    "what is {r}?",
    *("what is this?", "what is this?", "what's this?"),  # what people ask most
    "what is in this region?",
    "name this object",
    "what do you see here?",
    "what object is {r}?",
    "identify {r}",
    "what am i pointing at?",
)
COLOUR = (
    "what colour is {r}?",
    "what color is {r}?",
    "which colour is {r}?",
    "what is its colour?",
    "what is the colour of {r}?",
    "its colour?",
    "what is the color of {r}?",
    "colour?",
    "what color does it have?",
)
KIND = (
    "what shape is {r}?",
    "which shape is {r}?",
    "what kind of object is {r}?",
    "what is its shape?",
    "what is the shape of {r}?",
    "what kind of thing is {r}?",
    "shape?",
    "what type of object is {r}?",
)
TEXTURE = (
    "what texture is {r}?",
    "what is its texture?",
    "what is the texture of {r}?",
    "what pattern does it have?",
    "is {r} solid, striped or dotted?",
    "which pattern is on {r}?",
    "texture?",
    "what pattern is {r}?",
)
SIZE = (
    "how big is {r}?",
    "what size is {r}?",
    "how large is {r}?",
    "what is its size?",
    "size?",
    "is {r} small, medium or large?",
    "what is the size of {r}?",
)
DESCRIBE = (
    "describe {r}",
    "describe this",
    "describe this region",
    "describe the object",
    "tell me about {r}",
    "give a full description of {r}",
    "describe it in detail",
    "what does {r} look like?",
    "describe {r} fully",
)
VERIFY = ("is {r} {s}?", "is this {s}?", "is it {s}?")
BESIDE = {
    "next to": (
        "what is next to {r}?",
        "what is beside {r}?",
        "what is closest to {r}?",
        "what is nearest to {r}?",
    ),
    "left": ("what is to the left of {r}?", "what is left of {r}?", "what is on its left?"),
    "right": ("what is to the right of {r}?", "what is right of {r}?", "what is on its right?"),
    "above": ("what is above {r}?", "what is over {r}?", "what is on top of {r}?"),
    "below": ("what is below {r}?", "what is under {r}?", "what is beneath {r}?"),
}
OTHERS = {
    "colour": (
        "how many others share its colour?",
        "how many other {t} have the same colour?",
        "how many others have the colour of {r}?",
        "how many other {t} share its color?",
    ),
    "kind": (
        "how many others have the same shape?",
        "how many other {t} are of the same kind?",
        "how many others like {r} are there?",
        "how many others share its shape?",
    ),
}
REGION_WHERE = (
    "where is {r}?",
    "where in the picture is {r}?",
    "in which part of the picture is {r}?",
    "where is this?",
)

# ---- two regions

BIGGER = (
    "which is {b}?",
    "which one is {b}?",
    "which region is {b}?",
    "which is {b}, {1} or {2}?",
    "which of the two is {b}?",
)
SAME_COLOUR = (
    "are they the same colour?",
    "do they have the same colour?",
    "same colour?",
    "is {1} the same colour as {2}?",
    "do {1} and {2} have the same color?",
    "are both the same color?",
    "do these share a colour?",
)
SAME_KIND = (
    "are they the same kind?",
    "do they have the same shape?",
    "same shape?",
    "are {1} and {2} the same shape?",
    "are both the same kind of object?",
    "is {1} the same kind as {2}?",
    "are these the same thing?",
)
RELATION = (
    "where is {1} relative to {2}?",
    "where is {1} compared to {2}?",
    "where is {1} from {2}?",
    "how is {1} placed relative to {2}?",
    "on which side of {2} is {1}?",
)

# ---- turns that refer back

BACK = {
    "colour": (
        "and its colour?",
        "and the colour?",
        "what about its colour?",
        "and what colour is it?",
        "and its color?",
    ),
    "kind": ("and its shape?", "and the shape?", "what about its shape?", "and what shape is it?"),
    "texture": (
        "and its texture?",
        "and the pattern?",
        "what about its texture?",
        "and what pattern does it have?",
    ),
    "size": ("and its size?", "and the size?", "and how big is it?", "what about its size?"),
}
AGAIN = ("and this one?", "and {1}?", "what about {1}?", "and this?")  # the same of another region
COUNT_COLOUR = ("and {s} ones?", "and how many {s} ones?", "what about {s} ones?", "and {s}?")
COUNT_KIND = ("and {s}?", "and how many {s}?", "what about {s}?")

POLITE = ("please ", "hey, ", "can you tell me ", "tell me, ", "so ", "ok, ", "now ")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def pick(rng: np.random.Generator, options):
    """One of them, all alike."""
    return options[int(rng.integers(len(options)))]


def roughen(text: str, rng: np.random.Generator) -> str:
    """What people do to a question: no question mark, politeness, a slip of the finger."""
    if rng.random() < 0.25:
        text = text.rstrip("?")
    if rng.random() < 0.08:
        text = pick(rng, POLITE) + text
    if rng.random() < 0.04:
        i = int(rng.integers(len(text)))
        if rng.random() < 0.5:
            text = text[:i] + text[i + 1 :]
        else:
            text = text[:i] + pick(rng, LETTERS) + text[i:]
    return text
