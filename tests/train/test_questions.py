"""Each type's answers on a scene built by hand, against tables written by hand."""

import numpy as np
import pytest

from train.scenes.dialogue import (
    MIXES,
    follow_up,
    misheard,
    turns_of,
    words_for,
)
from train.scenes.questions import TYPES, Question, place_of
from train.scenes.scene import COLOURS, HELD_OUT, KINDS, TEXTURES, Item, Scene
from train.scenes.wordings import PLURAL, POLITE, roughen

SCENE = Scene(
    (
        Item("star", "red", "solid", 0.18, 0.20, 0.19),
        Item("cat", "blue", "striped", 0.84, 0.20, 0.084),
        Item("fish", "red", "dotted", 0.22, 0.72, 0.12),
        Item("star", "green", "solid", 0.82, 0.82, 0.069),
    ),
    200,
    200,
    seed=0,
)
NAMES = ["a red star", "a blue cat", "a red fish", "a green star"]
PLACES = ["top left", "top right", "bottom left", "bottom right"]
TABLES = {
    "what": NAMES,
    "colour": ["red", "blue", "red", "green"],
    "kind": ["a star", "a cat", "a fish", "a star"],
    "texture": ["solid", "striped", "dotted", "solid"],
    "size": ["large", "small", "medium", "small"],
    "describe": [
        "a large red star",
        "a small striped blue cat",
        "a medium dotted red fish",
        "a small green star",
    ],
    "region_where": PLACES,
}
BESIDE_THE_RED_STAR = {
    ("next to", "beside", "closest", "nearest"): "a red fish",
    ("right",): "a blue cat",
    ("below", "under", "beneath"): "a red fish",
    ("left", "above", "over", "on top"): "nothing",
}
RELATIONS = {
    (0, 1): "to the left",
    (1, 0): "to the right",
    (0, 2): "above",
    (2, 0): "below",
    (1, 3): "above",
    (3, 1): "below",
    (2, 3): "to the left",
    (3, 2): "to the right",
}


def words(text):
    return text.replace("?", "").replace(",", "").split()


def matching(text):
    """How many items a text's colour, kind and texture fit."""
    said = set(words(text))
    kinds = {kind for kind in KINDS if {kind, PLURAL[kind]} & said}
    return sum(
        item.colour in (said & set(COLOURS) or {item.colour})
        and item.kind in (kinds or {item.kind})
        and item.texture in (said & set(TEXTURES) or {item.texture})
        for item in SCENE.items
    )


def right_answer(question):
    """What somebody who looks at SCENE would say; None where the tables do not tell."""
    text, regions = question.text, question.regions
    match question.type:
        case "caption":
            return "a red star, a red fish, a green star and a blue cat"
        case "count":
            return str(matching(text))
        case "exist":
            return "yes" if matching(text) else "no"
        case "biggest":
            return (
                "the green star" if {"smallest", "tiniest"} & set(words(text)) else "the red star"
            )
        case "where":
            return next(
                place
                for name, place in zip(NAMES, PLACES, strict=True)
                if name[2:] in text or (name[2:].split()[1] in text and "star" not in text)
            )
        case "verify":
            item = SCENE.items[regions[0]]
            fits = {item.colour, item.kind, item.texture}
            return "yes" if words(text)[-1] in fits else "no"
        case "beside":
            if regions[0] != 0:
                return None
            return next(
                a for ways, a in BESIDE_THE_RED_STAR.items() if any(w in text for w in ways)
            )
        case "others":
            table = [1, 0, 1, 0] if "colo" in text else [1, 0, 0, 1]
            return str(table[regions[0]])
        case "bigger":
            order = [3, 1, 2, 0]  # from small to large
            first = order.index(regions[0]) > order.index(regions[1])
            return question.names[0 if first != ("smaller" in text) else 1]
        case "same_colour":
            return "yes" if set(regions) == {0, 2} else "no"
        case "same_kind":
            return "yes" if set(regions) == {0, 3} else "no"
        case "relation":
            first, second = regions
            if (text.index(question.names[0]) > text.index(question.names[1])) != (
                "which side" in text
            ):
                first, second = second, first
            return RELATIONS[first, second]
    return TABLES[question.type][regions[0]]


@pytest.mark.parametrize("type", TYPES)
def test_every_answer_is_right(type):
    told, texts = 0, set()
    for seed in range(250):
        question = TYPES[type](SCENE, np.random.default_rng(seed))
        if question is None:
            continue
        expected = right_answer(question)
        assert expected in (None, question.answer), question
        told += expected is not None
        texts.add(question.text)
        assert question.type == type
        assert len(question.regions) == len(question.names)
        assert "{" not in question.text
    assert told >= 30
    assert len(texts) >= 5


def test_every_type_has_a_weight():
    for _, weights in MIXES:
        assert set(weights) == set(TYPES)


