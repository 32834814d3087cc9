"""What one visitor works on: a picture, its numbered regions, and the talk about them.

No gradio here: the chat, or any other front, holds a key and calls these methods.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adapters.draw import snapshot
from qformer.assistant import Assistant
from qformer.contracts import ImageError, LoupeError, QuestionError, RegionError
from qformer.conversation import Conversation
from qformer.regions import Region
from qformer.view import View

MAX_REGIONS = 32  # in one picture at a time
MAX_ENTRIES = 400  # of a transcript; the oldest go first
CHOOSE = "loupe chat --model FOLDER"

log = logging.getLogger(__name__)


@dataclass
class Mark:
    """A numbered region of the picture, and what was pointed at to get it."""

    number: int
    region: Region
    points: tuple[tuple[float, float, int], ...] = ()  # (x, y, 1 add | 0 exclude)
    box: tuple[float, float, float, float] | None = None
    logits: Any = None  # the segmenter's own, fed back when the region is refined


@dataclass
class Picture:
    """An opened picture: encoded once, its regions by number."""

    serial: int  # the first picture of a session is 1
    image: Any  # uint8 tensor (height, width, 3)
    view: View
    conversation: Conversation
    marks: dict[int, Mark] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)  # numbers a question is about; none: the picture
    active: int | None = None  # the region that further clicks refine
    last_number: int = 0  # a number is never used twice in one picture
    fresh: bool = False  # a question has been put: the next new region starts a new choice

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def mark(self, number: int) -> Mark:
        if number not in self.marks:
            known = ", ".join(map(str, self.marks)) or "none yet"
            raise RegionError(f"there is no region {number}; the regions are: {known}")
        return self.marks[number]


@dataclass
class Entry:
    """One side of a turn, or a notice. The transcript is ours; a front only shows it."""

    role: str  # "question" | "answer" | "notice"
    text: str
    regions: tuple[int, ...] = ()  # the numbers a question is about
    snapshot: str = ""  # those regions as they were then: a picture as a data URI
    state: str = "done"  # an answer: "writing" | "done" | "stopped" | "failed"


class TokenBucket:
    """Allows `rate` calls a second and bursts of `burst`."""

    def __init__(self, rate: float, burst: int):
        self.rate, self.burst = rate, burst
        self.tokens, self.last = float(burst), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate)
        self.last = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class Session:
    """One visitor. Every method may be called from any thread; errors are LoupeErrors."""

    def __init__(self, assistant: Callable[[], Assistant]):
        """assistant: returns the model, waiting until it is loaded."""
        self._assistant = assistant
        self._stop: threading.Event | None = None  # set while an answer is being written
        self._opened = 0  # pictures so far
        self.lock = threading.RLock()
        self.bucket = TokenBucket(rate=10, burst=40)
        self.picture: Picture | None = None
        self.transcript: list[Entry] = []

    def open(self, image: Any) -> Picture:
        """Take a new picture; the old one, its regions and the talk about it are gone."""
        assistant = self._assistant()
        view = assistant.encode(image)
        with self.lock:
            self._abandon()
            self._opened += 1
            self.picture = Picture(self._opened, image, view, view.converse())
            self.transcript = []
            if not view.familiar:
                self._note(unfamiliar(assistant))
            return self.picture

    def opened(self) -> Picture:
        """The picture. Raises ImageError where there is none."""
        if self.picture is None:
            raise ImageError("there is no picture yet: choose one first")
        return self.picture

    # Regions -------------------------------------------------------------------------------

    def click(self, x: float, y: float, positive: bool = True, number: int | None = None) -> Mark:
        """A new region at pixel (x, y); or, with `number`, add to (or exclude from) that one."""
        with self.lock:
            picture = self.opened()
            point = (x, y, int(positive))
            if number is None:
                if not positive:
                    raise RegionError("there is nothing to exclude from: click a region first")
                return self._new(picture, points=(point,))
            mark = picture.mark(number)
            points = (*mark.points, point)
            found = picture.view.segment(points=points, box=mark.box, logits=mark.logits)
            mark.region = self._region(picture, found, number)
            mark.points, mark.logits = points, found.logits[0]
            picture.active = number
            return mark

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Mark:
        """A new region for what lies in the box."""
        with self.lock:
            corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
            return self._new(self.opened(), box=corners)

    def _new(self, picture: Picture, points: tuple = (), box: tuple | None = None) -> Mark:
        if len(picture.marks) >= MAX_REGIONS:
            raise RegionError(f"a picture holds {MAX_REGIONS} regions: delete one first")
        found = picture.view.segment(points=points, box=box)
        number = picture.last_number + 1
        mark = Mark(number, self._region(picture, found, number), points, box, found.logits[0])
        if picture.fresh:
            picture.asked, picture.fresh = [], False
        picture.marks[number] = mark
        picture.asked.append(number)
        picture.active = picture.last_number = number
        return mark

    @staticmethod
    def _region(picture: Picture, found: Any, number: int) -> Region:
        best, score = found.region_masks[0], float(found.scores[0])
        return picture.view.region(best, name=f"region {number}", score=score)

    def choose(self, number: int, asked: bool) -> None:
        """Ask about the region, or no longer."""
        with self.lock:
            picture = self.opened()
            picture.mark(number)
            picture.asked = [other for other in picture.asked if other != number]
            if asked:
                picture.asked.append(number)
                picture.active = number
            picture.fresh = False

    def delete(self, number: int) -> None:
        with self.lock:
            picture = self.opened()
            picture.mark(number)
            del picture.marks[number]
            picture.asked = [other for other in picture.asked if other != number]
            if picture.active == number:
                picture.active = max(picture.marks, default=None)

    def clear(self) -> None:
        """Delete every region; the talk stays."""
        with self.lock:
            picture = self.opened()
            picture.marks, picture.asked, picture.active = {}, [], None

    # Talk ----------------------------------------------------------------------------------

    @property
    def answering(self) -> bool:
        return self._stop is not None

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces (an empty one first, when the question is accepted).

        The transcript grows with it. Raises a LoupeError at once where nothing can be asked.
        The question is about the chosen regions, or about those it names ("#2", "region 2").
        A turn that fails or is stopped stays in the transcript, but not in the conversation.
        """
        with self.lock:
            picture = self.opened()
            if self._stop is not None:
                raise QuestionError("an answer is being written: wait for it, or stop it")
            if not question.strip():
                raise QuestionError("the question is empty: type one")
            question = re.sub(r"#(\d+)", r"region \1", question.strip())
            named = [int(found) for found in re.findall(r"\bregion (\d+)", question, re.IGNORECASE)]
            marks = [picture.mark(number) for number in dict.fromkeys(named or picture.asked)]
            pieces = picture.conversation.ask(question, regions=[mark.region for mark in marks])
            picture.fresh = True
            self._stop = stop = threading.Event()
            self._add(Entry("question", question, *_shown(picture, marks)))
            answer = Entry("answer", "", state="writing")
            self._add(answer)
        try:
            yield ""
            for piece in pieces:
                answer.text += piece
                yield piece
                if stop.is_set():
                    break
            answer.state = "stopped" if stop.is_set() else "done"
        except GeneratorExit:  # the visitor pressed stop, or has gone
            answer.state = "stopped"
            raise
        except LoupeError as error:
            answer.text, answer.state = str(error), "failed"
        except Exception as error:
            log.exception("the model failed")
            answer.text = (
                f"the model failed ({type(error).__name__}): ask again, or reopen the picture"
            )
            answer.state = "failed"
        finally:
            pieces.close()  # rolls the conversation back where the answer is unfinished
            with self.lock:
                if self._stop is stop:
                    self._stop = None

    def stop(self, wait: float = 0.0) -> None:
        """End the answer that is being written, if any; wait up to so many seconds for its end."""
        stop = self._stop
        if stop is None:
            return
        stop.set()
        deadline = time.monotonic() + wait
        while self._stop is stop and time.monotonic() < deadline:
            time.sleep(0.01)

    def restart(self) -> None:
        """A new talk about the same picture; the regions stay."""
        with self.lock:
            self._abandon()
            self.transcript = [entry for entry in self.transcript if entry.role == "notice"][:1]
            if self.picture is not None:
                self.picture.conversation = self.picture.view.converse()

    def _abandon(self) -> None:
        """Let go of the answer being written: its conversation is not used again."""
        self.stop()
        self._stop = None

    def _note(self, text: str) -> None:
        self._add(Entry("notice", text))

    def _add(self, entry: Entry) -> None:
        self.transcript.append(entry)
        del self.transcript[:-MAX_ENTRIES]


def _shown(picture: Picture, marks: list[Mark]) -> tuple[tuple[int, ...], str]:
    if not marks:
        return (), ""
    regions = [(mark.number, mark.region.region_mask.cpu().numpy()) for mark in marks]
    return tuple(mark.number for mark in marks), snapshot(picture.image.numpy(), regions)


def unfamiliar(assistant: Assistant) -> str:
    """What to say of a picture that lies outside what the model was trained on."""
    says = assistant.config.domain or "other pictures"
    return (
        f"This picture does not look like what this model knows: {says}."
        f" Answers about it are guesses. For photos, start Loupe with a model for photos: {CHOOSE}"
    )


class Sessions:
    """The visitors, by key: the one longest unseen makes room for a new one."""

    def __init__(self, assistant: Callable[[], Assistant], capacity: int = 64):
        self._assistant, self.capacity = assistant, capacity
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, key: str) -> Session:
        """The visitor's session; an empty one where the key is new or was dropped."""
        with self._lock:
            session = self._sessions.pop(key, None) or Session(self._assistant)
            self._sessions[key] = session
            while len(self._sessions) > self.capacity:
                self._sessions.popitem(last=False)[1].stop()
            return session

    def drop(self, key: str) -> None:
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.stop()
