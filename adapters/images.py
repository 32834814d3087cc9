"""Pictures and region masks from whatever a user hands in, or an error that says what to do."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from adapters.colours import to_srgb
from adapters.orientation import BACK, TURNS, orientation_of
from qformer.contracts import ImageError, RegionError

MEGAPIXELS = 64
MEGAPIXELS_OF = {"WEBP": 24, "AVIF": 48}  # their decoders hold a pixel several times
TILES = 100_000  # of a TIFF; Pillow lists them before it says how large the picture is
BAND = 1 << 19  # pixels that are converted at once: several forms of a whole picture are too much
# Raster formats only: others (EPS for one) hand the file to outside programs.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)
UNREAD = (  # pictures, too: to be counted and named, not passed over
    *(".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".svg", ".ico", ".psd", ".tga"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"),
)
TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")  # its first bytes
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # its "brands"
MANY = 64  # grey levels: a region mask of more is a photo or is noisy, not one of numbers
FEW = 64  # the brightest of a region mask whose levels are numbers, not brightness


def load_image(source: str | Path | bytes | Image.Image) -> Tensor:
    """A picture as a browser shows it: uint8 (height, width, 3), sRGB, upright.

    The first frame of an animation; transparency over white; 16 bits scaled to 8; colours by the
    profile that is embedded. Raises ImageError for what is no picture, is damaged, or has more than
    64 megapixels (checked before decoding). A path is a file here: nothing is fetched from the
    network.
    """
    name, picture, turn = _open_quietly(source)
    shown = to_srgb(picture)
    upright = (picture.width, picture.height) if turn > 4 else (picture.height, picture.width)
    image = np.empty((*upright, 3), np.uint8)
    rows = TURNS[BACK.get(turn, turn)](image)  # as they are stored
    try:
        for top, band in _bands(picture):
            rows[top : top + band.height] = np.asarray(_over(band, 255, shown))
    except ImageError:
        raise
    except Exception:  # a palette or profile that lies
        raise _damaged(name) from None
    return torch.from_numpy(image)


def load_region_mask(source: str | Path | bytes | Image.Image, size: tuple[int, int]) -> Tensor:
    """A region_mask, bool (height, width): the pixels brighter than half the brightest.

    So 0/1 and 0/255 files mean the same, and JPEG noise nothing. Where the pixels are numbers of
    things (a palette of colours, few levels of grey), one number is a region and several are not.
    size: (height, width) of the picture. Raises ImageError as load_image does, RegionError if it is
    empty, of another size or of several regions.
    """
    name, picture, turn = _open_quietly(source)
    try:
        region_mask = TURNS[turn](_bright(picture))
    except RegionError:
        raise
    except Exception:
        raise _damaged(name) from None
    if region_mask.shape != tuple(size):
        raise RegionError(
            f"the region mask is {region_mask.shape[1]}x{region_mask.shape[0]} pixels and the "
            f"picture {size[1]}x{size[0]}: save it at the picture's size"
        )
    if not region_mask.any():
        raise RegionError(
            "the region mask is empty (all black): paint the region white, or ask without a region"
        )
    return torch.from_numpy(np.ascontiguousarray(region_mask))


def _bright(picture: Image.Image) -> np.ndarray:
    """bool, as it is stored. Raises RegionError for numbers of several things."""
    colours = _palette(picture)
    if colours is not None and (colours != colours[:, :1]).any():
        return _numbered(picture, colours)
    if picture.mode.startswith("I"):
        values = np.asarray(picture)
    else:
        rows = np.empty((picture.height, picture.width), np.uint8)
        for top, band in _bands(picture):
            rows[top : top + band.height] = np.asarray(_over(band, 0).convert("L"))
        values = rows
    brightest = int(values.max())
    if picture.format not in ("JPEG", "MPO") and not picture.mode.startswith("F"):
        levels = np.unique(values)
        levels = levels[levels > 0]
        if 1 < len(levels) <= MANY:
            things = levels if brightest < FEW else [n for n in levels if _is_flat(values == n)]
            same = brightest >= FEW and all(4 * int(n) > 3 * brightest for n in things)
            if len(things) > 1 and not same:
                raise _several([int(n) for n in things])
    return (values > brightest / 2) & (values > 0)


def _palette(picture: Image.Image) -> np.ndarray | None:
    """uint8 (colours, 3) of a picture with a palette."""
    if picture.mode != "P" or picture.palette is None:
        return None
    stored = picture.getpalette("RGB") or []
    return np.array(stored, np.uint8).reshape(-1, 3)


def _numbered(picture: Image.Image, colours: np.ndarray) -> np.ndarray:
    """The pixels that hold a number: not that of the background (black, else the first), nor 255,
    which marks what is unclear in Pascal VOC's masks."""
    numbers = np.asarray(picture)
    here = np.unique(numbers)
    black = [n for n in here if n < len(colours) and not colours[n].any()]
    clear = picture.info.get("transparency")
    unseen = [clear] if isinstance(clear, int) else []
    if isinstance(clear, bytes):
        unseen = [n for n, alpha in enumerate(clear) if alpha == 0]
    things = [int(n) for n in here if n not in (black or [0]) and n != 255 and n not in unseen]
    if len(things) > 1:
        things = [n for n in things if _is_flat(numbers == n)] or things  # a soft edge is none
    if len(things) > 1:
        raise _several(things)
    return np.isin(numbers, things)


