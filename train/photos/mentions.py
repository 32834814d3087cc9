"""What the captions of a photo agree on: which things are there, how many, and of what colour.

Five people describe a photo each in one sentence. What two of them name is there. What none names
may still be there, so that a "no" is asked only of things that are hard to leave out, and only
where no caption holds a word that leaves it open: NOUNS says which words these are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from train.photos.colours import COLOURS, SPELLINGS
from train.photos.names import plural, words

TABLE = Path(__file__).parent / "nouns.txt"

# Things that are counted; a photo's captions must agree. "people" also counts whom others name.
COUNTED = tuple(
    sorted(
        words(
            "dog man woman boy girl horse bird player child person cat car bike boat puppy skier "
            "climber cow kid ball motorcycle lady hiker"
        )
    )
)
MANY, UNCLEAR = -1, 0
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
# What may stand between a number and what it counts, beside colours.
_DESCRIBING = words(
    "young little small large big tall old older elderly adult brown tan spotted furry smiling "
    "wet happy teenage asian african american blond blonde white black male female dirty fluffy"
)
_SINGULAR = {"a": 1, "an": 1} | NUMBERS
_OTHERS = words("another other others both each many several group five six pair")

STOP = words(
    "a an the in on of at with to and or is are was be being by for from into onto over under up "
    "down out off through while as it its his her their he she they them him that this these "
    "those there who which one two three four some another other each near next behind front "
    "around across along against has have having had not no very s t photo picture image"
)


@dataclass(frozen=True)
class Noun:
    name: str
    words: frozenset[str]  # each says that it is there
    open: frozenset[str]  # each leaves it open

    def there(self, words: Iterable[set[str]]) -> bool:
        """Whether two captions name it. words: of each caption."""
        return sum(bool(self.words & one) for one in words) >= 2

    def absent(self, words: Iterable[set[str]]) -> bool:
        """Whether no caption gives any reason to believe that it is there."""
        return not any((self.words | self.open) & one for one in words)


def read_nouns(text: str) -> dict[str, Noun]:
    """nouns.txt, as its head describes it."""
    groups: dict[str, list[str]] = {}
    found = {}

    def spread(said: str) -> frozenset[str]:
        return frozenset(one for word in said.split() for one in groups.get(word, [word]))

    for line in text.splitlines():
        if line.startswith("*"):
            name, said = line.split("=")
            groups[name.strip()] = said.split()
        elif not line.startswith("#"):
            name, said, others = (part.strip() for part in line.split("|"))
            found[name] = Noun(name, spread(said), spread(others))
    return found


NOUNS = read_nouns(TABLE.read_text())


@dataclass(frozen=True)
class Captions:
    """What people say of one photo."""

    texts: tuple[str, ...]

    @cached_property
    def tokens(self) -> list[list[str]]:
        return [re.findall(r"[a-z]+", text.lower()) for text in self.texts]

    @cached_property
    def words(self) -> list[set[str]]:
        return [set(tokens) for tokens in self.tokens]

    def there(self) -> list[str]:
        return [noun.name for noun in NOUNS.values() if noun.there(self.words)]

    def absent(self) -> list[str]:
        return [noun.name for noun in NOUNS.values() if noun.absent(self.words)]

    def counts(self) -> dict[str, int]:
        """How many of COUNTED there are, one to four, where at least two captions say so and none
        says otherwise; of one, which may be one of several, three and no word of another."""
        found = {}
        for name in COUNTED:
            said = [number_in(tokens, name) for tokens in self.tokens]
            numbers = {number for number in said if number is not None} - {MANY}
            if len(numbers) != 1 or numbers == {UNCLEAR}:
                continue
            number = numbers.pop()
            more = MANY in said or any(_OTHERS & one for one in self.words)
            if said.count(number) >= (2 if number > 1 else 3) and not (number == 1 and more):
                found[name] = number
        return found

    def colours(self) -> dict[str, str]:
        """The colour of things that are named once in a caption, always with it: two captions say
        it and none another."""
        said: dict[str, list[str | None]] = {}
        for tokens in self.tokens:
            for name in sorted(COLOURED & set(tokens)):
                said.setdefault(name, []).append(colour_before(tokens, name))
        found = {}
        for name, colours in said.items():
            counts = Counter(colour for colour in colours if colour is not None)
            if len(counts) == 1 and counts.total() >= 2:
                found[name] = next(iter(counts))
        return {name: colour for name, colour in found.items() if colour != "mixed"}

    def content(self, most: int = 8) -> str:
        """The words that most captions hold, most frequent first, without those of STOP."""
        counts = Counter(word for tokens in self.tokens for word in dict.fromkeys(tokens))
        order = [word for word, _ in counts.most_common() if word not in STOP]
        return " ".join(order[:most])


def number_in(tokens: Sequence[str], name: str) -> int | None:
    """How many of a thing one caption speaks of; MANY if of several without a number, UNCLEAR if of
    it twice, None if it tells nothing."""
    forms = {name, plural(name)}
    places = [n for n, word in enumerate(tokens) if word in forms]
    if not places:
        return None
    if len(places) > 1:
        return UNCLEAR
    start, lone = places[0], tokens[places[0]] == name
    while start and tokens[start - 1] in {*_DESCRIBING, *COLOURS, *SPELLINGS, "and"}:
        start -= 1
    number = _SINGULAR.get(tokens[start - 1]) if start else None
    if number is None:
        return None if lone else MANY
    return number if (number == 1) == lone else UNCLEAR


# Things with one colour; clothes are left out, since several people wear some.
COLOURED = words(
    "dog horse cat bird car bike ball frisbee toy truck boat bus umbrella couch helmet motorcycle "
    "surfboard kayak slide raft tent wall puppy building skateboard bench bicycle bull flag kite "
    "snowboard train cow canoe stick balloon swing chair poodle"
)


def colour_before(tokens: Sequence[str], name: str) -> str | None:
    """The colour word right before a thing; "mixed" for two of them, or two things."""
    places = [n for n, word in enumerate(tokens) if word == name]
    colours = []
    for place in places:
        word = tokens[place - 1] if place else ""
        colour = SPELLINGS.get(word, word)
        if colour not in COLOURS:
            colours.append(None)
        elif place >= 2 and tokens[place - 2] in {"and", *COLOURS, "tan", "dark", "light"}:
            colours.append("mixed")
        else:
            colours.append(colour)
    if len(places) > 1:
        return "mixed"
    after = tokens[places[0] + 1 : places[0] + 2]  # "a red fire truck", "a black dog toy"
    return None if after and after[0] in COLOURED else colours[0]
