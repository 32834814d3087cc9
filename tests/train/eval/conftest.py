"""A small COCO-like data set, and a tiny random model to ask about it."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from adapters.rle import encode_rle

NAMES = {1: "dog", 2: "cat", 3: "hot dog"}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    return tiny.loupe(tmp_path_factory.mktemp("model"))


def picture(folder, number):
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")


def rle(top, left, height, width):
    import torch

    region_mask = torch.zeros(48, 64, dtype=torch.bool)
    region_mask[top : top + height, left : left + width] = True
    return encode_rle(region_mask)


@pytest.fixture
def coco(tmp_path):
    """Three pictures: a dog beside a cat with a hot dog far off, two dogs, a lone cat."""
    folder = tmp_path / "coco"
    (folder / "images").mkdir(parents=True)
    things = [
        (1, 1, (0, 0, 20, 20)), (1, 2, (0, 20, 20, 20)), (1, 3, (40, 50, 8, 10)),
        (2, 1, (0, 0, 10, 10)), (2, 1, (20, 20, 10, 10)),
        (3, 2, (5, 5, 30, 30)),
    ]  # fmt: skip
    for number in (1, 2, 3):
        picture(folder / "images", number)
    size = {"height": 48, "width": 64}
    annotations = {
        "images": [{"id": n, "file_name": f"{n}.png", **size} for n in (1, 2, 3)],
        "categories": [{"id": id, "name": name} for id, name in NAMES.items()],
        "annotations": [
            {"id": id, "image_id": image, "category_id": category, "segmentation": rle(*place),
             "bbox": [place[1], place[0], place[3], place[2]], "iscrowd": 0}
            for id, (image, category, place) in enumerate(things)
        ],
    }  # fmt: skip
    (folder / "instances.json").write_text(json.dumps(annotations))
    captions = {
        "images": annotations["images"],
        "annotations": [
            {"id": 10 * n + i, "image_id": n, "caption": text}
            for n in (1, 2, 3)
            for i, text in enumerate((f"a dog number {n}", f"picture {n} of a cat"))
        ],
    }
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


@pytest.fixture
def asked(coco):
    """Questions about these pictures, a line each."""
    lines = [
        {"image": f"images/{n}.png", "dataset": "VQAv2 val", "question_id": f"q{n}{i}",
         "question": text, "answers": ["yes"] * 7 + ["no"] * 3}
        for n in (1, 2, 3)
        for i, text in enumerate(("is this a dog?", "is there a tree?", "what is this?"))
    ]  # fmt: skip
    file = coco / "vqa.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file
