"""A source folder of a few painted pictures, laid out as the public photo data are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adapters.rle import encode_rle

SAID = (
    ["A black dog runs in the snow .", "A black dog is in the snow .", "The dog runs ."],
    ["Two men sit on a bench .", "Two men on a bench .", "Old men are sitting ."],
    ["A red car .", "A red car on a road .", "A car drives ."],
    ["Three girls play .", "Three girls in the grass .", "Girls play outside ."],
)


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    flickr = [
        {"image": f"f{n}.jpg", "split": "dev" if n % 9 == 8 else "train", "captions": said}
        for n, said in enumerate(SAID * 100)
    ]
    put(folder / "photos/flickr8k", "captions.jsonl", flickr)
    for line in flickr:
        paint(folder / "photos/flickr8k/images" / line["image"])
    for name in ("coco_nc", "coco_by"):
        coco(folder / name)
    small = [
        {"kind": "refer_refcoco_val", "image": "s0.jpg", "expression": "red car on the left",
         "box_xywh_rel": [0.25, 0.5, 0.5, 0.5], "orig_size": [640, 480]},
        {"kind": "okvqa_train", "image": "s0.jpg", "question": "Who drives?",
         "answers": {"": 1, "man": 1, "woman": 0.3}},
        {"kind": "vsr", "image": "s1.jpg", "statement": "The cat is on the bed.", "label": 0,
         "relation": "on"},
        {"kind": "caption_val2017", "image": "s1.jpg", "caption": "A cat on a bed."},
    ]  # fmt: skip
    put(folder / "photos/coco_small", "annotations.jsonl", small)
    for name in ("s0.jpg", "s1.jpg"):
        paint(folder / "photos/coco_small/images" / name, (64, 64))
    scene = {"image": "a.jpg", "captions": ["A small bathroom with a sink."]}
    paint(folder / "photos/ade_text/images/a.jpg")
    put(folder / "photos/ade_text", "index.jsonl", [scene])
    ccp(folder / "photos/ccp")
    labelled(folder / "photos")
    return folder


def put(folder: Path, name: str, lines: list) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def paint(path: Path, size: tuple[int, int] = (64, 48), rgb=(90, 90, 90)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, rgb).save(path, quality=95)


def square(size: tuple[int, int] = (48, 64), side: int = 24) -> dict:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[10 : 10 + side, 20 : 20 + side] = True
    return encode_rle(mask)


def coco(folder: Path) -> None:
    """Twenty photos with a red car each, a stretch of wall, and every other one with a dog."""
    images, annotations = [], []
    for number in range(20):
        name = f"{number:012d}.jpg"
        picture = np.full((48, 64, 3), 240, np.uint8)
        picture[10:34, 20:44] = (210, 20, 20)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / "images" / name, quality=95)
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        for category, thing, side in (("car", 1, 24), ("wall-other-merged", 0, 20), ("dog", 1, 12)):
            if category != "dog" or number % 2:
                annotations.append(
                    {"image_id": number, "category_name": category, "isthing": thing,
                     "iscrowd": 0, "segmentation": square(side=side), "area": side * side}
                )  # fmt: skip
    file = {"images": images, "annotations": annotations, "categories": []}
    (folder / "instances.json").write_text(json.dumps(file))
    said = [{"image_id": 0, "caption": "A red car."}, {"image_id": 0, "caption": "A parked car."}]
    (folder / "captions.json").write_text(json.dumps({"images": images, "annotations": said}))
    image = f"images/{0:012d}.jpg"
    put(folder / "tasks", "refer.jsonl", [
        {"image": image, "expressions": ["red car"], "bbox_xywh": [20, 10, 24, 24],
         "category_name": "car"},
    ])  # fmt: skip
    put(folder / "tasks", "vqa.jsonl", [
        {"image": image, "question": "What is this?", "answers": ["car", "car", "auto"]},
        {"image": image, "question": "Only choices?", "choices": ["a", "b"]},
    ])  # fmt: skip
    put(folder / "tasks", "vsr.jsonl", [
        {"image": image, "caption": "The car is below the wall.", "label": 1, "relation": "below"},
    ])  # fmt: skip
    put(folder / "tasks", "pope.jsonl", [
        {"image": image, "dataset": "POPE random", "question_id": f"p{n}", "answers": [answer],
         "question": f"Is there a {name} in the image?"}
        for n, (name, answer) in enumerate((("car", "yes"), ("dog", "no")))
    ])  # fmt: skip


def ccp(folder: Path) -> None:
    names = ["null", "skin", "hat", "jeans"]
    lines = []
    for number in range(30):
        paint(folder / "images" / f"{number}.jpg", (64, 48), (30, 60, 160))
        label = np.zeros((48, 64), np.uint8)
        label[5:25, 5:25], label[25:45, 5:25] = 2, 3
        (folder / "labels").mkdir(exist_ok=True)
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
        lines.append({"image": f"{number}.jpg", "labels": f"{number}.png", "present": [0, 2, 3]})
    put(folder, "index.jsonl", lines)
    (folder / "names.json").write_text(json.dumps(names))


def labelled(folder: Path) -> None:
    classes = {
        "imagenet": [
            ("n02088364", "beagle"),
            ("n02123045", "tabby"),
            ("n04099969", "rocking chair"),
        ],
        "caltech101": ["Faces", "BACKGROUND_Google", "car_side"],
        "grocery": ["granny smith", "arla sour milk"],
        "clothing": ["hat", "dress"],
    }
    for name, ones in classes.items():
        lines = []
        for number in range(1 if name == "imagenet" else 10):
            for one in ones:
                wnid, title = one if isinstance(one, tuple) else (None, one)
                image = f"{title.replace(' ', '-')}_{number}.jpg"
                paint(folder / name / "images" / image, (40, 30))
                lines.append({"image": image, "name": title})
                if wnid:
                    lines[-1]["wnid"] = wnid
                if title == "granny smith":
                    lines[-1]["coarse"] = "apple"
        put(folder / name, "index.jsonl", lines)
