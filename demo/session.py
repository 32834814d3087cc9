"""What one visitor works on: pictures, their numbered regions, and the talk about each.

No gradio here: the chat, or any other front, holds a key and calls these methods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np

from adapters.draw import displayed
from adapters.memory import ran_out
from demo.advice import advice
from demo.finding import distinct, instead, search, without_twins
from demo.picture import SMALL, Picture, Settings
from demo.regions import Mark, Regions
from demo.talk import Talk
from qformer.assistant import Assistant
from qformer.contracts import Decoding, ImageError, LoupeError, QuestionError, RegionError
from qformer.conversation import Conversation
from qformer.finding import by_likelihood
from qformer.proposals import Proposal
from qformer.view import View

MAX_PICTURES = 8  # of one visitor at a time
WARM_PICTURES = 2  # those used last keep what is computed once; the others compute it again
DESCRIBED = 24  # regions that "describe everything" names
LOST = "this session had to make room for others: open the picture again, or load a saved session"

log = logging.getLogger(__name__)


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
    """One visitor. Every method may be called from any thread; errors are LoupeErrors. Whoever uses
    a picture's regions or talk directly holds `lock` meanwhile."""

    def __init__(self, assistant: Callable[[], Assistant], model: Callable[[], str] = lambda: ""):
        """assistant: returns the model, waiting until it is loaded. model: the name it has among
        the defaults, "" for another."""
        self._assistant, self._model = assistant, model
        self._stop: threading.Event | None = None  # set while something long is under way
        self._serials, self._ids = itertools.count(1), itertools.count(1)
        self.lock = threading.RLock()
        self.bucket = TokenBucket(rate=10, burst=40)
        self.settings = Settings()
        self.pictures: OrderedDict[int, Picture] = OrderedDict()  # the one used last is last
        self.current: int | None = None
        self.progress: tuple[str, int, int] | None = None  # what is under way, done, in all
        self.version = 0  # grows when long work has changed regions or candidates
        self.lost = False  # stands for one that had to go

    def copy(self) -> Session:
        """The same pictures, regions, talks and settings, to go on apart."""
        with self.lock:
            made = Session(self._assistant, self._model)
            made.settings, made.current, made.lost = self.settings, self.current, self.lost
            for serial, picture in self.pictures.items():
                made.pictures[serial] = picture.copy(lambda: next(made._ids))
            entries = [one.id for picture in self.pictures.values() for one in picture.talk.entries]
            made._serials = itertools.count(1 + max(self.pictures, default=0))
            made._ids = itertools.count(1 + max(entries, default=0))
            return made

    # Pictures

    def open(self, image: Any, title: str = "", source: bytes | None = None) -> Picture:
        """Take a picture and show it; the others stay, each with its regions and its talk."""
        if len(self.pictures) >= MAX_PICTURES:
            raise ImageError(f"{MAX_PICTURES} pictures are open: close one first")
        assistant = self._assistant()
        view = assistant.encode(image)
        small = np.asarray(displayed(image.numpy(), SMALL))
        with self.lock:
            serial = next(self._serials)
            title = title or f"picture {serial}"
            talk = Talk(view, lambda: next(self._ids), self.settings.composer)
            picture = Picture(serial, title, image, source, view, Regions(view), talk, small)
            self.pictures[serial] = picture
            self._show(serial)
            self.lost = False
            self._advise(picture)
            return picture

    def switch(self, serial: int) -> None:
        with self.lock:
            if serial not in self.pictures:
                raise ImageError("this picture is closed: open it again")
            self._show(serial)

    def close(self, serial: int) -> None:
        """Let go of a picture, its regions and its talk."""
        with self.lock:
            if serial not in self.pictures:
                raise ImageError("this picture is closed already")
            if serial == self.current:
                self.stop()
            del self.pictures[serial]
            if serial == self.current:
                self.current = next(reversed(self.pictures), None)

    def _show(self, serial: int) -> None:
        self.current = serial
        self.pictures.move_to_end(serial)
        for picture in list(self.pictures.values())[:-WARM_PICTURES]:
            picture.view.drop_caches()
            picture.talk.drop_caches()

    def picture(self) -> Picture:
        """The one that is shown, read by today's model. Raises ImageError where there is none."""
        if self.current is None:
            raise ImageError(LOST if self.lost else "there is no picture yet: choose one first")
        self.read_by(self._assistant())
        return self.pictures[self.current]

    def read_by(self, assistant: Assistant) -> None:
        """If it is another one, it reads the pictures from now on, each when it is asked about."""
        with self.lock:
            for picture in self.pictures.values():
                if picture.view.assistant is not assistant:
                    picture.view = View(assistant, picture.image)
                    picture.regions.read_by(picture.view)
                    picture.talk.read_by(picture.view, self.settings.composer)
                    picture.talk.advise(None)
                    picture.advised = False

    def _advise(self, picture: Picture) -> None:
        """Say whether the model knows such pictures, once for each model."""
        if not picture.advised:
            picture.talk.advise(advice(picture.view, self._model()))
            picture.advised = True

    def set(self, settings: Settings) -> None:
        """Raises LoupeError where two settings exclude each other."""
        settings.decoding(Decoding())
        with self.lock:
            if settings.composer != self.settings.composer:
                for picture in self.pictures.values():
                    picture.talk.read_by(picture.view, settings.composer)
            self.settings = settings

    # Talk

    @property
    def busy(self) -> bool:
        return self._stop is not None

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces (an empty one first, when the question is accepted).

        The transcript grows with it. Raises a LoupeError at once where nothing can be asked.
        The question is about the chosen regions, or about those it names ("#2", "region 2", a
        label). A turn that fails or is stopped stays in the transcript, but is not remembered.
        """
        with self.lock:
            picture, stop = self.picture(), self._begin()
            try:
                question, said, marks = self._understood(picture, question)
                self._advise(picture)
                regions = tuple(mark.region for mark in marks)
                decoding = self.settings.decoding(picture.view.assistant.config.decoding)
                conversation = picture.talk.conversation()
                pieces = conversation.ask(said, regions, decoding)
            except BaseException:
                self._end(stop)
                raise
            picture.regions.fresh = True
            picture.talk.add(
                "question", question, said=said, regions=regions,
                numbers=tuple(mark.number for mark in marks), snapshot=picture.snapshot(marks),
            )  # fmt: skip
        return self._answer(picture.talk, conversation, pieces, stop, sampled=False)

    def retry(self, entry: int, question: str | None = None) -> Iterator[str]:
        """Ask a question again, or another in its place; what came after it is taken back.

        Where the same words would be answered the same, the new answer is drawn by chance.
        """
        with self.lock:
            picture, stop = self.picture(), self._begin()
            try:
                asked, answer = picture.talk.turn(entry)
                if asked.rows or (answer is not None and answer.rows):
                    raise QuestionError("a description is not edited: describe everything again")
                text, said, regions, numbers = asked.text, asked.said, asked.regions, asked.numbers
                if question is not None and question.strip() != asked.text:
                    text, said, marks = self._understood(picture, question, numbers)
                    regions = tuple(mark.region for mark in marks)
                    numbers = tuple(mark.number for mark in marks)
                decoding = self.settings.decoding(picture.view.assistant.config.decoding)
                same = said == asked.said and answer is not None and answer.state == "done"
                sampled = same and decoding.temperature == 0
                if sampled:
                    decoding = dataclasses.replace(decoding, temperature=0.7, beams=1)
                conversation = picture.talk.remembering(asked)
                pieces = conversation.ask(said, regions, decoding)
            except BaseException:
                self._end(stop)
                raise
            image = asked.snapshot if numbers == asked.numbers else ""
            known = picture.regions.marks
            image = image or picture.snapshot([known[n] for n in numbers if n in known])
            picture.talk.go_back(asked, conversation)
            picture.talk.add(
                "question", text, said=said, regions=regions, numbers=numbers, snapshot=image
            )
        return self._answer(picture.talk, conversation, pieces, stop, sampled)

    def _understood(
        self, picture: Picture, question: str, chosen: tuple[int, ...] | None = None
    ) -> tuple[str, str, list[Mark]]:
        """The question as typed, as the model reads it, and the regions it is about."""
        question = question.strip()
        if not question:
            raise QuestionError("the question is empty: type one")
        said, named = picture.regions.spoken(question)
        asked = picture.regions.asked if chosen is None else chosen
        return question, said, [picture.regions.mark(number) for number in named or asked]

    def _answer(
        self, talk: Talk, conversation: Conversation, pieces: Any, stop: threading.Event,
        sampled: bool,
    ) -> Iterator[str]:  # fmt: skip
        answer = talk.add("answer", "", state="writing", sampled=sampled)
        threshold, text = self.settings.threshold, ""
        try:
            yield ""
            for piece in pieces:
                text += piece
                if not threshold:
                    answer.text = text
                yield "" if threshold else piece
                if stop.is_set():
                    break
            if stop.is_set():
                answer.state = "stopped"
                return
            if threshold:
                answer.certainty = conversation.certainty()
            withheld = threshold and (answer.certainty or 0) < threshold
            answer.text, answer.state = text, "withheld" if withheld else "done"
        except GeneratorExit:  # the visitor pressed stop, or has gone
            answer.state = "stopped"
            raise
        except LoupeError as error:
            answer.text, answer.state = str(error), "failed"
        except Exception as error:
            answer.text, answer.state = failure(error), "failed"
        finally:
            pieces.close()  # rolls the conversation back where the answer is unfinished
            self._end(stop)

    def _begin(self) -> threading.Event:
        with self.lock:
            if self._stop is not None:
                raise QuestionError("an answer is being written: wait for it, or stop it")
            self._stop = threading.Event()
            return self._stop

    def _end(self, stop: threading.Event) -> None:
        with self.lock:
            if self._stop is stop:
                self._stop, self.progress = None, None

    def stop(self, wait: float = 0.0) -> None:
        """End what is under way, if anything; wait up to so many seconds for its end."""
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
            self.stop()
            self.picture().talk.restart()

    # Everything

    def everything(self) -> Iterator[None]:
        """Find all there is in the picture, to pick from; yields as it goes on."""
        with self.lock:
            picture, stop = self.picture(), self._begin()
        try:
            found = without_twins((yield from self._search(picture, stop)))
            with self.lock:
                picture.regions.candidates = found
                self.version += 1
            if not found:
                raise RegionError("the segmenter found nothing by itself: click on a thing")
        finally:
            stop.set()  # the search, if it still goes on
            self._end(stop)

    def find(self, words: str) -> Iterator[None]:
        """Make a region of what fits the words best; yields as it goes on."""
        with self.lock:
            picture, stop = self.picture(), self._begin()
        view = picture.view
        try:
            if view.assistant.segmenter.capabilities.text:
                proposals = view.find(words)
            else:
                proposals = without_twins((yield from self._search(picture, stop)))
            found = by_likelihood(view, proposals, words)
            best = max(found, key=lambda one: one.worth, default=None)
            if best is None or best.score <= 0:
                raise RegionError(f"nothing here looks like {words!r}: click on what you mean")
            called = instead(view, best.proposal.region_mask, words)
            with self.lock, picture.regions.grouped():
                area, score = best.proposal.region_mask, best.proposal.score
                mark = picture.regions.add(area, score=score)
                if called is None:
                    with contextlib.suppress(RegionError):  # too long, or taken: its number will do
                        picture.regions.rename(mark.number, words)
                else:
                    picture.talk.add(
                        "notice",
                        f"Nothing here fits {words!r} well. Region {mark.number} is nearest:"
                        f" the model calls it {called!r}.",
                    )
                self.version += 1
        finally:
            stop.set()
            self._end(stop)

    def describe(self) -> Iterator[None]:
        """Caption all there is in the picture, a region each; yields as it goes on."""
        with self.lock:
            picture, stop = self.picture(), self._begin()
            talk, regions = picture.talk, picture.regions
            talk.add("question", "Describe everything")
            answer = talk.add("answer", "", state="writing")
        try:
            yield
            found = distinct((yield from self._search(picture, stop)))
            with self.lock, regions.grouped():
                chosen = found[: min(DESCRIBED, regions.free)]
                marks = [
                    regions.like(one.region_mask) or regions.add(one.region_mask, score=one.score)
                    for one in chosen
                ]
                regions.asked, self.version = [], self.version + 1
            for count, mark in enumerate(marks, 1):
                if stop.is_set():
                    break
                self.progress = ("describing", count, len(marks))
                caption = picture.view.caption(mark.region)
                answer.rows = (*answer.rows, (mark.number, caption))
                yield
            answer.state = "stopped" if stop.is_set() else "done"
            if not marks:
                answer.text, answer.state = "The segmenter found nothing here.", "failed"
        except GeneratorExit:
            answer.state = "stopped"
            raise
        except LoupeError as error:
            answer.text = str(error)
            answer.state = "stopped" if stop.is_set() else "failed"
        except Exception as error:
            answer.text, answer.state = failure(error), "failed"
        finally:
            stop.set()
            self._end(stop)

    def _search(
        self, picture: Picture, stop: threading.Event
    ) -> Generator[None, None, list[Proposal]]:
        def report(done: int, total: int) -> None:
            self.progress = ("looking", done, total)

        try:
            return (yield from search(picture.view, stop, report))
        finally:
            self.progress = None

    # Evidence

    def evidence(self, entry: int) -> dict[str, Any]:
        """What an answer was read from: the question and answer entries, "maps" (source -> float
        (rows, columns)), "close_ups" (number -> box), "grounding" and "certainty"."""
        with self.lock:
            picture = self.picture()
            asked, answer = picture.talk.turn(entry)
            if answer is None or answer.state not in ("done", "withheld") or answer.rows:
                raise QuestionError("there is no answer to look behind: ask first")
            previous = picture.talk.previous(asked)
        view, said = picture.view, asked.said or asked.text
        close_ups: dict[int, Any] = {}
        for number, region in zip(asked.numbers, asked.regions, strict=True):
            if (box := view.close_up(region)) is not None:
                close_ups[number] = box
        told = view.log_likelihood(said, asked.regions, answer.text)
        bare = view.log_likelihood(said, (), answer.text) if asked.regions else told
        return {
            "question": asked,
            "answer": answer,
            "maps": view.evidence(said, asked.regions, previous),
            "close_ups": close_ups,
            "certainty": math.exp(told) if answer.certainty is None else answer.certainty,
            "grounding": told - bare if asked.regions else None,
        }


def failure(error: Exception) -> str:
    """What to say of an error that nobody foresaw."""
    log.error("the model failed", exc_info=error)
    if ran_out(error):
        return (
            "memory ran out: ask about fewer regions, for a shorter answer or with one beam, close"
            " a picture, or choose a smaller model or precision (loupe chat --dtype bf16,"
            " --quantize nf4)"
        )
    return f"the model failed ({type(error).__name__}): try again, or reopen the picture"