def test_nothing_is_asked_where_the_answer_is_in_doubt():
    between = Scene((Item("cat", "red", "solid", 0.5, 0.5, 0.098),), 100, 100, 0)
    on_the_line = Scene((Item("cat", "red", "solid", 0.34, 0.5, 0.12),), 100, 100, 0)
    hidden = Scene((Item("cat", "red", "solid", 0.5, 0.5, 0.12),), 100, 100, 0, areas=(3,))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert TYPES["size"](between, rng) is None
        assert TYPES["describe"](between, rng) is None
        assert TYPES["where"](on_the_line, rng) is None
        assert TYPES["region_where"](on_the_line, rng) is None
        assert TYPES["what"](hidden, rng) is None
        assert TYPES["bigger"](between, rng) is None
    assert place_of(on_the_line.items[0]) is None


def asked_again(before):
    turns = (follow_up(SCENE, before, np.random.default_rng(seed)) for seed in range(150))
    return [turn for turn in turns if turn is not None]


def test_a_follow_up_asks_another_attribute_or_another_region():
    before = Question("colour", "what colour is this?", "red", (0,), ("region 1",))
    seen = set()
    for turn in asked_again(before):
        assert turn.type == "follow_up"
        if turn.regions == (0,):
            attribute = next(
                name
                for name, marks in {
                    "kind": ("shape",),
                    "texture": ("texture", "pattern"),
                    "size": ("size", "big"),
                }.items()
                if any(mark in turn.text for mark in marks)
            )
            assert turn.answer == TABLES[attribute][0]
            assert turn.names == ("region 1",)
            seen.add(attribute)
        else:
            assert turn.names == ("region 2",)
            assert turn.answer == TABLES["colour"][turn.regions[0]]
            seen.add("another")
    assert seen == {"kind", "texture", "size", "another"}


def test_a_follow_up_counts_others():
    for text in ("how many red things are there?", "how many stars are there?"):
        turns = asked_again(Question("count", text, "2"))
        assert len({turn.text for turn in turns}) > 3
        for turn in turns:
            assert turn.answer == str(matching(turn.text)), turn
            assert turn.regions == ()


@pytest.mark.parametrize("text", ["how many things are there?", "how many red stars are there?"])
def test_what_cannot_be_followed_up_is_not(text):
    assert asked_again(Question("count", text, "2")) == []
    assert asked_again(Question("same_kind", "same?", "no", (0, 1), ("region 1", "region 2"))) == []


def test_turns_follow_turns_of_the_same_dialogue():
    for seed in range(20):
        turns = turns_of(SCENE, np.random.default_rng(seed), 2, 3, 1, 2)
        for turn in turns:
            if turn.question.type == "follow_up":
                assert any(turn.before is other for other in turns)
                assert turn.before.before is None


def test_words_in_the_places_of_soft_tokens_tell_the_answer():
    question = TYPES["count"](SCENE, np.random.default_rng(0))
    assert words_for(SCENE, question, np.random.default_rng(0)) == {"picture": question.evidence}
    question = Question("texture", "?", "dotted", (2,), ("region 3",), "dotted")
    for seed in range(10):
        told = words_for(SCENE, question, np.random.default_rng(seed))
        assert set(told) == {"picture", "region 3"}
        assert told["region 3"].startswith("medium dotted red fish bottom left")


def one_slip(a, b):
    """Whether b is a with at most one letter more or less."""
    short = min(len(a), len(b))
    front = next((i for i in range(short) if a[i] != b[i]), short)
    back = next((i for i in range(short - front) if a[-1 - i] != b[-1 - i]), short - front)
    return abs(len(a) - len(b)) <= 1 and front + back == short


def test_roughening_keeps_the_words():
    text = "what is to the left of region 2?"
    fair = [polite + end for polite in ("", *POLITE) for end in (text, text.rstrip("?"))]
    rough = [roughen(text, np.random.default_rng(seed)) for seed in range(400)]
    assert all(any(one_slip(one, other) for one in fair) for other in rough)
    assert sum(other in (text, text.rstrip("?")) for other in rough) > 300
    assert len(set(rough)) > 15


@pytest.mark.parametrize("type", ["count", "exist", "others"])
def test_what_is_counted_or_looked_for_is_marked_from_left_to_right(type):
    for seed in range(60):
        question = TYPES[type](SCENE, np.random.default_rng(seed))
        if question is None:
            continue
        left_to_right = [0, 2, 3, 1]
        marks = dict(zip(left_to_right, question.evidence.split(), strict=True))
        meant = [item for item, mark in marks.items() if mark == "yes"]
        assert question.answer in (str(len(meant)), "yes" if meant else "no")
        assert not set(meant) & set(question.regions)
        for name, item in zip(NAMES, range(4), strict=True):
            if name[2:] in question.text and type != "others":
                assert meant == [item]


def test_what_is_misheard_is_another_colour_of_no_held_out_pair():
    rng, heard = np.random.default_rng(0), []
    for kind in KINDS:
        for colour in COLOURS:
            if (kind, colour) not in HELD_OUT:
                heard += [(kind, colour, misheard(f"a small {colour} {kind}", rng, 1.0))] * 4
    changed = [(kind, colour, said) for kind, colour, said in heard if f" {colour} " not in said]
    assert len(changed) > len(heard) / 2
    for kind, _, said in changed:
        *start, new, last = said.split()
        assert (start, last) == (["a", "small"], kind)
        assert new in COLOURS
        assert (kind, new) not in HELD_OUT
    for answer in ("red", "yes", "a red star and a blue car", "3", "nothing"):
        assert misheard(answer, rng, 1.0) == answer
