"""A tiny data set, and recipes that train the tiny model on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

COLOURS = {"red": (200, 30, 30), "blue": (30, 30, 200), "green": (20, 160, 60)}


@pytest.fixture(scope="session")
def little_data(tmp_path_factory) -> Path:
    """Six pictures of one colour each, with a darker corner: captions, questions, a dialogue."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rows = []
    for number, (name, rgb) in enumerate([*COLOURS.items()] * 2):
        picture = Image.new("RGB", (40, 30), rgb)
        picture.paste((20, 20, 20), (0, 0, 12, 12))
        picture.save(folder / "images" / f"{number}.png")
        image, corner = f"{number}.png", [{"box": [0, 0, 12, 12]}, {"box": [20, 10, 39, 29]}]
        rows.append({"image": image, "text": [f"a {name} picture", f"it is {name}"]})
        asked = {"question": "what colour?", "answer": name, "notes": name}
        rows.append({"image": image, **asked})
        rows.append({"image": image, "text": f"a {name} area", "regions": corner[1:]})
        said = [
            {"question": "what is region 2?", "answer": f"a {name} thing"},
            {"question": "and region 1?", "answer": "a corner"},
        ]
        rows.append({"image": image, "regions": corner, "conversation": said})
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "data.jsonl").write_text(text)
    return folder


@pytest.fixture
def recipe_of(tiny_folder, little_data, tmp_path):
    """recipe_of("stage = ...", "loop.steps=2"): the recipe of a TOML text with the tiny parts."""
    from train.recipe import read_recipe

    def recipe(stage: str, *changes: str, extra: str = ""):
        file = tmp_path / "recipe.toml"
        file.write_text(
            f"""
            stage = "{stage}"
            output = "{tmp_path / "run"}"
            turns = 3
            learn_validated = true
            {extra}
            [start]
            checkpoint = "{tiny_folder("loupe")}"
            [cache]
            folder = "{tmp_path / "features"}"
            [[data]]
            format = "folder"
            path = "{little_data}"
            [[validate]]
            format = "folder"
            path = "{little_data}"
            [loop]
            steps = 4
            batch = 3
            warmup = 1
            lr = 1e-2
            log_every = 1
            save_every = 2
            evaluate_every = 2
            """
        )
        return read_recipe(file, changes)

    return recipe


@pytest.fixture(autouse=True)
def same_seed():
    torch.manual_seed(0)
