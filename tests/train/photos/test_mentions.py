"""What captions agree on."""

import pytest

from train.photos.lines import PIECES, short_notes
from train.photos.mentions import Captions
from train.photos.names import plural, with_article
from train.photos.regions import clean, head_of


def test_what_two_captions_name_is_there():
    said = Captions(("a dog runs", "the dog is wet", "a man walks"))
    assert "dog" in said.there()
    assert "man" not in said.there()


def test_nothing_is_called_absent_that_a_caption_leaves_open():
    said = Captions(("an animal runs on the shore", "something runs"))
    for name in ("dog", "animal", "beach", "water"):
        assert name not in said.absent()
    assert "train" in said.absent()
    skiing = Captions(("a skier jumps", "he is in the air"))
    for name in ("person", "man", "snow", "hat"):
        assert name not in skiing.absent()


@pytest.mark.parametrize(
    ("texts", "counts"),
    [
        (("two black dogs run", "two dogs play"), {"dog": 2}),
        (("two dogs run", "three dogs play"), {}),
        (("two dogs run", "the dogs play", "a pair of two dogs"), {"dog": 2}),
        (("two dogs run", "the dogs play"), {}),
        (("a dog", "a dog", "a dog", "the dogs play"), {}),
        (("two dogs run", "two dogs", "a dog and another dog"), {}),
        (("a dog runs", "a dog", "a big dog runs"), {"dog": 1}),
        (("a dog runs", "a dog", "a dog and another dog"), {}),
        (("a dog runs", "a dog runs"), {}),  # two people may both overlook the other one
        (("four young men sit", "four men"), {"man": 4}),
    ],
)
def test_numbers_are_what_captions_agree_on(texts, counts):
    assert Captions(texts).counts() == counts


@pytest.mark.parametrize(
    ("texts", "colours"),
    [
        (("a black dog runs", "the black dog"), {"dog": "black"}),
        (("a black dog runs", "a brown dog"), {}),
        (("a black and white dog", "a black dog", "a black dog"), {}),
        (("a gray car", "a grey car"), {"car": "grey"}),
        (("a red ball bag", "a red ball"), {}),
    ],
)
def test_colours_are_what_captions_agree_on(texts, colours):
    found = Captions(texts).colours()
    assert {name: colour for name, colour in found.items() if name in ("dog", "car")} == {
        name: colour for name, colour in colours.items() if name in ("dog", "car")
    }


def test_the_words_that_most_captions_hold_come_first():
    said = Captions(("a dog runs in the snow", "the dog plays", "a brown dog in snow"))
    assert said.content(2) == "dog snow"


@pytest.mark.parametrize(
    ("expression", "head"),
    [
        ("red car on the left", ("car", "red")),
        ("the small black dog", ("dog", "black")),
        ("left giraffe", ("giraffe", None)),
        ("guy in blue", ("person", None)),
        ("white shirt dark pants", (None, None)),
        ("water glass", (None, None)),
        ("car door", (None, None)),
        ("right orange second row", (None, None)),
        ("gray teddy bear", ("teddy bear", "grey")),
    ],
)
def test_the_name_in_an_expression_is_taken_where_it_is_plain(expression, head):
    assert head_of(expression) == head


def test_expressions_lose_the_leftovers_of_the_game():
    assert clean(" woman in redclick the ") == "woman in red"


def test_articles_and_plurals():
    assert [with_article(name) for name in ("apple", "dog", "skis", "uniform", "hair")] == [
        "an apple", "a dog", "skis", "a uniform", "hair",
    ]  # fmt: skip
    assert [plural(name) for name in ("tennis racket", "knife", "sheep", "bus", "baby")] == [
        "tennis rackets", "knives", "sheep", "buses", "babies",
    ]  # fmt: skip


def test_long_notes_are_cut_to_what_fits():
    assert short_notes("dog snow running") == "dog snow running"
    assert len(short_notes("word " * 40).split()) == PIECES
