"""Region masks as files: PNG, COCO's run lengths and polygons, prompts; data sets in COCO form.

COCO's boxes are x, y, width, height in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from adapters.files import whole_file
from adapters.images import load_region_mask
from adapters.rle import decode_rle, fill_polygons, filled_area, pack
from adapters.texts import read_json
from qformer.contracts import LoupeError, RegionError
from qformer.proposals import Proposal


def read_region(path: Path, size: tuple[int, int]) -> Tensor | dict[str, Any]:
    """A region from a file: bool (height, width), or {"points", "box"} to be segmented.

    A picture's bright pixels; or JSON: a run-length code, polygons, an annotation with one of them
    as its "segmentation", {"points": [[x, y, 1 | 0], ...], "box": [x0, y0, x1, y1]}, or a plain
    list of points. Raises RegionError, also where it is of another size than (height, width).
    """
    if path.suffix.lower() != ".json":
        return load_region_mask(path, size)
    try:
        held = read_json(path)
    except FileNotFoundError:
        raise RegionError(f"there is no file {path}: check the path") from None
    except (OSError, ValueError):
        raise RegionError(f"{path} is not readable JSON: write it again") from None
    if isinstance(held, dict) and held and set(held) <= {"points", "box"}:
        return held
    if isinstance(held, dict) and "segmentation" in held:
        held = held["segmentation"]
    if isinstance(held, list) and held and all(_numbers(row) in (2, 3) for row in held):
        return {"points": [[*row, 1][:3] for row in held]}
    region_mask = area(held, size, path.name)
    if not region_mask.any():
        raise RegionError(f"{path.name} covers no pixel: paint or click a region")
    return region_mask


def area(held: Any, size: tuple[int, int], name: str = "the region") -> Tensor:
    """A COCO "segmentation" as bool (height, width). Raises RegionError."""
    if isinstance(held, dict) and "counts" in held:
        try:
            return decode_rle(held, size)
        except RegionError as error:
            raise RegionError(f"{name}: {error}") from None
    if isinstance(held, list) and held and (_numbers(held) or all(map(_numbers, held))):
        try:
            return fill_polygons(held, size)
        except RegionError as error:
            raise RegionError(f"{name}: {error}") from None
    raise RegionError(
        f'{name} is no region: give a run-length code {{"size", "counts"}}, polygons'
        ' [[x0, y0, x1, y1, ...]], or {"points": [[x, y, 1]]}'
    )


def _numbers(row: Any) -> int:
    """How many numbers a list holds; 0 for anything else."""
    plain = isinstance(row, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in row
    )
    return len(row) if plain else 0


def write_region(region_mask: Tensor, path: Path, form: str, **known: Any) -> None:
    """Write a PNG, white where the region is, or a COCO annotation; known: its further keys."""
    if form != "png":
        write_json(path, annotation(Proposal.of(region_mask.cpu(), 0.0), form, **known))
        return
    from PIL import Image

    try:
        Image.fromarray(region_mask.cpu().numpy()).save(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "use .png"
        raise LoupeError(f"cannot write {path}: {reason}") from None


def annotation(one: Proposal, form: str = "rle", **known: Any) -> dict[str, Any]:
    """A COCO annotation: segmentation, bbox and area, then the `known` keys."""
    x0, y0, x1, y1 = one.box
    held: Any = {"size": list(one.size), "counts": pack(one.runs.tolist())}
    box, covered = [x0, y0, x1 - x0, y1 - y0], one.area
    if form == "polygons" and covered:
        held = polygons(one.region_mask)
        covered = filled_area(held, one.size)  # holes and all
    return {
        "segmentation": held,
        "bbox": box,
        "area": covered,
        "iscrowd": 0,
        **known,
    }


def record(one: Proposal, form: str = "rle") -> dict[str, Any]:
    """What SAM's automatic mask generator says of a mask, under its names; of one that was found
    by a text how well it fits, as "score"."""
    grid = one.point is not None
    known: dict[str, Any] = {"predicted_iou" if grid else "score": round(one.score, 4)}
    if one.stability is not None:
        known["stability_score"] = round(one.stability, 4)
    if one.point is not None:
        known["point_coords"] = [[round(value, 2) for value in one.point]]
    if one.crop is not None:
        x0, y0, x1, y1 = one.crop
        known["crop_box"] = [x0, y0, x1 - x0, y1 - y0]
    return annotation(one, form, **known)


def polygons(region_mask: Tensor) -> list[list[int]]:
    """The outlines of each part, [x0, y0, x1, y1, ...] along pixel edges. Polygons know no holes:
    they are filled, and a run-length code keeps them."""
    inside = np.pad(region_mask.cpu().numpy(), 1)
    step: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # Clockwise around what is inside: along its top, right, bottom and left edges.
    for dx, dy, x, y in ((1, 0, 0, 0), (0, 1, 1, 0), (-1, 0, 1, 1), (0, -1, 0, 1)):
        outside = ~np.roll(inside, (dx, -dy), axis=(0, 1))  # the pixel left of the direction
        for row, column in np.argwhere(inside & outside).tolist():
            step.setdefault((column - 1 + x, row - 1 + y), []).append((dx, dy))
    loops = []
    while step:
        start = place = next(iter(step))
        heading, corners = step[start][0], []
        while place in step:
            ways = step[place]
            right = (-heading[1], heading[0])  # where two parts touch at a corner, keep to one
            turned = right if right in ways else ways[0]
            if turned != heading or place == start:
                corners.append(place)
            ways.remove(turned)
            if not ways:
                del step[place]
            heading, place = turned, (place[0] + turned[0], place[1] + turned[1])
            if place == start and start not in step:
                break
        x, y = np.array(corners).T
        if (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0:  # a hole runs the other way
            loops.append([value for corner in corners for value in corner])
    return loops


def dataset(pictures: Iterable[tuple[str, tuple[int, int], Sequence[dict[str, Any]]]]) -> dict:
    """One COCO data set: of each picture its file name, (height, width) and annotations."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, (height, width), found) in enumerate(pictures, 1):
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for one in found:
            kept = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append({**one, **kept})
    categories = [{"id": 1, "name": "thing"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_dataset(file: Path) -> dict[str, Any]:
    """A COCO data set. Raises LoupeError where it is none."""
    try:
        held = read_json(file)
    except FileNotFoundError:
        raise LoupeError(f"there is no file {file}: check the path") from None
    except (OSError, ValueError):
        raise LoupeError(f"{file} is not readable JSON: write it again") from None
    parts = ("images", "annotations")
    if not isinstance(held, dict) or not all(isinstance(held.get(one), list) for one in parts):
        raise LoupeError(f'{file} is no COCO data set: it needs lists "images" and "annotations"')
    return held


def write_json(path: Path, values: Any) -> None:
    text = json.dumps(values, ensure_ascii=False)
    write(path, lambda file: file.write(text.encode()))


def write(path: Path, fill: Callable[[BinaryIO], Any]) -> None:
    """A whole file or none. Raises LoupeError where it cannot be written."""
    try:
        with whole_file(path) as file:
            fill(file)
    except OSError as error:
        raise LoupeError(f"cannot write {path}: {error.strerror or 'check the path'}") from None
