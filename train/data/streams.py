"""Tables and archives read as a stream: parquet files and webdataset tars, many of each.

A table has a column "image" or "jpg" (a file's bytes, or {"bytes"} as `datasets` writes it), the
others as in a JSONL line. An archive holds a picture and a .json or .txt of the same name, side by
side. Of a line that says nothing in our words, the .txt or its "caption" is the text, as in the
shards of img2dataset. A folder, a pattern, or {00000..00012}.tar names several files.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from adapters import texts
from adapters.images import ENDINGS, UNREAD
from qformer.contracts import LoupeError
from train.data.folder import SAYS, area_of, turns_of
from train.data.pictures import MemoryPicture
from train.data.sample import BadSampleError, Sample, Tally
from train.data.source import DataConfig

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
PICTURES = (*ENDINGS, *UNREAD)  # the latter are counted by the name of what they are


def shards(config: DataConfig, suffix: str) -> list[Path]:
    """The files of `path`: itself, those of a folder, or those a pattern matches."""
    path, braces = Path(config.path), BRACES.search(config.path)
    if braces is not None:
        start, stop = braces.groups()
        numbers = range(int(start), int(stop) + 1)
        names = [BRACES.sub(f"{number:0{len(start)}d}", config.path, 1) for number in numbers]
        found = [Path(name) for name in names]
        lost = [one for one in found if not one.is_file()]
        if lost:
            raise LoupeError(f"there is no file {lost[0]}, which {config.path} names: check path")
    elif path.is_dir():
        found = sorted(path.glob(f"*{suffix}"))
    elif any(mark in path.name for mark in "*?["):
        found = sorted(path.parent.glob(path.name))
    else:
        found = [path] if path.is_file() else []
    if not found:
        raise LoupeError(f"there is no {suffix} file at {config.path}: check path")
    return found


def said(line: dict[str, Any], text: bytes | None = None) -> dict[str, Any]:
    """A line that says something: by its own words, else by the text beside it or its caption."""
    line = {key: value for key, value in line.items() if value is not None}
    if line.keys() & set(SAYS):
        return line
    caption = line.get("caption") if text is None else texts.decode(text).strip()
    return line if caption is None else {**line, "text": caption}


def sample_of(line: dict[str, Any], picture: MemoryPicture, folder: Path) -> Sample:
    areas = tuple(area_of(region, folder, line) for region in line.get("regions") or ())
    turns = turns_of(line)
    name = str(line.get("id", picture.key))
    return Sample(name, picture, turns, areas, "conversation" in line)


def read_parquet(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError:
        raise LoupeError('parquet needs pyarrow: pip install "loupe-assistant[data]"') from None
    for file in shards(config, ".parquet"):
        number = 0
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=64):
                for line in batch.to_pylist():
                    place = f"{file.name}, row {number}"
                    number += 1
                    with tally.row(place):
                        line = said(line)
                        image = line["image"] if "image" in line else line["jpg"]
                        content = image["bytes"] if isinstance(image, dict) else image
                        if not isinstance(content, bytes):
                            raise BadSampleError("a row has no picture")
                        picture = MemoryPicture(f"{file}/{number - 1}", content)
                        yield sample_of(line, picture, file.parent)
        except (ArrowException, OSError):
            tally.add("a parquet file is damaged; its rest is left out", f"{file.name}, {number}")


def read_tars(config: DataConfig, tally: Tally) -> Iterator[Sample]:
    for file in shards(config, ".tar"):
        try:
            with tarfile.open(file, "r|*") as archive:
                for name, parts in groups(archive):
                    with tally.row(f"{file.name}, {name}"):
                        content = next((parts[s] for s in PICTURES if s in parts), None)
                        if content is None:
                            raise BadSampleError("a member has no picture")
                        line = texts.parse_json(parts.get(".json", b"{}"))
                        line = said(line, parts.get(".txt"))
                        picture = MemoryPicture(f"{file}/{name}", content)
                        yield sample_of(line, picture, file.parent)
        except (tarfile.TarError, OSError, EOFError):
            tally.add("a tar file is damaged; its rest is left out", file.name)


def groups(archive: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Neighbours of one name: (name, {suffix: content})."""
    name, parts = "", {}
    for member in archive:
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        base, dot, suffix = path.name.partition(".")
        key = str(path.parent / base)
        if key != name and parts:
            yield name, parts
            parts = {}
        name = key
        content = archive.extractfile(member)
        parts[(dot + suffix).lower()] = content.read() if content is not None else b""
    if parts:
        yield name, parts
