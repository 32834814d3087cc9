"""Everything that comes from outside, changed at random: each case ends well or in a LoupeError, in
under 5 seconds, with less than 500 MB more than before.

A case follows from its area and a number; `make fuzz MINUTES=10 SEED=100000` runs more of them, and
FOUND holds those that once failed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
import wild

from adapters import coco
from adapters.build import build
from adapters.checkpoint import write_manifest
from adapters.images import load_image, load_region_mask
from demo import export
from demo.serve import form
from demo.serve.limits import Limits
from demo.session import Session
from qformer.contracts import LoupeError
from train.data.readers import READERS, STREAMED, read
from train.data.sample import Tally
from train.data.source import DataConfig
from train.recipe import read_recipe
from train.segmenter.data import read_pictures

MINUTES = float(os.environ.get("LOUPE_FUZZ_MINUTES", "0"))
SEED = int(os.environ.get("LOUPE_FUZZ_SEED", "0"))
SECONDS, MEGABYTES = 5.0, 500  # of one case
SHARE = 1.2  # seconds of an area where no minutes are given
SIZE = (40, 60)
NOISE = torch.randint(0, 256, (*SIZE, 3), generator=torch.Generator().manual_seed(0)).byte()
Area = Callable[[Random, Path], None]
FOUND: dict[str, tuple[int, ...]] = {  # and what was wrong then
    "instances": (948, 1020),  # file names that no file can have
    "checkpoints": (7, 9, 11),  # means and deviations that are no three numbers
}
CONFIGS = Path(__file__).parents[2] / "train" / "configs"


def pictures(random: Random, folder: Path) -> None:
    form, content = wild.picture(random)
    (folder / f"a.{form}").write_bytes(wild.damaged(random, content))
    load_image(folder / f"a.{form}")


def masks(random: Random, folder: Path) -> None:
    _, content = wild.picture(random)
    content = wild.damaged(random, content)
    try:
        size = load_image(content).shape[:2]
    except LoupeError:
        size = torch.Size(SIZE)
    load_region_mask(content, (size[0], size[1]))


RLE = {"size": [40, 60], "counts": [100, 200, 300, 1800]}
ANNOTATION = {"segmentation": [[5, 5, 25, 5, 25, 20, 5, 20], [30, 10, 35, 12, 31, 30]]}
REGIONS = (
    RLE,
    {"size": [40, 60], "counts": "hj09n02M4N0O2N2O0000000000000001N2N102L3Nah0"},
    ANNOTATION,
    [[5, 5, 25, 5, 25, 20]],
    {"points": [[3, 4, 1], [5, 6, 0]], "box": [1, 2, 30, 30]},
    [[3, 4], [5, 6, 0]],
)


def regions(random: Random, folder: Path) -> None:
    (folder / "r.json").write_text(json.dumps(wild.changed(random, random.choice(REGIONS))))
    coco.read_region(folder / "r.json", SIZE)


INSTANCES = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 60, "height": 40},
        {"id": 2, "file_name": "b.png", "width": 30, "height": 20},
    ],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 15], "iscrowd": 0,
         **ANNOTATION},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 15], "segmentation": RLE},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [5, 5, 20, 10]},
    ],
}  # fmt: skip


def instances(random: Random, folder: Path) -> None:
    (folder / "instances.json").write_text(json.dumps(wild.changed(random, INSTANCES)))
    drawn(DataConfig("coco-instances", str(folder)))
    read_pictures(folder / "instances.json", folder)


def drawn(source: DataConfig) -> None:
    """Every sample read, its picture opened and its regions drawn, as data check does."""
    tally = Tally()
    for sample in read(source, tally):
        with tally.use(sample.id):
            size = sample.picture.load().shape[:2]
            for area in sample.areas:
                area.region_mask((size[0], size[1]))


LINES = [
    {"image": "a.png", "text": ["a cat", "a dog"]},
    {"image": "a.png", "question": "what?", "answers": ["red"], "choices": ["red", "blue"]},
    {"image": "a.png", "width": 60, "height": 40,
     "regions": [{"box": [1, 2, 9, 9]}, {"rle": RLE}, {"polygons": [[5, 5, 25, 5, 25, 20]]}],
     "conversation": [{"question": "what is region 1?", "answer": "a boat", "regions": [1]}]},
    {"annotations": [{"question_id": 1, "answers": [{"answer": "yes"}], "answer_type": "y"}],
     "questions": [{"question_id": 1, "image_id": 7, "question": "is it?"}]},
    [{"id": 1, "image": "a.png", "file_name": "a.png", "annotation": [{"bbox": [1, 2, 3, 4]}],
      "conversations": [{"from": "human", "value": "hm?"}, {"from": "gpt", "value": "hm."}]}],
    {"1": {"caption": "a", "negative_caption": "b", "filename": "a.png", "imageId": "a",
           "question": "q", "answer": "a", "foil": "c", "image_file": "a.png"}},
    {"question_id": 1, "image": "a.png", "text": "is there?", "label": "yes", "caption": "c"},
]  # fmt: skip


def data(random: Random, folder: Path) -> None:
    text = "\n".join(json.dumps(wild.changed(random, line)) for line in random.choices(LINES, k=3))
    if random.random() < 0.3:
        text = json.dumps(wild.changed(random, random.choice(LINES)))
    content = text.encode(random.choice(("utf-8", "utf-8-sig", "utf-16")))
    if random.random() < 0.3:
        content = wild.damaged(random, content)
    (folder / "data.jsonl").write_bytes(content)
    kind = random.choice([name for name in READERS if name not in STREAMED])
    drawn(DataConfig(kind, str(folder / "data.jsonl"), images=str(folder)))


def recipes(random: Random, folder: Path) -> None:
    content = random.choice(sorted(CONFIGS.glob("*.toml"))).read_bytes()
    (folder / "recipe.toml").write_bytes(wild.damaged(random, content))
    read_recipe(folder / "recipe.toml")


BODY = {
    "model": "loupe", "stream": False, "max_tokens": 5, "temperature": 0.5, "n": 1, "stop": None,
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "text", "text": "what?"}], "regions": [{"points": [[1, 2, 1]]}]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": "and now?"},
    ],
}  # fmt: skip


def bodies(random: Random, folder: Path) -> None:
    form.parse(wild.changed(random, BODY), "tiny", Limits())


@pytest.fixture(scope="module")
def sessions(tiny_assistant) -> Area:
    whole = Session(lambda: tiny_assistant)
    whole.open(NOISE, "noise", None)
    whole.picture().regions.paint([(30, 20)], 5)
    list(whole.ask("what is #1?"))
    written = json.loads(export.to_json(whole, "tiny"))

    def replayed(random: Random, folder: Path) -> None:
        text = json.dumps(wild.changed(random, written))
        export.replay(Session(lambda: tiny_assistant), text)

    return replayed


@pytest.fixture(scope="module")
def checkpoints(tiny_folder, tmp_path_factory) -> Area:
    """A folder whose JSON files are changed one at a time, and opened and asked."""
    place = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(tiny_folder("loupe").parent, place)
    files = sorted(place.rglob("*.json"))
    whole = {file: file.read_text() for file in files}

    def opened(random: Random, folder: Path) -> None:
        file = random.choice([one for one in files if one.name != "manifest.json"])
        try:
            file.write_text(json.dumps(wild.changed(random, json.loads(whole[file]))))
            write_manifest(place / "loupe")
            assistant = build(place / "loupe")
            view = assistant.encode(NOISE)
            view.ask("what is this?", [view.box(3, 3, 30, 30)])
        finally:
            for one, text in whole.items():
                one.write_text(text)

    return opened


PLAIN = (pictures, masks, regions, instances, data, recipes, bodies)
AREAS = (*(area.__name__ for area in PLAIN), "sessions", "checkpoints")


@pytest.mark.parametrize("name", AREAS)
def test_what_comes_from_outside_ends_well_or_in_one_line(name, request, tmp_path):
    area = {one.__name__: one for one in PLAIN}.get(name) or request.getfixturevalue(name)
    for picture, step in (("a.png", 1), ("b.png", 2)):
        wild.save(NOISE[::step, ::step], tmp_path / picture)
    until = time.monotonic() + (60 * MINUTES / len(AREAS) if MINUTES else SHARE)
    seed, wrong = SEED, []
    known = list(FOUND.get(name, ()))
    while known or time.monotonic() < until:
        number = known.pop() if known else seed
        seed += number == seed
        if (problem := tried(area, Random(number), tmp_path)) is not None:
            wrong.append(f"{name} {number}: {problem}")
    print(f"{name}: {seed - SEED} cases, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:20])


def tried(area: Area, random: Random, folder: Path) -> str | None:
    """What is wrong about how a case ended; None for nothing."""
    before, start = peak(), time.monotonic()
    try:
        area(random, folder)
    except LoupeError as error:
        if "\n" in str(error).strip() or len(str(error)) > 1000:
            return f"its message has several lines: {str(error)[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    if (seconds := time.monotonic() - start) > SECONDS:
        return f"it took {seconds:.1f} s"
    if (more := peak() - before) > MEGABYTES:
        return f"it took {more:.0f} MB"
    return None


def peak() -> float:
    """The most memory so far, in MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
