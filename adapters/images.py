"""Pictures and region masks from whatever a user hands in, or an error that says what to do."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from qformer.contracts import ImageError, RegionError

MEGAPIXELS = 64
# Raster formats only: others (EPS for one) hand the file to outside programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")


def load_image(source: str | Path | bytes | Image.Image) -> Tensor:
    """A picture as a viewer shows it: uint8 (height, width, 3), RGB, upright.

    The first frame of an animation; transparency over white; 16 bits scaled to 8. Raises
    ImageError for what is no picture, is damaged, or has more than 64 megapixels (checked before
    decoding). A path is a file here: nothing is fetched from the network.
    """
    picture = _open_quietly(source)
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return torch.from_numpy(np.array(picture.convert("RGB")))


def load_region_mask(source: str | Path | bytes | Image.Image, size: tuple[int, int]) -> Tensor:
    """A region_mask, bool (height, width): the pixels brighter than half the brightest.

    So 0/1 and 0/255 files mean the same, and JPEG noise nothing. size: (height, width) of the
    picture. Raises ImageError as load_image does, RegionError if it is empty or of another size.
    """
    picture = _open_quietly(source)
    if picture.size != (size[1], size[0]):
        raise RegionError(
            f"the region mask is {picture.width}x{picture.height} pixels and the picture "
            f"{size[1]}x{size[0]}: save it at the picture's size"
        )
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")  # what is transparent is not in the region
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    if not picture.mode.startswith("I"):
        picture = picture.convert("L")
    values = torch.from_numpy(np.array(picture).astype(np.float32))
    region_mask = (values > values.max() / 2) & (values > 0)
    if not region_mask.any():
        raise RegionError(
            "the region mask is empty (all black): paint the region white, or ask without a region"
        )
    return region_mask


def _open_quietly(source: str | Path | bytes | Image.Image) -> Image.Image:
    with warnings.catch_warnings():  # what matters is raised as an error
        warnings.simplefilter("ignore")
        return _open(source)


def _open(source: str | Path | bytes | Image.Image) -> Image.Image:
    """The first frame, decoded and upright. Never repeats Pillow's texts: they hold addresses."""
    name = "the picture"
    try:
        if isinstance(source, Image.Image):
            picture = source
        else:
            if not isinstance(source, bytes):
                name, source = _read(source)
            if not source:
                raise ImageError(f"{name} is empty (0 bytes): choose another file")
            Image.init()
            known = [form for form in FORMATS if form in Image.OPEN]
            picture = Image.open(io.BytesIO(source), formats=known)
    except UnidentifiedImageError:
        raise ImageError(
            f"{name} is not a picture that Loupe reads: use PNG, JPEG, WebP, GIF, BMP or TIFF"
        ) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has far too many pixels: shrink it to {MEGAPIXELS} MP") from None
    except ImageError:
        raise
    except Exception:  # a header that lies makes the decoders raise anything
        raise _damaged(name) from None
    if picture.width * picture.height > MEGAPIXELS * 1_000_000:
        raise ImageError(
            f"{name} is {picture.width}x{picture.height} pixels "
            f"({picture.width * picture.height / 1e6:.0f} MP): shrink it to {MEGAPIXELS} MP or less"
        )
    if picture.mode == "F":
        raise ImageError(f"{name} holds floating point values: save it with 8 or 16 bits")
    try:
        picture.load()
    except Exception:  # OSError, SyntaxError, struct.error, zlib.error, ...
        raise _damaged(name) from None
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF: viewers, too, show it as it is stored
        return picture


def _read(path: str | Path) -> tuple[str, bytes]:
    text = str(path)
    if text.startswith(("http://", "https://")):
        raise ImageError(f"{text} is a web address: save the picture and give the file")
    name = Path(text).name or text
    try:
        return name, Path(text).read_bytes()
    except FileNotFoundError:
        raise ImageError(f"there is no file {text}: check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{text} is a folder: give a picture file") from None
    except (OSError, ValueError):
        raise ImageError(f"{text} cannot be read: check its name and permissions") from None


def _damaged(name: str) -> ImageError:
    return ImageError(f"{name} is damaged or cut short: save or download it again")


def _eight_bits(picture: Any) -> Image.Image:
    """Modes I;16 and I (also 32 bits) -> L. Pillow's own convert would clip at 255."""
    values = np.array(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("the picture has 32 bits a pixel: save it with 8 or 16")
    return Image.fromarray(np.round(values / 257).astype(np.uint8))