def _is_flat(inside: np.ndarray) -> bool:
    """Whether most of these pixels lie in squares of four: a thing does, an edge or noise not."""
    square = inside[1:, 1:] & inside[:-1, 1:] & inside[1:, :-1] & inside[:-1, :-1]
    filled = np.zeros_like(inside)
    for down in (slice(1, None), slice(None, -1)):
        for across in (slice(1, None), slice(None, -1)):
            filled[down, across] |= square
    return bool(2 * filled.sum() > inside.sum())


def _several(things: list[int]) -> RegionError:
    listed = ", ".join(map(str, things[:5])) + (", ..." if len(things) > 5 else "")
    return RegionError(
        f"the region mask holds {len(things)} regions, of the values {listed}: save the one that "
        "is meant, white on black"
    )


def _bands(picture: Image.Image):
    """(top, band) of a picture, a few rows each."""
    rows = max(1, BAND // picture.width)
    for top in range(0, picture.height, rows):
        yield top, picture.crop((0, top, picture.width, min(picture.height, top + rows)))


def _over(
    band: Image.Image, ground: int, shown: Callable[[Image.Image], Image.Image] | None = None
) -> Image.Image:
    """A band over a grey ground, RGB; shown: changes its colours before."""
    if band.mode.startswith("I"):
        band = _eight_bits(band)
    if band.mode in ("PA", "RGBa") or "transparency" in band.info:
        band = band.convert("RGBA")
    alpha = band.getchannel("A") if "A" in band.getbands() else None
    if alpha is not None:
        band = band.convert("L" if band.mode == "LA" else "RGB")
    band = shown(band) if shown is not None else band.convert("RGB")
    if alpha is not None:
        plain = Image.new("RGB", band.size, (ground,) * 3)
        plain.paste(band, mask=alpha)
        band = plain
    return band


def _open_quietly(source: str | Path | bytes | Image.Image) -> tuple[str, Image.Image, int]:
    with warnings.catch_warnings():  # what matters is raised as an error
        warnings.simplefilter("ignore")
        name, picture = _open(source)
        return name, picture, orientation_of(picture)


def _open(source: str | Path | bytes | Image.Image) -> tuple[str, Image.Image]:
    """A name for messages, and the first frame, decoded as it is stored. Never repeats Pillow's
    texts: they hold addresses."""
    name, content = "the picture", b""
    try:
        if isinstance(source, Image.Image):
            picture = source
        else:
            if not isinstance(source, bytes):
                name, source = _read(source)
            if not source:
                raise ImageError(f"{name} is empty (0 bytes): choose another file")
            content = source
            if content[:4] in TIFF:
                _check_tiff(name, content)
            Image.init()
            known = [form for form in FORMATS if form in Image.OPEN]
            picture = Image.open(io.BytesIO(content), formats=known)
    except UnidentifiedImageError:
        raise _unknown(name, content) from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has far too many pixels: shrink it to {MEGAPIXELS} MP") from None
    except ImageError:
        raise
    except Exception:  # a header that lies makes the decoders raise anything
        raise _damaged(name) from None
    most = MEGAPIXELS_OF.get(picture.format or "", MEGAPIXELS)
    _check_size(name, picture.width, picture.height, most)
    if picture.mode == "F":
        raise ImageError(f"{name} holds floating point values: save it with 8 or 16 bits")
    if picture.mode == "LAB":
        raise ImageError(f"{name} holds Lab colours: save it in RGB")
    tiles = getattr(picture, "tile", None)
    coding = tiles[0][3] if tiles else None
    try:
        picture.load()
        _mend_transparency(picture, coding)
    except Exception:  # OSError, SyntaxError, struct.error, zlib.error, ...
        raise _damaged(name) from None
    return name, picture


def _check_size(name: str, width: int, height: int, most: int = MEGAPIXELS) -> None:
    if width * height > most * 1_000_000:
        raise ImageError(
            f"{name} is {width}x{height} pixels ({width * height / 1e6:.0f} MP): shrink it to "
            f"{most} MP or less"
        )


def _check_tiff(name: str, content: bytes) -> None:
    """Raises ImageError where a TIFF says that it is too large, before Pillow lists its tiles."""
    large = content[2:3] == b"+"  # BigTIFF
    tags = TiffImagePlugin.ImageFileDirectory_v2(content[: 16 if large else 8])
    file = io.BytesIO(content)
    file.seek(tags.next)
    tags.load(file)
    width, height = int(tags.get(256) or 0), int(tags.get(257) or 0)
    _check_size(name, width, height)
    across, down = int(tags.get(322) or width), int(tags.get(323) or tags.get(278) or height)
    planes = max(1, int(tags.get(277) or 1))
    if width and height and across > 0 and down > 0:
        tiles = -(-width // across) * -(-height // down) * planes
        if tiles > TILES:
            raise ImageError(f"{name} is cut into {tiles} tiles: {TILES} at most; save it anew")


def _mend_transparency(picture: Image.Image, coding: object) -> None:
    """PNG's transparent value as the pixels are now. Pillow widens grey of 2 and 4 bits and cuts
    colours of 16, and leaves the value as it was; where more values are transparent than the
    palette has, browsers show all of it. coding: of the pixels in the file."""
    clear = picture.info.get("transparency")
    if picture.format != "PNG" or clear is None:
        return
    if coding in ("L;2", "L;4") and isinstance(clear, int):
        picture.info["transparency"] = clear * (85 if coding == "L;2" else 17)
    elif coding == "RGB;16B" and isinstance(clear, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in clear)
    elif isinstance(clear, bytes) and len(clear) > len(picture.getpalette("RGB") or ()) // 3:
        del picture.info["transparency"]


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


def _unknown(name: str, content: bytes) -> ImageError:
    if content[4:8] == b"ftyp" and content[8:12] in HEIC:
        return ImageError(
            f"{name} is a HEIC photo, which Loupe does not read: save it as JPEG (an iPhone takes"
            " JPEGs after Settings, Camera, Formats, Most Compatible)"
        )
    return ImageError(
        f"{name} is not a picture that Loupe reads: use PNG, JPEG, WebP, GIF, BMP or TIFF"
    )


def _damaged(name: str) -> ImageError:
    return ImageError(f"{name} is damaged or cut short: save or download it again")


def _eight_bits(band: Image.Image) -> Image.Image:
    """Modes I;16 and I (also 32 bits) -> L, or LA where a value is transparent. Pillow's own
    convert would clip at 255."""
    values = np.asarray(band)
    if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
        raise ImageError("the picture has 32 bits a pixel: save it with 8 or 16")
    grey = Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    clear = band.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey
