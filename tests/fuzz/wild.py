"""What is fed to Loupe to see it fail: files, values and trees that were changed at random.

All of it follows from a `random.Random`, so that a number is enough to have a case again.
"""

from __future__ import annotations

import copy
import io
import math
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 255, 2**31, 2**63, 10**400, 0.5, -0.5, 1e-30, 1e9, 1e308),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        " ",
        "x",
        "5",
        "nan",
        "\ufeff",
        "\ud800",
        "a/../b",
        "é" * 999,
    ),
    *([], [None], [[]], [0] * 7, [1e9] * 6, {}, {"id": 1}, {"counts": "x"}, DEEP),
)
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def changed(random: Random, tree: Any) -> Any:
    """A JSON tree with one to three changes: a value for another, a key gone or called otherwise,
    an entry twice."""
    tree = copy.deepcopy(tree)
    for _ in range(random.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            return random.choice(VALUES)
        holder, key = random.choice(places)
        way = random.random()
        if way < 0.6:
            holder[key] = copy.deepcopy(random.choice(VALUES))
        elif way < 0.75:
            del holder[key]
        elif way < 0.85 and isinstance(holder, dict):
            holder[f"{key}{random.choice('sx_')}"] = holder.pop(key)
        elif way < 0.95 and isinstance(holder[key], int | float) and abs(holder[key]) < 1e300:
            holder[key] *= random.choice((-1, 0.5, 2, 1000, 1e7))
        elif isinstance(holder, list):
            holder.insert(0, copy.deepcopy(holder[key]))
        else:
            holder[key] = [holder[key]]
    return tree


def _places(tree: Any) -> Any:
    """(holder, key) of everything in a tree."""
    keys = (
        range(len(tree)) if isinstance(tree, list) else list(tree) if isinstance(tree, dict) else ()
    )
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def damaged(random: Random, content: bytes) -> bytes:
    """A file with a few bytes flipped, a number set to an extreme, a part gone, twice or moved."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        size = len(data)
        if not size:
            break
        # Half of the changes meet the head, where a file says what it is.
        place = random.randrange(size if random.random() < 0.5 else min(size, 200))
        way = random.random()
        if way < 0.35:
            data[place] ^= 1 << random.randrange(8)
        elif way < 0.5:
            data[place] = random.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif way < 0.75:
            width = random.choice((2, 4))
            number = random.choice(INTEGERS) & (256**width - 1)
            data[place : place + width] = number.to_bytes(width, random.choice(("big", "little")))
        elif way < 0.85:
            del data[place : place + random.choice((1, 4, 64, size))]
        else:
            part = data[place : place + random.choice((1, 12, 300))]
            data[place:place] = part * random.randint(1, 3)
    return bytes(data)


def picture(random: Random) -> tuple[str, bytes]:
    """A whole small picture in one of twelve formats, in a mode and with parts that it may have."""
    size = (random.randint(1, 70), random.randint(1, 50))
    noise = np.frombuffer(random.randbytes(size[0] * size[1] * 3), np.uint8)
    photo = Image.fromarray(noise.reshape(size[1], size[0], 3))
    flat = Image.new("RGB", size, (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = random.randint(0, 9)
    exif[0x0131] = "a program"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    deep = Image.fromarray(noise[: size[0] * size[1]].astype(np.uint16).reshape(size[::-1]) * 257)
    tiles = TiffImagePlugin.ImageFileDirectory_v2()
    tiles[322], tiles[323] = 16, 16
    packing = random.choice(("raw", "tiff_lzw", "tiff_deflate", "jpeg"))
    palette = photo.quantize(random.randint(2, 256))
    made: list[tuple[str, Image.Image, dict[str, Any]]] = [
        ("PNG", photo, {"exif": exif, "icc_profile": profile}),
        ("PNG", palette, {"transparency": random.randbytes(random.randint(1, 256))}),
        ("PNG", deep, {"transparency": 257}),
        ("PNG", photo.convert("RGBA"), {}),
        ("JPEG", photo, {"exif": exif, "icc_profile": profile, "progressive": True}),
        ("JPEG", photo.convert("CMYK"), {}),
        ("WEBP", photo, {"exif": exif}),
        ("WEBP", flat.convert("RGBA"), {"save_all": True, "append_images": [photo]}),
        ("GIF", palette, {"save_all": True, "append_images": [palette]}),
        ("BMP", photo, {}),
        ("BMP", palette, {}),
        (
            "TIFF",
            photo,
            {"compression": packing},
        ),
        ("TIFF", deep, {}),
        ("TIFF", photo, {"tiffinfo": tiles, "compression": "tiff_adobe_deflate"}),
        ("PPM", photo, {}),
        ("PPM", photo.convert("L"), {}),
        ("PPM", photo.convert("1"), {}),
        ("MPO", photo, {"save_all": True, "append_images": [flat]}),
        ("AVIF", photo, {}),
        ("ICO", photo, {}),
        ("TGA", photo, {}),
    ]
    form, chosen, options = random.choice(made)
    return form, _file(chosen, form, options)


def _file(chosen: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    chosen.save(file, form, **options)
    return file.getvalue()


def save(pixels: Any, file: Path) -> None:
    """A tensor (height, width, 3) as a PNG."""
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(file, "PNG")
