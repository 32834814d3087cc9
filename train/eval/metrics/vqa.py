"""VQA accuracy: an answer is right as far as three of ten people gave it.

Two scripts are in use and differ. `official` is GT-Vision-Lab's (the leaderboard's); `lavis` is the
port that BLIP-2's authors ran. Both compare with nine of the ten answers at a time and take the
mean. Quirks they share, kept: a full stop goes unless a digit follows, at most 32 of them; a
hyphen becomes a space, or nothing where any sign stands beside a space; "none" is 0, and only
numbers up to ten become digits. Where they differ: the official script cleans both sides alike, and
neither when all ten people agree ("two" is then right). LAVIS' cleans all of the model's answer but
only the signs of people's, so that a model that says "two" as everyone did gets 0.

One quirk of both is not kept: of "the", "?" or no answer cleaning leaves nothing, which equals what
it leaves of "a". Such an answer is right only where people gave that very one, and none never is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

# The contractions that annotators write without an apostrophe, or with only one of two.
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were"
    " wo would",
    "'ve": "could might must not should they we what where who would you I",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
}
CONTRACTIONS = {
    stem + ending.replace("'", ""): stem + ending
    for ending, stems in _ENDINGS.items()
    for stem in stems.split()
} | {
    "Im": "I'm", "maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all",
    "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at",
    "somebody'd": "somebodyd", "yall'll": "y'all'll", "y'allll": "y'all'll",
    "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
}  # fmt: skip
CONTRACTIONS |= {  # two at once, either apostrophe missing: couldnt've, couldn'tve
    broken: f"{stem}{first}'ve"
    for first, stems in {
        "n't": "could had might should would",
        "'d": "he I it she somebody someone something there they we who you",
    }.items()
    for stem in stems.split()
    for broken in (f"{stem}{first.replace(chr(39), '')}'ve", f"{stem}{first}ve")
}
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
ARTICLES = ("a", "an", "the")
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
MOST_STOPS = 32  # the script passes a flag where `count` stands
STOP = re.compile(r"\.(?!\d)")
DIGIT_COMMA = re.compile(r"\d,\d")


def normalise(answer: str) -> str:
    """An answer without signs and articles, numbers as digits: as the scripts compare it."""
    kept = (NUMBERS.get(word, word) for word in without_signs(answer).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ARTICLES)


def without_signs(answer: str) -> str:
    """The first half of `normalise`, all that LAVIS does to people's answers."""
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    glue = DIGIT_COMMA.search(text) is not None
    clean = text
    for sign in SIGNS:
        beside_space = f"{sign} " in text or f" {sign}" in text
        clean = clean.replace(sign, "" if beside_space or glue else " ")
    return STOP.sub("", clean, count=MOST_STOPS)


def accuracy(prediction: str, answers: Sequence[str], script: str = "official") -> float:
    """VQA accuracy of one answer, in [0, 1]. script: "official" or "lavis"."""
    prediction = " ".join(prediction.replace("\t", " ").split("\n")).strip()
    people = [answer.replace("\n", " ").replace("\t", " ").strip() for answer in answers]
    disagree = len(set(people)) > 1
    if not prediction:
        return 0.0
    if not normalise(prediction):
        people, prediction = [answer.lower() for answer in people], prediction.lower()
    else:
        if disagree:
            clean = normalise if script == "official" else without_signs
            people = [clean(answer) for answer in people]
        if disagree or script == "lavis":
            prediction = normalise(prediction)
    said = Counter(people)[prediction]
    # Each person is compared with the others: who gave this very answer does not count himself.
    others = [said - (answer == prediction) for answer in people]
    return sum(min(1.0, count / 3) for count in others) / max(1, len(people))


def matches(prediction: str, answers: Sequence[str]) -> float:
    """A-OKVQA's own rule: as VQA's, but against all ten at once and nothing is cleaned."""
    return min(1.0, sum(prediction == answer for answer in answers) / 3)
