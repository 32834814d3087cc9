"""The numbered regions of one picture: pointed at, refined, painted, named, undone.

The model always reads "region 2"; a label that the user gives stands for that in questions.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from qformer.contracts import RegionError, Segmentation
from qformer.regions import Region
from qformer.view import View

MAX_REGIONS = 64  # in one picture at a time
MAX_LABEL = 60  # characters
SAME = 0.8  # of what two areas cover together: they are one thing
HISTORY = 64 * 2**20  # bytes of region masks that are kept for undo


@dataclass(frozen=True, eq=False)
class Mark:
    """A numbered region, and what was pointed at to get it. logits: the segmenter's own, fed back
    when the region is refined; None: painted or picked."""

    number: int
    region: Region
    points: tuple[tuple[float, float, int], ...] = ()  # (x, y, 1 add | 0 exclude)
    box: tuple[float, float, float, float] | None = None
    logits: Any = None
    found: Segmentation | None = None  # all that a lone click may mean, if several
    reading: int = 0  # which of them it is
    label: str = ""
    corrected: bool = False  # by hand: refined, painted, or another reading chosen

    @property
    def name(self) -> str:
        return self.label or self.region.name

    @property
    def readings(self) -> int:
        return len(self.found.scores) if self.found else 1


State = tuple[dict[int, Mark], list[int], int | None]


class Regions:
    """The regions of one view. Methods return the Mark that changed; errors are RegionErrors and
    change nothing. Not safe from several threads: the session holds its lock."""

    def __init__(self, view: View):
        self.view = view
        self.marks: dict[int, Mark] = {}
        self.asked: list[int] = []  # numbers a question is about; none: the picture
        self.active: int | None = None  # the region that further clicks refine
        self.last_number = 0  # a number is never used twice in one picture
        self.fresh = False  # a question has been put: the next new region starts a new choice
        self.candidates: list[Any] = []  # what "everything" found: Proposals, to pick from
        self._undo: list[State] = []
        self._redo: list[State] = []
        self._grouped = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.view.size[1], self.view.size[0]

    def mark(self, number: int) -> Mark:
        if number not in self.marks:
            known = ", ".join(map(str, self.marks)) or "none yet"
            raise RegionError(f"there is no region {number}; the regions are: {known}")
        return self.marks[number]

    def like(self, region_mask: torch.Tensor) -> Mark | None:
        """The region that covers the same area but for its edges, if there is one."""
        for mark in self.marks.values():
            own = mark.region.region_mask
            if int((own & region_mask).sum()) > SAME * int((own | region_mask).sum()):
                return mark
        return None

    # Pointing

    def click(self, x: float, y: float, positive: bool = True, number: int | None = None) -> Mark:
        """A new region at pixel (x, y); or, with `number`, add to (or exclude from) that one."""
        point = (x, y, int(positive))
        if number is None:
            if not positive:
                raise RegionError("there is nothing to exclude from: click a region first")
            return self._segmented(points=(point,))
        mark = self.mark(number)
        if mark.logits is None and not mark.points and mark.box is None:
            spot = self.view.segment(points=((x, y, 1),)).region_masks[0].cpu()
            return self._combined(mark, spot, positive, points=(*mark.points, point))
        points = (*mark.points, point)
        found = self.view.segment(points=points, box=mark.box, logits=mark.logits)
        region = self._region(number, found.region_masks[0], float(found.scores[0]))
        return self._put(
            dataclasses.replace(
                mark, region=region, points=points, logits=found.logits[0], found=None,
                reading=0, corrected=True,
            )
        )  # fmt: skip

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mark:
        """A new region for what lies in the box, dragged from any corner."""
        return self._segmented(box=(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))

    def paint(
        self,
        points: Sequence[tuple[float, float]],
        radius: float,
        positive: bool = True,
        number: int | None = None,
    ) -> Mark:
        """A brush stroke, in pixels: a new region; or, with `number`, added to (or erased from)
        that one."""
        stroke = painted(points, radius, self.size)
        if number is not None:
            return self._combined(self.mark(number), stroke, positive)
        if not positive:
            raise RegionError("there is nothing to erase: paint a region first")
        return self.add(stroke, corrected=True)

    def pick(self, index: int) -> Mark:
        """A candidate of "everything" becomes a region."""
        if not 0 <= index < len(self.candidates):
            raise RegionError("this candidate is gone: look for everything again")
        chosen = self.candidates[index]
        return self.add(chosen.region_mask, score=chosen.score)

    def cycle(self, number: int) -> Mark:
        """The next thing that its click may mean: a part, the object, the whole."""
        mark = self.mark(number)
        found = mark.found
        if found is None:
            raise RegionError(f"region {number} has one reading: click to add or exclude instead")
        place, area = mark.reading, None
        while area is None or not area.any():  # an empty one is passed over; its own is not empty
            place = (place + 1) % mark.readings
            area = found.region_masks[place]
        region = self._region(number, area, float(found.scores[place]))
        return self._put(
            dataclasses.replace(
                mark, region=region, logits=found.logits[place], reading=place, corrected=True
            )
        )

    def add(
        self,
        region_mask: torch.Tensor,
        label: str = "",
        score: float | None = None,
        number: int | None = None,
        corrected: bool = False,
    ) -> Mark:
        """A new region of a given area. number: as it was in another session."""
        self._room()
        if number is None or number in self.marks or number < 1:
            number = self.last_number + 1
        mark = Mark(
            number, self._region(number, region_mask, score), label=label, corrected=corrected
        )
        return self._new(mark)

    def _segmented(self, points: tuple = (), box: tuple | None = None) -> Mark:
        self._room()
        found = self.view.segment(points=points, box=box)
        number = self.last_number + 1
        region = self._region(number, found.region_masks[0], float(found.scores[0]))
        several = found if len(found.scores) > 1 else None
        return self._new(Mark(number, region, points, box, found.logits[0], several))

    def _combined(
        self, mark: Mark, other: torch.Tensor, positive: bool, points: tuple = ()
    ) -> Mark:
        """Painted onto it or off it: no longer the segmenter's."""
        own = mark.region.region_mask
        area = own | other if positive else own & ~other
        if not area.any():
            raise RegionError(f"nothing of region {mark.number} would be left: delete it instead")
        region = self._region(mark.number, area, None)
        return self._put(
            dataclasses.replace(
                mark, region=region, points=(), box=None, logits=None, found=None, reading=0,
                corrected=True,
            )
        )  # fmt: skip

    @property
    def free(self) -> int:
        """How many more the picture holds."""
        return MAX_REGIONS - len(self.marks)

    def _room(self) -> None:
        if not self.free:
            raise RegionError(f"a picture holds {MAX_REGIONS} regions: delete one first")

    def _region(self, number: int, region_mask: Any, score: float | None) -> Region:
        return self.view.region(region_mask, name=f"region {number}", score=score)

    def _new(self, mark: Mark) -> Mark:
        self._remember()
        if self.fresh:
            self.asked, self.fresh = [], False
        self.asked.append(mark.number)
        self.last_number = max(self.last_number, mark.number)
        return self._place(mark)

    def _put(self, mark: Mark) -> Mark:
        self._remember()
        return self._place(mark)

    def _place(self, mark: Mark) -> Mark:
        self.marks[mark.number] = mark
        self.active = mark.number
        return mark

    # Naming, choosing, deleting

    def rename(self, number: int, label: str) -> Mark:
        """Give it a label, "" for none. A label that another region has is refused."""
        mark = self.mark(number)
        label = " ".join(label.split())
        if len(label) > MAX_LABEL:
            raise RegionError(f"the name is longer than {MAX_LABEL} characters: shorten it")
        taken = [
            m.number for m in self.marks.values() if label and m.label.lower() == label.lower()
        ]
        if taken and taken != [number]:
            raise RegionError(f"region {taken[0]} is called {label!r} already: choose another name")
        if re.fullmatch(r"region \d+", label, re.IGNORECASE):
            label = ""
        if label == mark.label:
            return mark
        return self._put(dataclasses.replace(mark, label=label))

    def choose(self, number: int, asked: bool) -> None:
        """Ask about the region, or no longer."""
        self.mark(number)
        self.asked = [other for other in self.asked if other != number]
        if asked:
            self.asked.append(number)
            self.active = number
        self.fresh = False

    def delete(self, number: int) -> None:
        self.mark(number)
        self._remember()
        del self.marks[number]
        self._tidy()

    def clear(self) -> None:
        """Delete every region; the talk stays."""
        if self.marks:
            self._remember()
        self.marks, self.asked, self.active, self.candidates = {}, [], None, []

    # Undo

    @property
    def undoable(self) -> bool:
        return bool(self._undo)

    @property
    def redoable(self) -> bool:
        return bool(self._redo)

    def undo(self) -> None:
        self._back(self._undo, self._redo, "there is nothing to undo")

    def redo(self) -> None:
        self._back(self._redo, self._undo, "there is nothing to redo")

    def forget_changes(self) -> None:
        """Nothing before this can be undone."""
        self._undo.clear()
        self._redo.clear()

    def copy(self, view: View) -> Regions:
        """The same regions on a view of one's own, to go on apart."""
        made = copy.copy(self)
        made.view, made.candidates = view, list(self.candidates)
        made.marks, made.asked, made.active = self._state()
        for name in ("_undo", "_redo"):
            kept = [(dict(marks), list(asked), n) for marks, asked, n in getattr(self, name)]
            setattr(made, name, kept)
        return made

    def _state(self) -> State:
        return dict(self.marks), list(self.asked), self.active

    def _back(self, source: list[State], target: list[State], empty: str) -> None:
        if not source:
            raise RegionError(empty)
        target.append(self._state())
        self.marks, self.asked, self.active = source.pop()

    @contextmanager
    def grouped(self) -> Iterator[None]:
        """What is done inside is undone at once."""
        self._remember()
        self._grouped = True
        try:
            yield
        finally:
            self._grouped = False

    def _remember(self) -> None:
        """Keep the state before a change. The oldest go where they hold too many pixels."""
        if self._grouped:
            return
        self._undo.append(self._state())
        self._redo.clear()
        seen: set[int] = {id(mark.region) for mark in self.marks.values()}
        held = 0
        for place in range(len(self._undo) - 1, -1, -1):
            for mark in self._undo[place][0].values():
                if id(mark.region) not in seen:
                    seen.add(id(mark.region))
                    held += mark.region.region_mask.numel()
            if held > HISTORY:
                del self._undo[: place + 1]
                return

    def _tidy(self) -> None:
        self.asked = [number for number in self.asked if number in self.marks]
        if self.active not in self.marks:
            self.active = max(self.marks, default=None)

    # Another model

    def read_by(self, view: View) -> None:
        """Go on with another view of the same picture: the areas stay, the segmenter's own logits
        and what it could still have meant go."""
        self.view, self.candidates = view, []
        self.forget_changes()
        for number, mark in self.marks.items():
            bare = dataclasses.replace(
                mark, points=(), box=None, logits=None, found=None, reading=0
            )
            self.marks[number] = bare

    # Words

    def spoken(self, question: str) -> tuple[str, list[int]]:
        """The question as the model reads it, and the regions it names: "#2", "region 2" or a
        label."""
        labels = {m.label.lower(): m.number for m in self.marks.values() if m.label}
        if labels:
            longest = sorted(map(re.escape, labels), key=len, reverse=True)
            pattern = rf"(?<!\w)(?:the )?({'|'.join(longest)})(?!\w)"
            question = re.sub(
                pattern, lambda m: f"region {labels[m[1].lower()]}", question, flags=re.IGNORECASE
            )
        question = re.sub(r"#(\d{1,6})\b", r"region \1", question)
        named = [int(n) for n in re.findall(r"\bregion (\d{1,6})\b", question, re.IGNORECASE)]
        return question, list(dict.fromkeys(named))


def painted(
    points: Sequence[tuple[float, float]], radius: float, size: tuple[int, int]
) -> torch.Tensor:
    """A stroke with round ends: bool (height, width). points, radius: pixels; size: (width,
    height). RegionError where it covers no pixel."""
    sheet = Image.new("L", size)
    pen = ImageDraw.Draw(sheet)
    if len(points) > 1:
        pen.line([tuple(point) for point in points], 255, max(1, round(2 * radius)), "curve")
    for x, y in points:
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), 255)
        pen.point((int(x), int(y)), 255)  # an ellipse below a pixel's size draws nothing
    stroke = torch.from_numpy(np.array(sheet) > 0)
    if not stroke.any():
        raise RegionError("the stroke covers no pixel: paint inside the picture")
    return stroke
