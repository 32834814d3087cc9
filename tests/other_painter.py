"""A second painter, for tests: the kinds, colours and textures of painted scenes in another hand.

It shares nothing with train/: its own proportions, its own palette, fixed shapes without variants.
What the embedded default knows must hold for its pictures too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter

COLOURS = {  # pure, as CSS has them, and softer
    "red": ("#ff0000", "#dc322f"),
    "orange": ("#ffa500", "#ff8c1a"),
    "yellow": ("#ffff00", "#fad23c"),
    "green": ("#008000", "#3caa5a"),
    "blue": ("#0000ff", "#4169e1"),
    "cyan": ("#00ffff", "#40c8dc"),
    "purple": ("#800080", "#8c46b4"),
    "pink": ("#ffc0cb", "#ff82b4"),
}
TEXTURES = ("solid", "striped", "dotted")
BACKGROUNDS = ("white", "#f0f0f0", "#fff8e7", "#e6eef5", "#dfe8d8", "#c8c8c8", "#30343c")
SIZES = ((400, 300), (400, 300), (300, 400), (320, 320), (640, 360), (220, 165))
INK, PALE, WOOD = "#202020", "#f8f8f8", "#8b5a2b"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thing:
    """One painted object. click: a pixel well inside its coloured part."""

    kind: str
    colour: str
    texture: str
    box: tuple[int, int, int, int]  # x0, y0, x1, y1; the last two outside
    click: tuple[int, int]
    region_mask: np.ndarray  # bool (height, width)


class Pen:
    """Draws in [-1, 1] x [-1, 1], y down: the coloured `body`, and `details` on top of it."""

    def __init__(self, size: tuple[int, int], x: float, y: float, reach: float) -> None:
        self.body, self.details = Image.new("L", size), Image.new("RGBA", size)
        self.x, self.y, self.reach = x, y, reach

    def at(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + self.reach * px, self.y + self.reach * py) for px, py in points]

    def ellipse(self, x: float, y: float, rx: float, ry: float = 0, ink: str = "") -> None:
        corners = self.at((x - rx, y - (ry or rx)), (x + rx, y + (ry or rx)))
        self._draw(ink).ellipse(corners, fill=ink or 255)

    def polygon(self, *points: tuple[float, float], ink: str = "") -> None:
        self._draw(ink).polygon(self.at(*points), fill=ink or 255)

    def box(self, x0: float, y0: float, x1: float, y1: float, ink: str = "") -> None:
        self._draw(ink).rectangle(self.at((x0, y0), (x1, y1)), fill=ink or 255)

    def round_box(self, x0: float, y0: float, x1: float, y1: float, corner: float) -> None:
        radius = corner * self.reach
        self._draw("").rounded_rectangle(self.at((x0, y0), (x1, y1)), radius, fill=255)

    def line(self, *points: tuple[float, float], ink: str) -> None:
        self._draw(ink).line(self.at(*points), fill=ink, width=max(1, round(self.reach / 22)))

    def hole(self, x: float, y: float, radius: float) -> None:
        corners = self.at((x - radius, y - radius), (x + radius, y + radius))
        ImageDraw.Draw(self.body).ellipse(corners, fill=0)

    def _draw(self, ink: str) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.details if ink else self.body)


def circle(pen: Pen) -> None:
    pen.ellipse(0, 0, 1)


def square(pen: Pen) -> None:
    pen.box(-0.86, -0.86, 0.86, 0.86)


def triangle(pen: Pen) -> None:
    pen.polygon((0, -0.9), (0.95, 0.75), (-0.95, 0.75))


def star(pen: Pen) -> None:
    turns = [math.pi * (i / 5 - 0.5) for i in range(10)]
    pen.polygon(*[
        (math.cos(t) * r, math.sin(t) * r) for t, r in zip(turns, (1, 0.4) * 5, strict=True)
    ])  # fmt: skip


def heart(pen: Pen) -> None:
    pen.ellipse(-0.46, -0.35, 0.5)
    pen.ellipse(0.46, -0.35, 0.5)
    pen.polygon((-0.9, -0.12), (0, -0.4), (0.9, -0.12), (0, 0.95))


def ring(pen: Pen) -> None:
    pen.ellipse(0, 0, 1)
    pen.hole(0, 0, 0.55)


def house(pen: Pen) -> None:
    pen.box(-0.7, -0.15, 0.7, 0.95)
    pen.polygon((-0.95, -0.15), (0, -0.95), (0.95, -0.15))
    pen.box(-0.5, 0.35, -0.12, 0.95, ink=WOOD)
    pen.box(0.15, 0.2, 0.5, 0.55, ink=PALE)


def tree(pen: Pen) -> None:
    pen.box(-0.13, 0.2, 0.13, 1, ink=WOOD)
    pen.ellipse(0, -0.35, 0.7, 0.65)


def car(pen: Pen) -> None:
    pen.round_box(-1, -0.1, 1, 0.4, 0.12)
    pen.polygon((-0.6, -0.1), (-0.42, -0.55), (0.42, -0.55), (0.65, -0.1))
    pen.polygon((-0.47, -0.12), (-0.35, -0.45), (-0.05, -0.45), (-0.05, -0.12), ink=PALE)
    pen.polygon((0.05, -0.12), (0.05, -0.45), (0.35, -0.45), (0.5, -0.12), ink=PALE)
    for x in (-0.55, 0.55):
        pen.ellipse(x, 0.4, 0.22, ink=INK)


def fish(pen: Pen) -> None:
    pen.ellipse(-0.2, 0, 0.8, 0.48)
    pen.polygon((0.45, 0), (1, -0.45), (1, 0.45))
    pen.ellipse(-0.62, -0.12, 0.1, ink=PALE)
    pen.ellipse(-0.64, -0.12, 0.05, ink=INK)


def flower(pen: Pen) -> None:
    for i in range(6):
        pen.ellipse(0.6 * math.cos(i * math.pi / 3), 0.6 * math.sin(i * math.pi / 3), 0.36)
    pen.ellipse(0, 0, 0.26, ink=PALE)


def cat(pen: Pen) -> None:
    pen.ellipse(0, 0.1, 0.85, 0.78)
    for side in (-1, 1):
        pen.polygon((0.78 * side, 0), (0.7 * side, -0.95), (0.15 * side, -0.55))
        pen.ellipse(0.33 * side, 0, 0.1, 0.13, ink=INK)
        pen.line((0.2 * side, 0.38), (0.7 * side, 0.3), ink=INK)
        pen.line((0.2 * side, 0.45), (0.7 * side, 0.5), ink=INK)
    pen.polygon((-0.09, 0.28), (0.09, 0.28), (0, 0.4), ink=INK)


KINDS: dict[str, Callable[[Pen], None]] = {
    "circle": circle, "square": square, "triangle": triangle, "star": star, "heart": heart,
    "ring": ring, "house": house, "tree": tree, "car": car, "fish": fish, "flower": flower,
    "cat": cat,
}  # fmt: skip


def paint(seed: int) -> tuple[Image.Image, list[Thing]]:
    """A picture of one to four things well apart; the same seed paints the same one."""
    rng = np.random.default_rng(seed)
    size = SIZES[int(rng.integers(len(SIZES)))]
    smooth = 2 if rng.random() < 0.7 else 1  # painted larger, or with hard edges
    canvas = _background(rng, size, smooth)
    placed: list[tuple[float, float, float]] = []
    things = []
    for _ in range(int(rng.integers(1, 5))):
        place = _free_place(rng, size, placed)
        if place is None:
            break
        placed.append(place)
        kind, colour = str(rng.choice(list(KINDS))), str(rng.choice(list(COLOURS)))
        texture = str(rng.choice(TEXTURES, p=(0.5, 0.25, 0.25)))
        pen = Pen(canvas.size, *(smooth * value for value in place))
        KINDS[kind](pen)
        rgb = ImageColor.getrgb(COLOURS[colour][int(rng.integers(2))])
        canvas.paste(_fill(rng, canvas.size, rgb, texture, pen.reach), (0, 0), pen.body)
        canvas.paste(pen.details, (0, 0), pen.details)
        things.append(_thing(kind, colour, texture, pen, size))
    return _stored(rng, canvas.resize(size, Image.Resampling.LANCZOS)), things


def _background(rng: np.random.Generator, size: tuple[int, int], smooth: int) -> Image.Image:
    first, second = (str(c) for c in rng.choice(BACKGROUNDS[:-1], 2, replace=False))
    size = (size[0] * smooth, size[1] * smooth)
    if rng.random() < 0.15:
        return Image.new("RGB", size, BACKGROUNDS[-1])
    if rng.random() < 0.6:
        return Image.new("RGB", size, first)
    ramp = Image.linear_gradient("L").rotate(int(rng.choice((0, 90)))).resize(size)
    return Image.composite(Image.new("RGB", size, second), Image.new("RGB", size, first), ramp)


def _free_place(
    rng: np.random.Generator, size: tuple[int, int], placed: list[tuple[float, float, float]]
) -> tuple[float, float, float] | None:
    """Middle and reach of one more thing, in pixels; None where the picture is full."""
    unit = math.sqrt(size[0] * size[1])
    for _ in range(200):
        reach = unit * rng.choice((0.08, 0.12, 0.18))
        x, y = (rng.uniform(1.1 * reach, side - 1.1 * reach) for side in size)
        if all(math.dist((x, y), p[:2]) > 1.25 * (reach + p[2]) for p in placed):
            return x, y, reach
    return None


def _fill(
    rng: np.random.Generator, size: tuple[int, int], rgb: tuple, texture: str, reach: float
) -> Image.Image:
    filled = Image.new("RGB", size, rgb)
    if texture == "solid":
        return filled
    draw, step = ImageDraw.Draw(filled), max(6, round(reach / 2.8))
    second = INK if sum(rgb) > 620 else "white"
    if texture == "striped":
        upright = rng.random() < 0.5
        for at in range(0, max(size), step):
            end = at + 0.4 * step
            draw.rectangle((at, 0, end, size[1]) if upright else (0, at, size[0], end), fill=second)
    else:
        radius = 0.27 * step
        for y in range(0, size[1], step):
            for x in range(0, size[0], step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=second)
    return filled


def _thing(kind: str, colour: str, texture: str, pen: Pen, size: tuple[int, int]) -> Thing:
    details = pen.details.getchannel("A")
    whole = ImageChops.lighter(pen.body, details).resize(size, Image.Resampling.BOX)
    region_mask = np.asarray(whole) > 127
    ys, xs = np.nonzero(region_mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    inside = ImageChops.subtract(pen.body, details).resize(size, Image.Resampling.BOX)
    deepest = inside = inside.point(lambda value: 255 * (value > 127))
    while deepest.getbbox():  # peel until nothing is left
        inside, deepest = deepest, deepest.filter(ImageFilter.MinFilter(3))
    ys, xs = np.nonzero(np.asarray(inside))
    click = (int(xs[len(xs) // 2]), int(ys[len(ys) // 2]))
    return Thing(kind, colour, texture, box, click, region_mask)


def _stored(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    if rng.random() < 0.5:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
    return Image.open(buffer).convert("RGB")
