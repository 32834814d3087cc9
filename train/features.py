"""What the frozen vision encoder says of a picture, kept on disk: it is the larger part of a step.

A file a picture, named by what it depends on: the encoder's weights and settings, and the
picture's own bytes. So a folder of features can be shared by any number of runs and processes, is
right whatever is interrupted (a file is renamed into place, whole), and may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from adapters.files import whole_file
from qformer.contracts import LoupeError
from qformer.regions import Box, focal_crop
from train.data.sample import Picture

MAGIC = b"loupe-f1"
HEADER = struct.Struct("<8s4sIIII")  # magic, kind, tokens, width, height and width of the picture
KINDS = {"bf16": b"bf16", "int8": b"int8"}
SWEEP = 1 << 28  # bytes written between two looks at the folder's size


@dataclass(frozen=True)
class CacheConfig:
    """folder: "" keeps nothing. dtype: int8 halves the space, with a scale for each token.
    gigabytes: the most it may take; what was used longest ago goes first."""

    folder: str = ""
    dtype: Literal["bf16", "int8"] = "bf16"
    gigabytes: float = 50.0

    def __post_init__(self) -> None:
        if self.gigabytes <= 0:
            raise LoupeError(f"cache.gigabytes={self.gigabytes:g} must be above 0")


@dataclass
class Seen:
    """One picture: image_embeds (tokens, width), its size in pixels (height, width), and, before
    it is encoded, its pixel_values (3, h, w) and the digest it will be kept under."""

    image_embeds: Tensor | None
    size: tuple[int, int]
    pixel_values: Tensor | None = None
    digest: str | None = None


@dataclass(frozen=True)
class Augment:
    """Changes of a picture at each visit; any of them turns the cache off. crop: the smallest
    share of each side that is cut out and stretched, 1 for none. flip: mirror half of the
    pictures ("left" then means right: for data that never say it). Neither goes with regions."""

    crop: float = 1.0
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise LoupeError(f"augment.crop={self.crop:g} must lie above 0 and up to 1")

    @property
    def any(self) -> bool:
        return self.crop < 1 or self.flip

    def apply(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        """uint8 (height, width, 3) -> the same kind."""
        if self.crop < 1:
            height, width = image.shape[:2]
            share = rng.uniform(self.crop, 1.0)
            rows, columns = max(1, round(height * share)), max(1, round(width * share))
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            image = image[top : top + rows, left : left + columns]
        if self.flip and rng.random() < 0.5:
            image = image.flip(1)
        return image


class FeatureCache:
    """What is kept of one encoder. trunk: of an encoder with a part that never trains, that part,
    whose tokens are kept."""

    def __init__(
        self, config: CacheConfig, vision: nn.Module, trunk: nn.Module | None = None
    ) -> None:
        self.config = config
        self.folder = Path(config.folder) / f"{fingerprint(vision, trunk)}-{config.dtype}"
        self.most = int(config.gigabytes * 1e9)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            raise LoupeError(
                f"cache.folder={config.folder} cannot be written: choose another"
            ) from None
        self._since = SWEEP  # the first write looks
        self.full = False

    def get(self, digest: str) -> Seen | None:
        """Read a picture's features; None where they are missing or their file is damaged."""
        path = self._path(digest)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        if len(content) < HEADER.size:
            return None
        magic, kind, tokens, width, height, across = HEADER.unpack_from(content)
        body = memoryview(content)[HEADER.size : -32]
        if magic != MAGIC or kind != KINDS[self.config.dtype]:
            return None
        if len(body) != self._bytes(tokens, width):
            return None
        if hashlib.sha256(body).digest() != content[-32:]:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # it was used now
        return Seen(self._decoded(body, tokens, width), (height, across))

    def put(self, digest: str, seen: Seen) -> Seen:
        """Keep it, and return it as `get` will: a first visit trains as every later one. Where the
        disk is full nothing more is kept, and training goes on."""
        tokens, width = seen.image_embeds.shape
        body = self._encoded(seen.image_embeds)
        if not self.full:
            self._write(digest, seen.size, body, tokens, width)
        return Seen(self._decoded(memoryview(body), tokens, width), seen.size)

    def _write(
        self, digest: str, size: tuple[int, int], body: bytes, tokens: int, width: int
    ) -> None:
        header = HEADER.pack(MAGIC, KINDS[self.config.dtype], tokens, width, *size)
        path = self._path(digest)
        try:
            path.parent.mkdir(exist_ok=True)
            with whole_file(path) as file:
                file.write(header + body + hashlib.sha256(body).digest())
        except OSError:
            self.full = True
            return
        self._since += len(body)
        if self._since >= min(SWEEP, self.most // 4):
            self._since = 0
            self._sweep()

    def _sweep(self) -> None:
        """Delete what was used longest ago, down to nine tenths of the most."""
        files = []
        for path in self.folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may sweep too
                about = path.stat()
                files.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self.most:
            return
        for _, size, path in sorted(files):
            if total <= 0.9 * self.most:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest[2:]

    def _bytes(self, tokens: int, width: int) -> int:
        return tokens * (2 * width if self.config.dtype == "bf16" else width + 4)

    def _encoded(self, image_embeds: Tensor) -> bytes:
        values = image_embeds.detach().float().cpu()
        if self.config.dtype == "bf16":
            return values.to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes()
        scale = values.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        levels = (values / scale).round().to(torch.int8)
        return scale.numpy().tobytes() + levels.numpy().tobytes()

    def _decoded(self, body: memoryview, tokens: int, width: int) -> Tensor:
        """(tokens, width), bfloat16 or float32."""
        if self.config.dtype == "bf16":
            raw = np.frombuffer(body, np.int16).reshape(tokens, width).copy()
            return torch.from_numpy(raw).view(torch.bfloat16)
        scale = np.frombuffer(body[: 4 * tokens], np.float32).reshape(tokens, 1)
        levels = np.frombuffer(body[4 * tokens :], np.int8).reshape(tokens, width)
        return torch.from_numpy(levels * scale)


@torch.no_grad()
def fingerprint(vision: nn.Module, trunk: nn.Module | None = None) -> str:
    """What features depend on: every weight, the resolution, the normalisation, the state read.
    trunk: the part of the encoder whose weights alone they depend on."""
    digest = hashlib.sha256()
    for name, value in sorted((trunk or vision).state_dict().items()):
        if ".pooler." in name or ".head." in name:  # never read, and random where not in the folder
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    for name in ("image_size", "grid", "leading_tokens", "hidden_state", "resample", "mean", "std"):
        value = getattr(vision, name, None)
        digest.update(f"{name}={value.tolist() if isinstance(value, Tensor) else value}".encode())
    return digest.hexdigest()[:24]


class Sight:
    """Pictures as the vision encoder sees them, from the cache where they are in it.

    trained: the encoder trains too; then pixel_values are handed out, and nothing is kept. Of an
    encoder with a trunk (adapters/hybrid.py) the trunk's tokens are handed out and kept instead,
    whether the rest trains or not.
    """

    def __init__(self, vision: Any, cache: CacheConfig, augment: Augment, trained: bool) -> None:
        self.vision, self.augment, self.trained = vision, augment, trained
        self.trunk: nn.Module | None = getattr(vision, "trunk", None)
        self.raw = trained and self.trunk is None  # pixel_values are handed out
        keeps = bool(cache.folder) and not self.raw and not augment.any
        self.cache = FeatureCache(cache, vision, self.trunk) if keeps else None

    def look(self, picture: Picture, rng: np.random.Generator | None) -> Seen:
        """Raises ImageError for a picture that is missing or broken. rng: None changes nothing."""
        digest = picture.digest() if self.cache is not None else None
        if digest is not None and self.cache is not None:
            found = self.cache.get(digest)
            if found is not None:
                return found
        image = picture.load()
        if rng is not None:
            image = self.augment.apply(image, rng)
        return self._new(image, (image.shape[0], image.shape[1]), digest)

    def close_up(self, picture: Picture, region_mask: Tensor, box: Box, how: str) -> Seen:
        """The focal crop of an area, encoded. region_mask: bool (H, W), whose box is `box`."""
        digest = None
        if self.cache is not None:
            inside = region_mask.numpy().tobytes() if how == "blurred" else b""
            told = f"{picture.digest()} {box} {how}".encode()
            digest = hashlib.sha256(told + inside).hexdigest()
            if (found := self.cache.get(digest)) is not None:
                return found
        crop, _ = focal_crop(picture.load(), region_mask, box, how)  # type: ignore[arg-type]
        seen = self._new(crop, (crop.shape[0], crop.shape[1]), digest)
        self.encode([seen])
        return seen

    def _new(self, image: Tensor, size: tuple[int, int], digest: str | None) -> Seen:
        return Seen(None, size, self.vision.preprocess(image.to(self.vision.device)), digest)

    @torch.no_grad()
    def encode(self, seen: Sequence[Seen]) -> None:
        """Fill in the image_embeds that are missing. On a CPU one by one, so that a picture comes
        out the same whatever else is in its batch: a resumed run finds others in the cache."""
        new = [one for one in seen if one.image_embeds is None]
        if self.raw or not new:
            return
        encode = self.vision.encode if self.trunk is None else self.vision.trunk_tokens
        at_once = 1 if self.vision.device.type == "cpu" else 32
        for start in range(0, len(new), at_once):
            part = new[start : start + at_once]
            encoded = encode(torch.stack([one.pixel_values for one in part]))
            for one, image_embeds in zip(part, encoded, strict=True):
                one.image_embeds, one.pixel_values = image_embeds, None
                if self.cache is not None and one.digest is not None:
                    one.image_embeds = self.cache.put(one.digest, one).image_embeds

    def stack(self, seen: Sequence[Seen]) -> Tensor:
        """image_embeds (B, tokens, width) in float32; pixel_values (B, 3, h, w) where it trains."""
        if self.raw:
            return torch.stack([one.pixel_values for one in seen])
        return torch.stack([one.image_embeds.float() for one in seen])

    def embeds(self, stacked: Tensor) -> Tensor:
        """`stack`'s result -> image_embeds, with gradients where the encoder trains."""
        if self.raw:
            return self.vision(stacked)
        if self.trunk is None:
            return stacked.to(self.vision.device)
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.vision.blend(stacked)
