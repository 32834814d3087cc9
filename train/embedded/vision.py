"""Vision pretraining of the embedded default: every patch learns what it lies on.

Dense supervision: kind, colour, texture and size of the object under each patch, where that
object's middle is and how large it is, and whether the patch holds the middle (one mark per object,
which is what makes counting by attention possible later). In the second round also places in the
picture: each patch its own and its object's, as the same waves in which a region's geometry enters
the Q-Former, so that attention can match the one with the other by an inner product.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from qformer.regions import GEOMETRY_FEATURES, geometry_features
from train.scenes.render import paint
from train.scenes.scene import COLOURS, KINDS, SIZES, TEXTURES, Scene, sample_scene

WORDS = {"kind": KINDS, "colour": COLOURS, "texture": TEXTURES, "size": SIZES}
PLACES = 0.6  # of the training: from here on places are asked, and some pictures are grey
HERE = GEOMETRY_FEATURES * 2 // 5  # numbers of a place, (x, y)
MOST_ITEMS = 9  # pictures are fuller here than later: more to learn from each
FILTERS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
)


class VisionStage:
    """A ViT under dense heads. model: one of transformers, with one token before the patches."""

    def __init__(self, model: nn.Module, batch: int):
        self.size, self.patch = model.config.image_size, model.config.patch_size
        self.grid, self.count = self.size // self.patch, batch
        self.module = nn.ModuleDict({"vision": model, "head": DenseHead(model.config.hidden_size)})
        self.module.to(memory_format=torch.channels_last)  # convolutions are faster so

    def batch(
        self, rng: np.random.Generator, progress: float = 1.0, place: int = 0
    ) -> dict[str, Tensor]:
        rows = [self.example(rng, progress) for _ in range(self.count)]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def example(self, rng: np.random.Generator, progress: float = 1.0) -> dict[str, Tensor]:
        scene = sample_scene(rng, most=MOST_ITEMS if rng.random() < 0.6 else 6)
        if rng.random() < 0.6 - 2 * progress:  # shapes are learned sooner without textures
            items = tuple(dataclasses.replace(item, texture="solid") for item in scene.items)
            scene = dataclasses.replace(scene, items=items)
        picture, masks = paint(scene)
        image, only = Image.fromarray(picture), None
        if rng.random() < 0.1:
            image, masks, only = close_up(image, masks, rng)
        how = FILTERS[int(rng.choice(4, p=(0.5, 0.25, 0.15, 0.1)))]
        image = image.resize((self.size, self.size), how)
        grey = progress >= PLACES and rng.random() < 0.12  # a shape is what it is in any colour
        if grey:
            image = image.convert("L").convert("RGB")
        pixels = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 127.5 - 1
        targets = dense_targets(scene, masks, self.grid, only)
        if grey:
            for name in ("colour", "item_colour"):
                targets[name] = torch.full_like(targets[name], -100)
        targets["places"] = torch.tensor(progress >= PLACES)
        return {"pixel_values": pixels, **targets}

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        pixels = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        hidden = self.module["vision"](pixels).last_hidden_state[:, 1:]
        return self.module["head"].losses(hidden, batch)


def close_up(image: Image.Image, masks: np.ndarray, rng: np.random.Generator):
    """One item's box with a margin of about a box a side, its surroundings blurred, as in the focal
    crop of a small region. Returns the crop, the cropped masks and the item's number."""
    which = int(rng.integers(len(masks)))
    ys, xs = np.nonzero(masks[which])
    if len(xs) == 0:
        return image, masks, None
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    grow = rng.uniform(0.6, 1.1)
    w, h = (x1 - x0) * grow, (y1 - y0) * grow
    left, top = max(0, int(x0 - w)), max(0, int(y0 - h))
    right, bottom = min(image.width, int(x1 + w)), min(image.height, int(y1 + h))
    radius = float(max(1.0, 0.15 * max(x1 - x0, y1 - y0)))
    blurred = image.filter(ImageFilter.GaussianBlur(radius))
    blurred.paste(image, (0, 0), Image.fromarray((masks[which] * 255).astype(np.uint8)))
    return blurred.crop((left, top, right, bottom)), masks[:, top:bottom, left:right], which


