"""What programs may ask of Loupe, whatever language they speak: segment, ask, describe.

A picture comes as a data URL, never as an address or a path: nothing is fetched, no file is read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from PIL import Image

from adapters.images import load_image, load_region_mask
from adapters.memory import ran_out
from adapters.rle import decode_rle, encode_rle
from demo import batch
from demo.arguments import shown
from demo.serve.limits import BusyError, Limits, is_text
from qformer.assistant import Assistant
from qformer.contracts import ImageError, QuestionError, RegionError
from qformer.regions import Region
from qformer.view import View

log = logging.getLogger(__name__)

# RFC 2397: a media type, parameters, and whether what follows the comma is base64.
DATA_URL = re.compile(
    r"""\s*data:image/[a-z0-9.+*-]{1,40}(?:;[^;,="]+=(?:"[^"]*"|[^;,"]*))*(;base64)?,""",
    re.IGNORECASE,
)
URL_SAFE = str.maketrans("-_", "+/")
MOST_HEAD = 300  # characters before the comma


def picture_bytes(url: Any, limit: int) -> bytes:
    """The file inside a data URL. ImageError for anything else, a web address or a path first."""
    if not isinstance(url, str):
        raise ImageError("a picture is a text, data:image/png;base64,...")
    found = DATA_URL.match(url[:MOST_HEAD])
    if not found:
        raise ImageError(
            f"a picture comes as data:image/png;base64,... and not as {shown(url[:40])}:"
            " web addresses and paths are never opened"
        )
    try:
        content = content_of(url[found.end() :], found[1] is not None)
    except (binascii.Error, ValueError):
        raise ImageError("the picture's base64 is damaged: encode the file again") from None
    if len(content) > limit:
        raise ImageError(f"the picture is larger than {limit >> 20} MB: shrink it")
    return content


def content_of(text: str, in_base64: bool) -> bytes:
    """What stands behind a data URL's comma. Of base64, lines may be broken, the padding left out,
    the alphabet the one for addresses (RFC 4648). Raises ValueError."""
    if not in_base64:
        return unquote_to_bytes(text.strip())
    clean = "".join((unquote(text) if "%" in text else text).split()).rstrip("=")
    padded = clean.translate(URL_SAFE) + "=" * (-len(clean) % 4)
    return base64.b64decode(padded, validate=True)


class Shelf:
    """Views of pictures asked about before, for those who come back to them.

    A View is taken off while it is in use, so that two questions never share one, and is found
    only by the visitor who put it there.
    """

    def __init__(self, limits: Limits):
        self._limits = limits
        self._views: OrderedDict[tuple[str, bytes], View] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._views)

    def clear(self) -> None:
        with self._lock:
            self._views.clear()

    def take(self, key: tuple[str, bytes]) -> View | None:
        with self._lock:
            return self._views.pop(key, None)

    def put(self, key: tuple[str, bytes], view: View) -> None:
        with self._lock:
            self._views.pop(key, None)
            self._views[key] = view
            while len(self._views) > self._limits.pictures or self._pixels() > self._limits.kept:
                self._views.popitem(last=False)

    def _pixels(self) -> int:
        return sum(view.image.numel() for view in self._views.values())


class Doors:
    """The work behind every door. Errors are LoupeErrors."""

    def __init__(self, ready: Callable[[], Assistant | None], limits: Limits):
        """ready: the assistant, or None while it is being loaded."""
        self._ready, self.limits = ready, limits
        self.shelf = Shelf(limits)

    def assistant(self) -> Assistant:
        found = self._ready()
        if found is None:
            raise BusyError("the model is being loaded: come again in a moment", retry=3)
        return found

    @contextmanager
    def look(self, url: Any, owner: str) -> Iterator[View]:
        """The picture as the assistant has read it, for as long as it is needed. Raises BusyError
        where memory runs out meanwhile."""
        assistant = self.assistant()
        content = picture_bytes(url, self.limits.upload)
        key = (owner, hashlib.sha256(content).digest())
        try:
            view = self.shelf.take(key)
            if view is None or view.assistant is not assistant:
                view = assistant.encode(load_image(content))
            try:
                yield view
            finally:
                if assistant is self._ready():  # one that was replaced is not kept alive
                    self.shelf.put(key, view)
        except Exception as error:
            if not ran_out(error):
                raise
            log.error("memory ran out", exc_info=error)
            raise BusyError(
                "memory ran out: send a smaller picture or fewer regions, ask for fewer tokens, or"
                " come again later", 5, status=503
            ) from None  # fmt: skip

    def regions(self, view: View, wanted: Any) -> list[Region]:
        """Regions as `loupe ask --batch` takes them; {"mask"} is a data URL or COCO run lengths."""
        if not isinstance(wanted, Sequence) or isinstance(wanted, str | bytes):
            raise RegionError('"regions" is a list')
        if len(wanted) > self.limits.regions:
            most = self.limits.regions
            raise RegionError(f"{len(wanted)} regions are more than {most}: ask about fewer")
        return [self._region(view, one, number) for number, one in enumerate(wanted, 1)]

    def _region(self, view: View, wanted: Any, number: int) -> Region:
        if not isinstance(wanted, dict) or "mask" not in wanted:
            check_prompt(wanted)
            return batch.region(view, wanted, number)
        if len(wanted) > 1:
            raise RegionError('{"mask"} stands alone')
        drawn = wanted["mask"]
        if isinstance(drawn, dict):
            content = run_lengths(drawn, view.size)
        else:
            content = picture_bytes(drawn, self.limits.upload)
        return view.region(load_region_mask(content, view.size), f"region {number}")

    def question(self, text: Any) -> str:
        if not is_text(text):
            raise QuestionError("the question is not a text")
        if len(text) > self.limits.question:
            raise QuestionError(
                f"the question is longer than {self.limits.question} characters: cut it"
            )
        if not text.strip():
            raise QuestionError("the question is empty: type one")
        return text

    # The three things to do, as the gradio client and MCP call them --------------------------

    def ask(self, owner: str, picture: Any, question: Any, regions: Any = ()) -> dict:
        """{"answer", "regions": [{"box", "area", "score"}], "familiar"}"""
        text = self.question(question)
        with self.look(picture, owner) as view:
            found = self.regions(view, regions)
            answer = view.ask(text, found)
            return {
                "answer": answer,
                "regions": [batch.described(region) for region in found],
                "familiar": view.familiar,
            }

    def segment(self, owner: str, picture: Any, regions: Any) -> dict:
        """{"regions": [{"box", "area", "score", "rle"}]}, with COCO's run lengths."""
        if not regions:
            raise RegionError('nothing is pointed at: give "points", a "box" or a "mask"')
        with self.look(picture, owner) as view:
            found = self.regions(view, regions)
            cut = [encode_rle(region.region_mask) for region in found]
            told = zip(found, cut, strict=True)
            return {"regions": [{**batch.described(one), "rle": rle} for one, rle in told]}

    def describe(self, owner: str, picture: Any, regions: Any = ()) -> dict:
        """{"caption", "regions": [{"box", "area", "score", "caption"}], "familiar"}"""
        with self.look(picture, owner) as view:
            found = self.regions(view, regions)
            return {
                "caption": view.caption(),
                "regions": [{**batch.described(r), "caption": view.caption(r)} for r in found],
                "familiar": view.familiar,
            }


def check_prompt(wanted: Any) -> None:
    """Bounds a region's points, which the form of a batch line leaves open."""
    points = wanted.get("points", ()) if isinstance(wanted, dict) else ()
    if isinstance(points, list) and len(points) > 64:
        raise RegionError(f"{len(points)} points are more than 64: fewer say the same")
    box = wanted.get("box") if isinstance(wanted, dict) else None
    rows = [*(points if isinstance(points, list) else ()), box]
    numbers = [n for row in rows if isinstance(row, list) for n in row]
    if any(isinstance(n, int | float) and not abs(n) < 1e6 for n in numbers):
        raise RegionError("a coordinate is not a pixel of the picture")


def run_lengths(rle: dict, size: tuple[int, int]) -> Image.Image:
    """COCO's run lengths as a picture. size: (height, width) they must have, or RegionError."""
    return Image.fromarray(decode_rle(rle, size).numpy())
