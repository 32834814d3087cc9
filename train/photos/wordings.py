"""How people ask about photos: many wordings of each question to learn, and six apart to test with.

{s} is what is asked for, {a} the same with its article, {m} in the plural. TRAIN and TEST share no
wording, whatever their capitals and marks: `bare` is what is compared.
"""

from __future__ import annotations

import re

import numpy as np

from train.scenes.wordings import roughen

TRAIN: dict[str, tuple[str, ...]] = {
    "what": (  # of one region
        *("what is this?", "what is this?", "what's this?", "whats this"),  # what people ask most
        "what is that?",
        "what is it?",
        "what is region 1?",
        "name the thing",
        "name this object",
        "name it",
        "what kind of object is it?",
        "what object is this?",
        "what do you see here?",
        "what is in this region?",
        "what is shown here?",
        "identify this",
        "identify region 1",
        "what am i pointing at?",
        "what do you call this?",
        "this is a what?",
        "what is this thing called?",
        "say what this is",
        "what thing is this?",
        "can you name this?",
        "do you know what this is?",
        "what did i mark?",
    ),
    "colour": (  # of one region
        "what colour is it?",
        "what color is it?",
        "what colour is this?",
        "what color is this?",
        "what colour is region 1?",
        "what color is region 1?",
        "which colour is it?",
        "what is its colour?",
        "what is its color?",
        "what is the colour of this?",
        "what is the color of this thing?",
        "colour?",
        "color?",
        "its colour?",
        "whats the color",
        "name the colour",
        "what color does it have?",
        "what colour does this have?",
        "which color is this?",
        "tell me its colour",
        "what colour is this object?",
        "what color is the thing i marked?",
    ),
    "colour of": (  # of a thing that is named
        "what colour is the {s}?",
        "what color is the {s}?",
        "which colour is the {s}?",
        "what is the colour of the {s}?",
        "what is the color of the {s}?",
        "colour of the {s}?",
        "color of the {s}",
        "whats the color of the {s}",
        "the {s}, what colour is it?",
        "what color does the {s} have?",
        "what colour has the {s}?",
        "tell me the colour of the {s}",
        "which color is the {s}?",
        "name the color of the {s}",
        "the {s} is what colour?",
    ),
    "exist": (
        "is there {a}?",
        "is there {a} in the picture?",
        "is there {a} in the image?",
        "is there {a} in this photo?",
        "is there {a} here?",
        "can you see {a}?",
        "do you see {a}?",
        "do you see any {m}?",
        "are there any {m}?",
        "are there any {m} in the image?",
        "are there {m} in the picture?",
        "any {m} here?",
        "any {m}?",
        "does the picture show {a}?",
        "does this photo have {a} in it?",
        "is {a} visible?",
        "is {a} in the photo?",
        "have we got {a} here?",
        "{a}, is there one?",
        "is there a {s} or not?",
        "see {a} anywhere?",
        "does this image contain {a}?",
    ),
    "count": (
        "how many {m} are there?",
        "how many {m} are in the picture?",
        "how many {m} are in the image?",
        "how many {m}?",
        "how many {m} do you see?",
        "how many {m} can you see?",
        "how many {m} are here?",
        "how many {m} does the photo show?",
        "how many {m} are in this photo?",
        "count the {m}",
        "count the {m} please",
        "what is the number of {m}?",
        "number of {m}?",
        "can you count the {m}?",
        "there are how many {m}?",
        "tell me how many {m} there are",
        "how many {m} have we got?",
        "give me the number of {m}",
    ),
    "describe": (  # the whole picture
        "describe the picture",
        "describe this photo",
        "describe the image",
        "describe it",
        "what is in the picture?",
        "what is in this image?",
        "what do you see?",
        "what can you see in this picture?",
        "what does the picture show?",
        "what is shown in this photo?",
        "write a caption",
        "caption this",
        "give me a caption",
        "what is happening?",
        "what is happening in this photo?",
        "what is going on here?",
        "whats in this photo",
        "tell me about this picture",
        "what is this a picture of?",
        "what is the photo about?",
        "say in one sentence what you see",
    ),
    "expression": (  # one region, told from others
        "describe this",
        "describe region 1",
        "describe this region",
        "describe the object",
        "describe what i marked",
        "which one is this?",
        "which one is region 1?",
        "tell me about this",
        "tell me about region 1",
        "what does it look like?",
        "what does this look like?",
        "how would you describe it?",
        "put this into words",
        "which one did i click?",
        "say which one this is",
    ),
    "kind": (  # {s}: of what it is a kind
        "what kind of {s} is this?",
        "what kind of {s} is it?",
        "which {s} is this?",
        "what sort of {s} is this?",
        "what type of {s} is it?",
        "what {s} is this?",
        "which kind of {s} is it?",
        "name the kind of {s}",
        "what {s} is it?",
        "do you know which {s} this is?",
        "what type of {s} is shown?",
        "{s}, but which one?",
        "the kind of {s}?",
        "tell me which {s} it is",
        "what sort of {s} do you see?",
    ),
    "statement": (  # {s}: a statement without its full stop
        "is it true that {s}?",
        "true or not: {s}?",
        "is it right that {s}?",
        "{s}, yes or no?",
        "{s}?",
        "{s}, is that so?",
        "would you say that {s}?",
        "can one say that {s}?",
        "{s}, isn't it?",
        "{s}, true?",
        "is this correct: {s}?",
        "does the picture show that {s}?",
        "{s}, do you agree?",
        "{s}, right?",
        "do you think that {s}?",
    ),
}
TEST: dict[str, tuple[str, ...]] = {
    "what": (
        "what have i clicked on?",
        "tell me what this is",
        "what would you say this is?",
        "which object is it?",
        "what's the name of this thing?",
        "what are we looking at here?",
    ),
    "colour": (
        "can you tell me what colour this is?",
        "which color does it have?",
        "what's the colour here?",
        "say its color",
        "in what colour is it?",
        "how is it coloured?",
    ),
    "colour of": (
        "can you tell me what colour the {s} is?",
        "which color does the {s} have?",
        "what's the colour of the {s} here?",
        "say the color of the {s}",
        "in what colour is the {s}?",
        "how is the {s} coloured?",
    ),
    "exist": (
        "can {a} be seen?",
        "does {a} appear in the picture?",
        "could you tell me if there is {a}?",
        "do any {m} appear here?",
        "is {a} to be seen in this photo?",
        "i wonder if there is {a}",
    ),
    "count": (
        "what's the count of {m}?",
        "could you say how many {m} are shown?",
        "in total, how many {m}?",
        "how many {m} appear in this picture?",
        "how large is the number of {m}?",
        "please count all {m}",
    ),
    "describe": (
        "what's this picture of?",
        "can you describe what is in the photo?",
        "give a short description",
        "sum up this image",
        "what can be seen?",
        "what am i looking at?",
    ),
    "expression": (
        "can you describe this one?",
        "how could i tell it from the others?",
        "give me a description of this",
        "what can you say about it?",
        "explain which one this is",
        "which of them is it?",
    ),
    "kind": (
        "can you say what kind of {s} this is?",
        "what would you call this {s}?",
        "which type of {s} are we looking at?",
        "i'd like to know which {s} this is",
        "what's the kind of {s} here?",
        "the {s} here is of which sort?",
    ),
    "statement": (
        "would it be true to say that {s}?",
        "tell me if {s}",
        "is it the case that {s}?",
        "i think {s}. am i right?",
        "check this: {s}",
        "{s}: correct or wrong?",
    ),
}


def bare(wording: str) -> str:
    """A wording without capitals, marks and doubled spaces."""
    return " ".join(re.sub(r"[^a-z0-9{} ]", "", wording.lower()).split())


def fill(wording: str, s: str = "", a: str = "", m: str = "") -> str:
    return wording.replace("{s}", s).replace("{a}", a).replace("{m}", m)


def ask(
    rng: np.random.Generator,
    kind: str,
    times: int,
    s: str = "",
    a: str = "",
    m: str = "",
    marked: bool = True,
) -> list[str]:
    """`times` different wordings of one question, typed as people type. marked: whether there is a
    region that may be named."""
    options = [wording for wording in TRAIN[kind] if marked or "region" not in wording]
    options = list(dict.fromkeys(options)) if times > 1 else options
    order = rng.permutation(len(options))[:times]
    return [as_typed(fill(options[i], s, a, m), rng) for i in order]


def as_typed(text: str, rng: np.random.Generator) -> str:
    """With a capital or not, without its question mark, polite, with a slip of the finger."""
    text = roughen(text, rng)
    return text[:1].upper() + text[1:] if rng.random() < 0.4 else text
