"""What the paintings' model knows must hold for pictures painted by another hand."""

from collections import Counter
from pathlib import Path

import numpy as np
import other_painter
import pytest
import torch

from adapters.build import build
from adapters.defaults import folder_of
from adapters.images import load_image

PICTURES = range(40)  # seeds
THINGS_ASKED = 2  # of each picture
# the least share of right answers
BARS = {"what": 0.95, "colour": 0.95, "kind": 0.95, "count": 0.8}
LEAST_OVERLAP = 0.88  # mean intersection over union of the region that one click gives
MOST_UNFAMILIAR = 0.1  # share of these pictures

pytestmark = pytest.mark.skipif(
    not folder_of("paintings").is_dir(),
    reason="NO WEIGHTS HERE: nothing was asked about other painters' pictures",
)


def a(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


def counted(things, seed):
    """(question, answer): how many of one kind, of one colour, or at all."""
    thing = things[seed % len(things)]
    name = ("kind", "colour", "all")[seed % 3]
    if name == "all":
        return "how many things are there?", str(len(things))
    value = getattr(thing, name)
    plural = {"kind": value if value == "fish" else f"{value}s", "colour": f"{value} things"}
    number = Counter(getattr(other, name) for other in things)[value]
    return f"how many {plural[name]} are there?", str(number)


def overlap(region_mask, other):
    return (region_mask & other).sum().item() / (region_mask | other).sum().item()


@pytest.fixture(scope="module")
def seen():
    """What was asked: type -> (picture, question, answer, right answer); and what was seen."""
    assistant = build("paintings")
    asked, overlaps, familiar = {name: [] for name in BARS}, [], []
    for seed in PICTURES:
        picture, things = other_painter.paint(seed)
        view = assistant.encode(torch.from_numpy(np.array(picture)))
        familiar.append(view.familiar)
        for thing in things[:THINGS_ASKED]:
            region = view.click(*thing.click)
            overlaps.append(overlap(region.region_mask, torch.from_numpy(thing.region_mask)))
            for name, question, right in (
                ("what", "what is this?", a(f"{thing.colour} {thing.kind}")),
                ("colour", "what colour is this?", thing.colour),
                ("kind", "what kind of object is this?", a(thing.kind)),
            ):
                asked[name].append((seed, question, view.ask(question, [region]), right))
        question, right = counted(things, seed)
        asked["count"].append((seed, question, view.ask(question), right))
    return asked, overlaps, familiar


@pytest.mark.parametrize("name", BARS)
def test_answers_carry_over(seen, name):
    asked = seen[0][name]
    wrong = [entry for entry in asked if entry[2].strip() != entry[3]]
    assert 1 - len(wrong) / len(asked) >= BARS[name], wrong


def test_one_click_finds_the_thing(seen):
    overlaps = seen[1]
    assert sum(overlaps) / len(overlaps) >= LEAST_OVERLAP


def test_the_pictures_are_familiar(seen):
    assert seen[2].count(False) / len(seen[2]) <= MOST_UNFAMILIAR


def test_photos_are_not_familiar():
    """Those of the folder beside the project, where it is."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    photos = sorted(file for file in folder.glob("coco*/**/*.jpg"))[::6][:50]
    if not photos:
        pytest.skip("there are no photos beside the project")
    assistant = build("paintings")
    familiar = [file.name for file in photos if assistant.encode(load_image(file)).familiar]
    assert len(familiar) <= 0.05 * len(photos), familiar