def dense_targets(
    scene: Scene, masks: np.ndarray, grid: int, only: int | None
) -> dict[str, Tensor]:
    """Labels of each patch, (patches,) and (patches, 4); -100 where a patch is not asked.

    only: in a close-up, the one item that is labelled; sizes are then not asked at all.
    """
    cover = F.adaptive_avg_pool2d(torch.from_numpy(masks).float()[None], grid)[0]
    cover = cover.flatten(1)  # (items, patches)
    best, owner = cover.max(0)
    on, off = best >= 0.2, cover.sum(0) < 0.05
    if only is not None:
        on &= owner == only
    items = scene.items

    def labels(words, name):
        table = torch.tensor([words.index(getattr(item, name)) for item in items])
        return torch.where(on, table[owner], torch.full_like(owner, -100))

    kind = labels(KINDS, "kind")
    size = labels(SIZES, "size")
    clear = torch.tensor([item.clear_size and only is None for item in items])[owner]
    boxes, centre = torch.zeros(len(items), 4), torch.zeros(grid * grid)
    for i, mask in enumerate(masks):
        ys, xs = np.nonzero(mask)
        if len(xs) == 0:
            continue
        h, w = mask.shape
        x0, x1, y0, y1 = xs.min() / w, (xs.max() + 1) / w, ys.min() / h, (ys.max() + 1) / h
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        boxes[i] = torch.tensor([x, y, x1 - x0, y1 - y0])
        row, column = min(grid - 1, int(y * grid)), min(grid - 1, int(x * grid))
        centre[row * grid + column] = 1
    if only is not None:
        centre.fill_(-100)
    steps = (torch.arange(grid) + 0.5) / grid
    here = torch.stack([steps.repeat(grid), steps.repeat_interleave(grid)], 1)
    target = boxes[owner]
    offsets = torch.cat([(target[:, :2] - here) * 4, target[:, 2:] * 2], 1)
    items_seen = {"cover": torch.zeros(MOST_ITEMS, grid * grid)}
    items_seen["cover"][: len(items)] = cover
    for name, words in WORDS.items():
        values = [
            words.index(getattr(item, name))
            if cover[i].sum() > 0.5
            and (only is None or (i == only and name != "size"))
            and (name != "size" or item.clear_size)
            else -100
            for i, item in enumerate(items)
        ]
        items_seen["item_" + name] = torch.tensor(values + [-100] * (MOST_ITEMS - len(items)))
    return items_seen | {
        "kind": torch.where(off, torch.full_like(kind, len(KINDS)), kind),
        "colour": labels(COLOURS, "colour"),
        "texture": labels(TEXTURES, "texture"),
        "size": torch.where(clear, size, torch.full_like(size, -100)),
        "on": on,
        "offsets": offsets,
        "here": geometry_features(here),
        "place": geometry_features(torch.cat([boxes, boxes[:, 2:3] * boxes[:, 3:]], 1))[owner],
        "centre": centre,
    }


class DenseHead(nn.Module):
    """Linear heads over patches and over their mean on each object; in pretraining only."""

    def __init__(self, width: int):
        super().__init__()
        self.sizes = {name: len(words) for name, words in WORDS.items()}
        self.patches = nn.Linear(width, sum(self.sizes.values()) + 6)  # background, box, middle
        self.items = nn.Linear(width, sum(self.sizes.values()))
        self.places = nn.Linear(width, HERE + GEOMETRY_FEATURES)

    def forward(self, hidden: Tensor, cover: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """hidden (B, patches, width), cover (B, items, patches) -> logits of patches, of items."""
        sizes = list(self.sizes.values())
        parts = self.patches(hidden).float().split([sizes[0] + 1, *sizes[1:], 4, 1], dim=-1)
        pooled = cover.to(hidden.dtype) @ hidden / cover.sum(-1, keepdim=True).clamp(min=0.1)
        items = self.items(pooled.to(hidden.dtype)).float().split(sizes, dim=-1)
        names = (*self.sizes, "offsets", "centre")
        return dict(zip(names, parts, strict=True)), dict(zip(self.sizes, items, strict=True))

    def losses(self, hidden: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        patches, items = self(hidden, batch["cover"])
        losses = {}
        for name in self.sizes:
            dense = F.cross_entropy(patches[name].flatten(0, 1), batch[name].flatten())
            whole = F.cross_entropy(items[name].flatten(0, 1), batch["item_" + name].flatten())
            losses[name] = 0.5 * dense + whole
        on = batch["on"]
        losses["offsets"] = 2 * F.smooth_l1_loss(
            patches["offsets"][on], batch["offsets"][on], beta=0.1
        )
        asked = batch["centre"] >= 0
        losses["centre"] = 4 * F.binary_cross_entropy_with_logits(
            patches["centre"][..., 0][asked], batch["centre"][asked]
        )
        if batch["places"].all():
            here, place = self.places(hidden).float().split([HERE, GEOMETRY_FEATURES], dim=-1)
            losses["here"] = 2 * F.mse_loss(here, batch["here"])
            losses["place"] = 4 * F.mse_loss(place[on], batch["place"][on])
        return losses

    @torch.no_grad()
    def accuracy(self, hidden: Tensor, batch: dict[str, Tensor]) -> dict[str, float]:
        """Share of objects named rightly from the mean of their patches, each attribute."""
        _, items = self(hidden, batch["cover"])
        result = {}
        for name in self.sizes:
            asked = batch["item_" + name] >= 0
            right = items[name].argmax(-1) == batch["item_" + name]
            result[name] = float(right[asked].float().mean())
        return result
