"""Painted scenes on disk as the frozen vision encoder sees them: it is run once a picture."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from qformer.contracts import VisionEncoder
from qformer.regions import box_geometry, patch_coverage
from train.scenes.dialogue import painted_scene
from train.scenes.scene import Scene, sample_scene

MOST_ITEMS = 6


class Pool:
    """image_embeds bfloat16 (pictures, tokens, width), and of every item its patch_coverage,
    geometry and whether it is seen at all. Scene i is drawn from (seed, i) alone."""

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "pool.json").read_text())
        shape = tuple(about["shape"])
        raw = np.memmap(folder / "image_embeds.bin", np.int16, "r", shape=shape)
        self._embeds = raw
        with np.load(folder / "regions.npz") as regions:
            self.coverage = torch.from_numpy(regions["coverage"])  # (pictures, items, patches)
            self.geometry = torch.from_numpy(regions["geometry"])  # (pictures, items, 5)
            self.areas = regions["areas"]
        self.items = (self.areas > 0).sum(1)  # of each picture
        self.seed, self.pairs = about["seed"], about["pairs"]
        self._scenes: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self._embeds)

    def image_embeds(self, indices) -> Tensor:
        """(len(indices), tokens, width) float32."""
        raw = torch.from_numpy(np.ascontiguousarray(self._embeds[list(indices)]))
        return raw.view(torch.bfloat16).float()

    def scene(self, index: int) -> Scene:
        if index not in self._scenes:
            scene = sample_scene(np.random.default_rng((self.seed, index)), self.pairs)
            areas = tuple(int(v) for v in self.areas[index][: len(scene.items)])
            self._scenes[index] = dataclasses.replace(scene, areas=areas)
        return self._scenes[index]

    @classmethod
    def build(
        cls,
        folder: Path,
        vision: VisionEncoder,
        count: int,
        seed: int,
        pairs: str = "seen",
        say: Callable[[str], None] = print,
        batch: int = 32,
    ) -> Pool:
        """Paint and encode `count` scenes; a folder that is whole is opened as it is."""
        if (folder / "pool.json").exists():
            return cls(folder)
        folder.mkdir(parents=True, exist_ok=True)
        patches = vision.grid[0] * vision.grid[1]
        shape = (count, vision.leading_tokens + patches, vision.width)
        embeds = np.memmap(folder / "image_embeds.bin", np.int16, "w+", shape=shape)
        coverage = np.zeros((count, MOST_ITEMS, patches), np.float16)
        geometry = np.zeros((count, MOST_ITEMS, 5), np.float32)
        areas = np.zeros((count, MOST_ITEMS), np.int32)
        for start in range(0, count, batch):
            pixels = []
            for index in range(start, min(start + batch, count)):
                scene, picture, masks = painted_scene(np.random.default_rng((seed, index)), pairs)
                pixels.append(vision.preprocess(torch.from_numpy(picture)))
                areas[index, : len(masks)] = [mask.sum() for mask in masks]
                for i, mask in enumerate(clumsy(masks, scene.seed)):
                    coverage[index, i] = patch_coverage(torch.from_numpy(mask), vision.grid)
                    ys, xs = np.nonzero(mask)
                    if len(xs):
                        box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
                        geometry[index, i] = box_geometry(box, int(mask.sum()), mask.shape)
            with torch.autocast("cpu", torch.bfloat16):
                encoded = vision.encode(torch.stack(pixels)).to(torch.bfloat16)
            embeds[start : start + len(pixels)] = encoded.view(torch.int16).numpy()
            if start // batch % 50 == 0:
                say(f"{folder.name}: {start + len(pixels)} of {count} pictures encoded")
        embeds.flush()
        np.savez(folder / "regions.npz", coverage=coverage, geometry=geometry, areas=areas)
        about = {"shape": shape, "seed": seed, "pairs": pairs}
        (folder / "pool.json").write_text(json.dumps(about))  # last: the folder is whole
        return cls(folder)


def clumsy(masks: np.ndarray, seed: int) -> list[np.ndarray]:
    """The masks as a segmenter might give them: half of them a pixel too thin or too fat."""
    rng, result = np.random.default_rng(seed), []
    for mask in masks:
        if rng.random() < 0.5 and mask.sum() > 60:
            bend = ImageFilter.MaxFilter(3) if rng.random() < 0.5 else ImageFilter.MinFilter(3)
            other = np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).filter(bend)) > 127
            mask = other if other.any() else mask
        result.append(mask)
    return result
