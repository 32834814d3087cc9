"""Which of a case's choices an answer in free words means."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_lowercase

# Sentences that are so or not come without letters: "a" is no way to say yes.
WITHOUT_LETTERS = frozenset(("yes", "no", "true", "false"))
LETTER = re.compile(r"\(?([a-z])[).:]*")  # B, (B), B.
LETTER_AND_WORDS = re.compile(r"(?:\(([a-z])\)[.:]?|([a-z])[).:])\s+(.+)")  # (B) a dog; "a dog" not
GOES_ON = re.compile(r"[\w'’/|-]")  # behind a word that is not over yet


def choice_in(answer: str, choices: Sequence[str]) -> str:
    """The choice that an answer means, or the answer itself where it means none.

    In this order: the same words; a letter, alone or before words that are not another choice's;
    whole words that it begins with, of several such choices the longest.
    """
    if answer.strip() in choices:
        return answer.strip()
    clean, known = plain(answer), [plain(choice) for choice in choices]
    if not clean:
        return answer
    if clean in known:
        return choices[known.index(clean)]
    place = lettered(" ".join(answer.lower().split()), known)
    if place is not None:
        return choices[place]
    starts = [n for n, words in enumerate(known) if words and begins_with(clean, words)]
    return choices[max(starts, key=lambda n: len(known[n]))] if starts else answer


def plain(text: str) -> str:
    """Lowercased, spaces single, without quotes, stars and a full stop around it."""
    return " ".join(text.lower().split()).strip(" .\"'`*")


def begins_with(text: str, words: str) -> bool:
    """Whether a text begins with these words, the last not cut: "cathedral" begins with no cat."""
    rest = text.removeprefix(words)
    return rest != text and GOES_ON.match(rest) is None


def lettered(answer: str, known: Sequence[str]) -> int | None:
    """The place that a letter names; None where there is none, or where the words behind it are
    those of another choice."""
    if set(known) <= WITHOUT_LETTERS:
        return None
    words = None
    if found := LETTER.fullmatch(answer.strip("*")):
        letter = found[1]
    elif found := LETTER_AND_WORDS.fullmatch(answer):
        letter, words = found[1] or found[2], plain(found[3])
    else:
        return None
    place = ascii_lowercase.index(letter)
    if place >= len(known) or (words in known and words != known[place]):
        return None
    return place
