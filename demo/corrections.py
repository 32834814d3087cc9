"""What a visitor put right, kept as training data where they switched that on.

    FOLDER/data.jsonl      {"image", "regions": [{"rle"}], "conversation": [{"question", "answer"}]}
    FOLDER/instances.json  COCO's form: the regions that were corrected, by their labels
    FOLDER/images/         the pictures, named by their content

`loupe train` reads both files. A region is called by its place in the line: "region 1" first.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from adapters.files import whole_file
from adapters.rle import encode_rle
from demo.picture import Picture
from demo.regions import Mark
from demo.talk import Entry
from qformer.contracts import LoupeError

MOST_BYTES = 2 * 2**30  # of a folder; then nothing more is kept


class Corrections:
    """A folder of corrections; made when the first one is kept. Safe from several threads."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()

    def keep_answer(self, picture: Picture, question: Entry, answer: str | None) -> None:
        """An answer that was called right or put right, instead of any kept before; None: it is
        not right after all. Raises LoupeError where it cannot be kept."""
        places = {number: place for place, number in enumerate(question.numbers, 1)}
        asked = _renumbered(question.said or question.text, places)
        turn: dict[str, Any] = {"question": asked, "answer": _renumbered(answer or "", places)}
        if places:
            turn["regions"] = list(places.values())
        regions = [{"rle": encode_rle(region.region_mask)} for region in question.regions]
        line = {"image": _name(picture), "regions": regions, "conversation": [turn]}
        path = self.folder / "data.jsonl"
        with self._lock:
            held = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            kept = [one for one in held if _about(one) != _about(json.dumps(line))]
            if answer is not None:
                self._image(picture)
                kept.append(json.dumps(line, ensure_ascii=False))
            if kept != held:
                self._write(path, "".join(one + "\n" for one in kept).encode())

    def keep_regions(self, picture: Picture, marks: Sequence[Mark]) -> None:
        """Regions that were put right by hand."""
        corrected = [mark for mark in marks if mark.corrected]
        if not corrected:
            return
        with self._lock:
            name = self._image(picture)
            path = self.folder / "instances.json"
            empty: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": []}
            data = json.loads(path.read_text()) if path.exists() else empty
            images = {image["file_name"]: image["id"] for image in data["images"]}
            if name not in images:
                images[name] = len(images) + 1
                width, height = picture.size
                data["images"].append(
                    {"id": images[name], "file_name": name, "width": width, "height": height}
                )
            for mark in corrected:
                self._annotate(data, images[name], mark)
            self._write(path, json.dumps(data).encode())

    @staticmethod
    def _annotate(data: dict[str, list[dict]], image: int, mark: Mark) -> None:
        names = {category["name"]: category["id"] for category in data["categories"]}
        label = mark.label or "thing"
        if label not in names:
            names[label] = len(names) + 1
            data["categories"].append({"id": names[label], "name": label})
        x0, y0, x1, y1 = mark.region.box
        annotation = {
            "image_id": image,
            "category_id": names[label],
            "segmentation": encode_rle(mark.region.region_mask),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": mark.region.area,
            "iscrowd": 0,
        }
        same = [
            one for one in data["annotations"]
            if one["image_id"] == image and one["segmentation"] == annotation["segmentation"]
        ]  # fmt: skip
        if same:
            same[0].update(annotation)
        else:
            last = max((one["id"] for one in data["annotations"]), default=0)
            data["annotations"].append({"id": last + 1, **annotation})

    def _image(self, picture: Picture) -> str:
        """The picture's file name below images/; written where it is not there yet."""
        name = _name(picture)
        path = self.folder / "images" / name
        if not path.exists():
            self._make(path.parent)
            held = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
            if held > MOST_BYTES:
                raise LoupeError(
                    f"{self.folder} holds more than {MOST_BYTES >> 30} GB: move it away to go on"
                )
            buffer = io.BytesIO()
            Image.fromarray(picture.image.numpy()).save(buffer, "PNG")
            self._write(path, buffer.getvalue())
        return name

    @staticmethod
    def _make(folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from None

    @staticmethod
    def _write(path: Path, content: bytes) -> None:
        """Whole or not at all."""
        try:
            with whole_file(path) as file:
                file.write(content)
        except OSError as error:
            raise _unwritable(path, error) from None


def _name(picture: Picture) -> str:
    return hashlib.sha256(picture.image.numpy().tobytes()).hexdigest()[:24] + ".png"


def _about(line: str) -> Any:
    """What a line of data.jsonl is an answer to; itself, where somebody else wrote it."""
    try:
        read = json.loads(line)
        return read["image"], read["regions"], read["conversation"][0]["question"]
    except (ValueError, KeyError, IndexError, TypeError):
        return line


def _renumbered(text: str, places: dict[int, int]) -> str:
    """ "region 7" -> "region 1", by the place of 7 in the line."""

    def replace(match: re.Match) -> str:
        number = int(match[2])
        return f"{match[1]} {places.get(number, number)}"

    return re.sub(r"\b(region) (\d+)\b", replace, text, flags=re.IGNORECASE)


def _unwritable(path: Path, error: OSError) -> LoupeError:
    return LoupeError(f"cannot write {path}: {error.strerror or 'unknown'}; corrections are lost")
