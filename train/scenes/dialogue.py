"""Dialogues over painted scenes: which questions are asked of a picture, turn after turn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from train.scenes import wordings
from train.scenes.questions import (
    PAIR_TYPES,
    PICTURE_TYPES,
    REGION_TYPES,
    Question,
    a,
    describe,
    marks,
    place_of,
)
from train.scenes.render import paint
from train.scenes.scene import COLOURS, HELD_OUT, KINDS, Item, Scene, sample_scene
from train.scenes.wordings import PLURAL, pick, roughen

# How often a type is asked within its group. What lies in a region is learned first and fast; the
# slow skills (place, count, comparison) then need the questions.
WEIGHTS = {
    "caption": 1.2, "count": 2.0, "exist": 1.6, "biggest": 1.0, "where": 1.0,
    "what": 1.5, "colour": 0.6, "kind": 0.8, "texture": 0.9, "size": 0.7, "describe": 1.8,
    "verify": 0.6, "beside": 1.6, "others": 1.4, "region_where": 0.5,
    "bigger": 1.0, "same_colour": 0.8, "same_kind": 0.9, "relation": 1.2,
}  # fmt: skip
# The mix by the progress of stage 2: what is learned already is asked less.
MIXES = (
    (0.0, WEIGHTS),
    (0.2, {
        "caption": 1.0, "count": 2.0, "exist": 2.0, "biggest": 0.7, "where": 2.0,
        "what": 0.7, "colour": 0.2, "kind": 0.4, "texture": 0.5, "size": 0.3, "describe": 0.9,
        "verify": 1.6, "beside": 1.6, "others": 1.6, "region_where": 1.6,
        "bigger": 1.0, "same_colour": 1.2, "same_kind": 1.0, "relation": 2.0,
    }),
    (0.35, {
        "caption": 1.0, "count": 2.0, "exist": 2.2, "biggest": 0.3, "where": 1.5,
        "what": 0.4, "colour": 0.1, "kind": 0.2, "texture": 0.4, "size": 0.1, "describe": 0.6,
        "verify": 2.5, "beside": 2.0, "others": 2.0, "region_where": 0.2,
        "bigger": 1.2, "same_colour": 1.2, "same_kind": 1.2, "relation": 1.4,
    }),
    (0.625, {
        "caption": 1.6, "count": 2.6, "exist": 1.0, "biggest": 0.3, "where": 0.6,
        "what": 0.4, "colour": 0.1, "kind": 0.2, "texture": 0.4, "size": 0.1, "describe": 0.5,
        "verify": 2.2, "beside": 2.2, "others": 2.2, "region_where": 0.2,
        "bigger": 0.5, "same_colour": 1.4, "same_kind": 1.4, "relation": 1.4,
    }),
)  # fmt: skip

# Types whose answer follows from what is noted about their regions: often no more is noted then.
TOLD = {
    *("what", "colour", "kind", "texture", "size", "describe", "region_where"),
    *("verify", "same_colour", "same_kind"),
}


@dataclass(frozen=True)
class Turn:
    """A question as it is put (roughened), and the question before it in the dialogue, if any."""

    question: Question
    text: str
    before: Turn | None = None


def painted_scene(rng: np.random.Generator, pairs: str = "seen"):
    """A scene with its picture and masks; the scene knows how much of each item is seen."""
    scene = sample_scene(rng, pairs)
    picture, masks = paint(scene)
    return dataclasses.replace(scene, areas=tuple(int(m.sum()) for m in masks)), picture, masks


def ask(
    scene: Scene, group: dict, rng: np.random.Generator, weights: dict[str, float] = WEIGHTS
) -> Question | None:
    """One question of a group of types that this scene can answer, if twenty tries find one."""
    names = list(group)
    chances = np.array([weights[name] for name in names])
    chances /= chances.sum()
    for _ in range(20):
        question = group[names[int(rng.choice(len(names), p=chances))]](scene, rng)
        if question is not None:
            return question
    return None


def turns_of(
    scene: Scene,
    rng: np.random.Generator,
    picture: int,
    region: int,
    pair: int,
    follow: int,
    weights: dict[str, float] = WEIGHTS,
) -> list[Turn]:
    """That many turns of each group, or fewer where the scene has none, and `follow` more that
    follow one of them."""
    groups = [(PICTURE_TYPES, picture), (REGION_TYPES, region), (PAIR_TYPES, pair)]
    asked = [ask(scene, group, rng, weights) for group, count in groups for _ in range(count)]
    turns = [Turn(q, roughen(q.text, rng)) for q in asked if q is not None]
    openings = [t for t in turns if len(t.question.regions) == 1 or t.question.type == "count"]
    for _ in range(follow if openings else 0):
        before = openings[int(rng.integers(len(openings)))]
        question = follow_up(scene, before.question, rng)
        if question is not None:
            turns.append(Turn(question, roughen(question.text, rng), before))
    return turns


def follow_up(scene: Scene, before: Question, rng) -> Question | None:
    """A short second turn that means something only after `before`."""
    if before.type == "count" and rng.random() < 0.9:
        return _count_again(scene, before, rng)
    if len(before.regions) != 1:
        return None
    asked = before.regions[0]
    if before.type in wordings.BACK and len(scene.items) > 1 and rng.random() < 0.3:
        # the same of another region
        other = pick(rng, [k for k in range(len(scene.items)) if k != asked])
        if before.type == "size" and not scene.items[other].clear_size:
            return None
        name = f"region {int(before.names[0].split()[1]) + 1}"
        answer = _value(scene.items[other], before.type)
        text = pick(rng, wordings.AGAIN).replace("{1}", name)
        return Question("follow_up", text, answer, (other,), (name,), evidence=answer)
    attribute = pick(rng, [name for name in wordings.BACK if name != before.type])
    if attribute == "size" and not scene.items[asked].clear_size:
        return None
    answer = _value(scene.items[asked], attribute)
    text = pick(rng, wordings.BACK[attribute])
    return Question("follow_up", text, answer, before.regions, before.names, evidence=answer)


def _value(item: Item, attribute: str) -> str:
    return a(item.kind) if attribute == "kind" else getattr(item, attribute)


def _count_again(scene, before, rng):
    """ "how many red ones?" "and blue ones?"; None where more or less than one word was counted."""
    colour = next((c for c in COLOURS if f" {c} " in f" {before.text} "), None)
    kind = next((k for k in KINDS if PLURAL[k] in before.text), None)
    if (colour is None) == (kind is None):
        return None
    if colour:
        new = pick(rng, [i.colour for i in scene.items] + list(COLOURS[:3]))
        found = [i for i in scene.items if i.colour == new]
        text = pick(rng, wordings.COUNT_COLOUR).replace("{s}", new)
    else:
        new = pick(rng, [i.kind for i in scene.items] + list(KINDS[:3]))
        found = [i for i in scene.items if i.kind == new]
        text = pick(rng, wordings.COUNT_KIND).replace("{s}", PLURAL[new])
    return Question("follow_up", text, str(len(found)), evidence=marks(scene, found))


def misheard(answer: str, rng: np.random.Generator, share: float = 0.3) -> str:
    """The answer, in a `share` of the cases where it names one object with another colour, never
    one of a held-out pair. A model that reads this and must still say the right kind learns to
    look at the object, not to conclude from its colour."""
    words = answer.split()
    colours = [n for n, word in enumerate(words) if word in COLOURS]
    if len(colours) != 1 or colours[0] + 2 != len(words) or rng.random() >= share:
        return answer
    kind = words[-1]
    words[-2] = pick(rng, [c for c in COLOURS if (kind, c) not in HELD_OUT])
    return " ".join(words)


def heard(answer: str, tokenizer, rng: np.random.Generator) -> list[int]:
    """Ids of the answer, perhaps `misheard`; always as many as it has."""
    right, read = tokenizer(answer), tokenizer(misheard(answer, rng))
    return read if len(read) == len(right) else right


def notes_of(scene: Scene, question: Question) -> list[str]:
    """What an attentive reader who knows the question would note about the picture, and then about
    each region."""
    regions = (scene.items[i] for i in question.regions)
    return [
        question.evidence,
        *(f"{describe(item)} {place_of(item, 0.0) or ''}".strip() for item in regions),
    ]


def words_for(scene: Scene, question: Question, rng: np.random.Generator) -> dict[str, str]:
    """Words in the places of soft tokens, for a language model that has not seen a picture yet:
    the notes, those about the whole picture in any of the places."""
    evidence, *regions = notes_of(scene, question)
    sources = ["picture", *question.names]
    words = dict(zip(sources, ["", *regions], strict=True))
    if question.type not in TOLD or rng.random() < 0.3:
        source = sources[int(rng.integers(len(sources)))]
        words[source] = f"{words[source]} {evidence}".strip()
    return {source: text or "a picture" for source, text in words.items()}
