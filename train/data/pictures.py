"""Pictures where they lie: in a folder, a zip archive, a NumPy array, or in memory."""

from __future__ import annotations

import hashlib
import os
import zipfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from adapters.images import load_image
from qformer.contracts import ImageError, LoupeError
from train.data.sample import Picture


@dataclass(frozen=True)
class FilePicture:
    path: Path

    @property
    def key(self) -> str:
        return str(self.path)

    def load(self) -> Tensor:
        return load_image(self.path)

    def digest(self) -> str:
        try:
            about = self.path.stat()
            return _file_digest(self.path, about.st_size, about.st_mtime_ns)
        except (OSError, ValueError):
            raise ImageError(f"there is no file {self.path}: check the path") from None


@lru_cache(maxsize=1 << 20)
def _file_digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ZippedPicture:
    archive: Path
    member: str

    @property
    def key(self) -> str:
        return f"{self.archive}/{self.member}"

    def load(self) -> Tensor:
        return load_image(self._read())

    def digest(self) -> str:
        return hashlib.sha256(self._read()).hexdigest()

    def _read(self) -> bytes:
        try:
            return _archive(self.archive, os.getpid()).read(self.member)
        except KeyError:
            raise ImageError(f"there is no {self.member} in {self.archive.name}") from None
        except (OSError, zipfile.BadZipFile, RuntimeError):
            raise ImageError(f"{self.archive.name} is damaged: download it again") from None


@lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """process: a fork must not share its parent's place in the file."""
    return zipfile.ZipFile(path)


@dataclass(frozen=True)
class ArrayPicture:
    """Row `index` of the array "images" in an .npz, uint8 (pictures, height, width, 3)."""

    file: Path
    index: int

    @property
    def key(self) -> str:
        return f"{self.file}/{self.index}"

    def load(self) -> Tensor:
        rows = array_of(self.file)
        if not 0 <= self.index < len(rows):
            raise ImageError(f"{self.file.name} has {len(rows)} pictures, and no {self.index}")
        return torch.from_numpy(rows[self.index].copy())

    def digest(self) -> str:
        return hashlib.sha256(self.load().numpy().tobytes()).hexdigest()


@lru_cache(maxsize=8)
def array_of(file: Path) -> np.ndarray:
    """Raises ImageError for a file that holds no pictures."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            rows = arrays["images"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise ImageError(f'{file} is missing, or holds no array "images": check it') from None
    if rows.dtype != np.uint8 or rows.ndim != 4 or rows.shape[3] != 3:
        raise ImageError(f"{file}: images are {rows.dtype} {rows.shape}, not uint8 (n, h, w, 3)")
    return rows


@dataclass(frozen=True)
class MemoryPicture:
    """A picture's file, read already: of a table or a stream."""

    key: str
    content: bytes = field(repr=False)

    def load(self) -> Tensor:
        return load_image(self.content)

    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


class Gallery:
    """The pictures of a data set by file name: a folder, or a zip archive of one."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.members: dict[str, str] | None = None
        if source.is_dir():
            return
        if source.suffix.lower() != ".zip" or not source.is_file():
            raise LoupeError(f"images={source}: there is no such folder or zip archive")
        try:
            names = _archive(source, os.getpid()).namelist()
        except (OSError, zipfile.BadZipFile):
            raise LoupeError(f"images={source} is no whole zip archive: download it") from None
        # Archives differ in the folders they put around the same names.
        self.members = {PurePosixPath(name).name: name for name in names} | {n: n for n in names}

    def __getitem__(self, name: str) -> Picture:
        """A picture that is missing shows only when it is loaded."""
        if self.members is None:
            return FilePicture(self.source / name)
        return ZippedPicture(self.source, self.members.get(name, name))

    def first(self, *names: str) -> Picture:
        """The first of several names that is there; the first of all if none is."""
        for name in names:
            there = (self.source / name).is_file() if self.members is None else name in self.members
            if there:
                return self[name]
        return self[names[0]]
