"""`loupe segment --everything`: what a segmenter finds by itself, in a picture or a folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from adapters import coco, draw, texts
from adapters.images import ENDINGS, UNREAD, load_image
from qformer.console import progress
from qformer.contracts import LoupeError
from qformer.proposals import Everything, Proposal

FAILED, DATASET = "failed.jsonl", "instances.json"

log = logging.getLogger(__name__)


class Progress:
    """A line on standard error that renews itself; on anything but a terminal, nothing."""

    def __init__(self, before: str = "") -> None:
        self.before = before

    def __call__(self, done: int, total: int) -> None:
        # Where something stands before, another picture follows in the same line.
        progress(f"{self.before}{done}/{total} clicks", done, total + bool(self.before))


def picture(segmenter: Any, image: torch.Tensor, settings: Everything, before: str = "") -> list:
    """All proposals of one picture, its progress on standard error."""
    with torch.no_grad():
        return segmenter.everything(image.to(segmenter.device), settings, Progress(before))


def report(
    name: str, image: torch.Tensor, found: list[Proposal], settings: Everything, form: str
) -> dict[str, Any]:
    """What is written of a picture: SAM's records, masks in COCO's form."""
    asked = {key: getattr(settings, key) for key in Everything.names()}
    return {
        "image": name,
        "size": [image.shape[0], image.shape[1]],
        "settings": asked,
        "annotations": [{"id": n, **coco.record(one, form)} for n, one in enumerate(found, 1)],
    }


def overlay(image: torch.Tensor, found: list[Proposal]) -> Any:
    """The picture with its proposals numbered, the largest underneath."""
    numbered = sorted(enumerate(found, 1), key=lambda pair: -pair[1].area)
    regions = ((number, one.region_mask.numpy()) for number, one in numbered)
    return draw.overlay(image.cpu().numpy(), regions)


def folder(
    source: Path,
    out: Path,
    segmenter: Callable[[], Any],
    settings: Everything,
    form: str = "rle",
    made_by: dict[str, Any] | None = None,
) -> dict[str, int]:
    """Every picture below `source`, a JSON each below `out`, and all as one COCO data set.

    made_by: what else the results depend on. A picture whose JSON is there, of the same content,
    settings and made_by, is not looked at again, so a run that was stopped resumes. One that fails
    is counted and named in failed.jsonl, and the run goes on. Returns the counts.
    """
    files = sorted(pictures(source, out))
    if not files:
        raise LoupeError(f"{source} holds no picture: give a folder with {', '.join(ENDINGS[:4])}")
    counts = {"pictures": len(files), "done": 0, "before": 0, "failed": 0, "masks": 0}
    opened: Any = None
    failures: list[dict[str, str]] = []
    whole: list[tuple] = []  # as `coco.dataset` takes it
    asked = {**(made_by or {}), "format": form, "asked": dataclasses.asdict(settings)}
    for number, file in enumerate(files, 1):
        name = file.relative_to(source)
        target = out / name.with_name(name.name + ".json")
        before = f"{number}/{len(files)} pictures, {counts['failed']} failed: "
        try:
            mine = {**asked, "sha256": sha256(file)}
            held = found_before(target, mine)
            if held is not None:
                counts["before"] += 1
                whole.append((str(name), tuple(held["size"]), held["annotations"]))
                continue
            image = load_image(file)
            opened = opened or segmenter()
            found = picture(opened, image, settings, before)
            target.parent.mkdir(parents=True, exist_ok=True)
            used = opened.settings(settings)
            held = report(str(name), image, found, used, form) | {"made_by": mine}
            coco.write_json(target, held)
            whole.append((str(name), tuple(held["size"]), held["annotations"]))
            counts["done"] += 1
        except LoupeError as error:
            failures.append({"image": str(name), "error": str(error)})
        except Exception as error:  # one picture must not lose the rest
            log.exception("%s failed", name)
            failures.append({"image": str(name), "error": type(error).__name__})
        counts["failed"] = len(failures)
        if not sys.stderr.isatty() and number % 20 == 0:
            print(before.rstrip(": "), file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if opened is None and len(failures) == len(files):
        raise LoupeError(f"no picture of {source} could be read: {failures[0]['error']}")
    out.mkdir(parents=True, exist_ok=True)
    coco.write(out / FAILED, lambda to: to.writelines(json_line(one) for one in failures))
    dataset = coco.dataset(whole)
    coco.write_json(out / DATASET, dataset)
    counts["masks"] = len(dataset["annotations"])
    return counts


def pictures(source: Path, out: Path) -> Iterator[Path]:
    """The pictures below a folder, those of the results left out; also those that fail to be read,
    to be counted."""
    for file in source.rglob("*"):
        if (
            file.suffix.lower() in (*ENDINGS, *UNREAD)
            and file.is_file()
            and out not in file.parents
        ):
            yield file


def found_before(target: Path, mine: dict[str, Any]) -> dict[str, Any] | None:
    """What a JSON says, where it was made by the same; None where it is to be made anew."""
    try:
        held = texts.read_json(target)
        whole = isinstance(held["annotations"], list) and len(held["size"]) == 2
        return held if whole and held["made_by"] == mine else None
    except (OSError, ValueError, KeyError, TypeError):  # none, another one's, or cut short
        return None


def sha256(file: Path) -> str:
    """Raises LoupeError."""
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError:
        raise LoupeError(f"{file.name} cannot be read: check its permissions") from None


def state_of(source: str) -> Any:
    """What tells a model from another of the same name: of a folder here its files."""
    path = Path(source)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [
        [file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns]
        for file in files
        if file.is_file()
    ]


def json_line(values: dict) -> bytes:
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()
