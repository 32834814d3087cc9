"""The twelve kinds as outlines: each a list of parts in a box of [-1, 1] x [-1, 1], y down.

A part is (role, polygon). "body" carries the object's colour and texture, "shade" the colour
darkened, "hole" shows what lies behind, any other role is a fixed colour. Every kind has variants,
because other painters draw their own.
"""

from __future__ import annotations

import numpy as np

BROWN, DARK, LIGHT, GOLD = (121, 80, 45), (45, 45, 50), (236, 242, 246), (250, 205, 60)


def parts_of(kind: str, rng: np.random.Generator) -> list[tuple[object, np.ndarray]]:
    """One variant of `kind`, scaled so that the larger side of its box is 2."""
    parts = _PAINTERS[kind](rng)
    points = np.concatenate([polygon for _, polygon in parts])
    low, high = points.min(0), points.max(0)
    scale = 2 / (high - low).max()
    return [(role, (polygon - (low + high) / 2) * scale) for role, polygon in parts]


def _ellipse(x, y, rx, ry=None, n=40, start=0.0, stop=2 * np.pi):
    t = np.linspace(start, stop, n, endpoint=abs(stop - start) < 2 * np.pi - 1e-6)
    return np.stack([x + rx * np.cos(t), y + (rx if ry is None else ry) * np.sin(t)], 1)


def _box(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _polygon(*points):
    return np.array(points, float)


def _turn(polygon, degrees):
    a = np.deg2rad(degrees)
    return polygon @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


def _tilt(parts, degrees):
    return [(role, _turn(polygon, degrees)) for role, polygon in parts]


def _flip(parts, rng):
    side = rng.choice((-1.0, 1.0))
    return [(role, polygon * (side, 1.0)) for role, polygon in parts]


def _circle(rng):
    return [("body", _ellipse(0, 0, 1, rng.uniform(0.94, 1.0)))]


def _square(rng):
    return _tilt([("body", _box(-1, -1, 1, 1))], rng.choice((0.0, rng.uniform(-14, 14))))


def _triangle(rng):
    top = rng.uniform(-0.15, 0.15)
    turn = rng.choice((0.0, rng.uniform(-12, 12), rng.uniform(0, 360)), p=(0.6, 0.25, 0.15))
    height = rng.uniform(1.5, 1.9)
    return _tilt([("body", _polygon((top, -height / 2), (1, height / 2), (-1, height / 2)))], turn)


def _star(rng):
    points = int(rng.choice((5, 6, 4), p=(0.86, 0.09, 0.05)))
    inner = rng.uniform(0.36, 0.52)
    t = np.arange(2 * points) * np.pi / points - np.pi / 2
    r = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    star = np.stack([r * np.cos(t), r * np.sin(t)], 1)
    return _tilt([("body", star)], rng.choice((0.0, rng.uniform(-25, 25))))


def _heart(rng):
    if rng.random() < 0.6:
        t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        parts = [("body", np.stack([np.sin(t) ** 3, -y / 16], 1))]
    else:  # two discs and a triangle
        r = rng.uniform(0.5, 0.56)
        parts = [
            ("body", _ellipse(-0.47, -0.4, r)),
            ("body", _ellipse(0.47, -0.4, r)),
            ("body", _polygon((-0.92, -0.16), (0.92, -0.16), (0, 1))),
            ("body", _box(-0.5, -0.45, 0.5, -0.1)),
        ]
    return _tilt(parts, rng.uniform(-10, 10))


def _ring(rng):
    return [("body", _ellipse(0, 0, 1)), ("hole", _ellipse(0, 0, rng.uniform(0.42, 0.7)))]


def _house(rng):
    wide, roof = rng.uniform(0.65, 0.85), rng.uniform(0.6, 0.85)
    over = rng.uniform(0.0, 0.2)
    top = 1 - 2 + roof
    parts = []
    if rng.random() < 0.3:
        parts.append(("shade", _box(0.3, -0.95, 0.55, top)))
    roof_role = rng.choice(np.array(["body", "shade", "brown"], object), p=(0.6, 0.25, 0.15))
    roof_colour = BROWN if roof_role == "brown" else roof_role
    parts.append((roof_colour, _polygon((0, -1), (wide + over, top), (-wide - over, top))))
    parts.append(("body", _box(-wide, top, wide, 1)))
    if rng.random() < 0.7:
        door = rng.choice(np.array([BROWN, DARK, LIGHT], object)) if rng.random() < 0.8 else "shade"
        parts.append((_colour(door), _box(-0.16, 0.42, 0.16, 1)))
    if rng.random() < 0.55:
        pane = LIGHT if rng.random() < 0.6 else GOLD
        for x in (-0.45, 0.45):
            parts.append((pane, _box(x - 0.14, top + 0.2, x + 0.14, top + 0.48)))
    return parts


def _colour(value):
    return value if isinstance(value, str) else tuple(value)


def _tree(rng):
    trunk_role = rng.choice(np.array(["brown", "shade", "body"], object), p=(0.7, 0.15, 0.15))
    trunk = BROWN if trunk_role == "brown" else trunk_role
    wide = rng.uniform(0.1, 0.17)
    parts = [(trunk, _box(-wide, 0.2, wide, 1))]
    style = rng.random()
    if style < 0.35:
        parts.append(("body", _ellipse(0, -0.35, rng.uniform(0.6, 0.72), 0.65)))
    elif style < 0.6:
        parts.append(("body", _polygon((0, -1), (0.72, 0.5), (-0.72, 0.5))))
    elif style < 0.8:
        for i in range(3):
            w, y = 0.42 + 0.15 * i, -1 + 0.42 * i
            parts.append(("body", _polygon((0, y), (w, y + 0.68), (-w, y + 0.68))))
    else:
        for x, y in ((-0.35, -0.2), (0.35, -0.2), (0, -0.55)):
            parts.append(("body", _ellipse(x, y, 0.44)))
    return parts


def _car(rng):
    roof = rng.uniform(-0.62, -0.5)
    parts = [
        ("body", _polygon((-0.55, -0.05), (-0.35, roof), (0.3, roof), (0.58, -0.05))),
        ("body", _box(-1, -0.1, 1, 0.34)),
    ]
    if rng.random() < 0.7:
        pane = LIGHT if rng.random() < 0.75 else DARK
        top, sill = roof + 0.1, -0.1
        parts += [
            (pane, _polygon((-0.42, sill), (-0.29, top), (-0.04, top), (-0.04, sill))),
            (pane, _polygon((0.06, sill), (0.06, top), (0.26, top), (0.44, sill))),
        ]
    radius = rng.uniform(0.19, 0.25)
    for x in (-0.55, 0.55):
        parts.append((DARK if rng.random() < 0.9 else "shade", _ellipse(x, 0.36, radius, n=24)))
        if rng.random() < 0.4:
            parts.append((LIGHT, _ellipse(x, 0.36, radius * 0.45, n=16)))
    return _flip(parts, rng)


def _fish(rng):
    tall = rng.uniform(0.4, 0.58)
    tail = rng.uniform(0.36, 0.5)
    if rng.random() < 0.4:
        fin = _polygon((-0.45, 0), (-1, -tail), (-0.85, 0), (-1, tail))
    else:
        fin = _polygon((-0.4, 0), (-1, -tail), (-1, tail))
    parts = [("body", fin), ("body", _ellipse(0.25, 0, 0.75, tall))]
    if rng.random() < 0.3:
        back = -0.9 * tall
        parts.append(("shade", _polygon((0.1, back), (0.5, back), (0.1, -tall - 0.22))))
    if rng.random() < 0.85:
        eye = DARK if rng.random() < 0.6 else LIGHT
        parts.append((eye, _ellipse(0.62, -0.13, 0.085, n=16)))
    return _tilt(_flip(parts, rng), rng.uniform(-8, 8))


def _flower(rng):
    petals = int(rng.integers(5, 9))
    reach, radius = 0.62, rng.uniform(0.3, 0.38)
    parts = []
    if rng.random() < 0.2:
        parts.append(((60, 140, 60), _box(-0.06, 0.2, 0.06, 1.5)))
    turn = rng.uniform(0, np.pi)
    for t in turn + np.arange(petals) * 2 * np.pi / petals:
        parts.append(("body", _ellipse(reach * np.cos(t), reach * np.sin(t), radius, n=20)))
    centre = rng.choice(
        np.array(["gold", "light", "dark", "shade"], object), p=(0.5, 0.2, 0.2, 0.1)
    )
    role = {"gold": GOLD, "light": LIGHT, "dark": BROWN, "shade": "shade"}[centre]
    parts.append(("body", _ellipse(0, 0, 0.5, n=20)))
    parts.append((role, _ellipse(0, 0, rng.uniform(0.22, 0.34), n=20)))
    return parts


def _cat(rng):
    parts, y = [], 0.12
    sitting = rng.random() < 0.35
    if sitting:
        parts.append(("body", _ellipse(0, 1.35, 0.72, 0.95)))
        root = (0.75, 1.5)
        tail = _ellipse(*root, 0.6, 0.7, 14, -1.4, 1.2)
        parts.append(("body", np.concatenate([tail, (tail - root)[::-1] * 0.72 + root])))
    for side in (-1, 1):
        ear = _polygon((0.82 * side, -0.1), (0.72 * side, -1), (0.12 * side, -0.58))
        parts.append(("body", ear))
    parts.append(("body", _ellipse(0, y, 0.88, 0.76)))
    if rng.random() < 0.85:
        eye = DARK if rng.random() < 0.65 else LIGHT
        for side in (-1, 1):
            parts.append((eye, _ellipse(0.34 * side, y - 0.12, 0.11, 0.14, n=14)))
        parts.append((DARK, _polygon((-0.08, y + 0.15), (0.08, y + 0.15), (0, y + 0.26))))
    if rng.random() < 0.4:
        for side in (-1, 1):
            for dy in (0.12, 0.28):
                parts.append((DARK, _box(0.3 * side, y + dy, 0.8 * side, y + dy + 0.04)))
    return _flip(parts, rng)


_PAINTERS = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "ring": _ring, "house": _house, "tree": _tree, "car": _car, "fish": _fish, "flower": _flower,
    "cat": _cat,
}  # fmt: skip
