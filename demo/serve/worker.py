"""One thread for the model, so that a click never waits for more than one step of an answer.

Several threads in torch at once would each bring threads of their own, and a click would share the
cores with every answer being written. Here the parts of the model take turns: a call at a time,
clicks first, and answers a token each in the order they came.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import reduce, update_wrapper
from typing import Any
from weakref import ref

import torch

from qformer.assistant import Assistant
from qformer.contracts import StoppedError

CLICKS_IN_A_ROW = 4  # then an answer gets a step, however many clicks wait
# Of each part, what computes. A click is one turn; an answer, beams and everything in a picture let
# others in between their steps.
METHODS = {
    "vision": ("preprocess", "encode"),
    "segmenter": ("encode", "segment", "decode", "find"),
    "bridge": ("remember", "inputs", "read", "project", "qformer.run", "familiarity.distance"),
    "language": ("embed", "encode", "forward"),
}
QUICK = ("segmenter",)  # somebody has clicked and looks at the picture
SMALL = 50_000_000  # parameters: a smaller model is done before a second core has joined in
CORES = torch.get_num_threads()
_INSIDE = threading.local()  # what a turn calls in turn is part of it


class Worker:
    """Runs calls one by one in a thread of its own. quick calls go first."""

    def __init__(self, observe: Callable[[str, float], None] = lambda part, seconds: None):
        """observe: told (part, seconds) of each call."""
        self._observe = observe
        self._quick: deque[tuple[Future, Callable, str]] = deque()
        self._steady: deque[tuple[Future, Callable, str]] = deque()
        self._there = threading.Condition()
        self._taken: list[tuple[ref, str, ref]] = []  # a model that is replaced may go
        self._in_a_row = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="loupe-model", daemon=True)
        self._thread.start()

    def run(self, call: Callable[[], Any], part: str, quick: bool = False) -> Any:
        """The result of `call`, made in the worker's thread; from a worker's thread, at once."""
        if getattr(_INSIDE, "turn", False):
            return call()
        future: Future = Future()
        with self._there:
            open_still = not self._closed
            if open_still:
                (self._quick if quick else self._steady).append((future, call, part))
                self._there.notify()
        return future.result() if open_still else call()

    @property
    def waiting(self) -> int:
        return len(self._quick) + len(self._steady)

    def take(self, owner: Any, name: str, part: str) -> None:
        """Make the calls of owner's method `name` from now on."""
        turn = Turn(self, getattr(owner, name), part, own=name in vars(owner))
        setattr(owner, name, turn)
        self._taken.append((ref(owner), name, ref(turn)))

    def close(self) -> None:
        """End after the call in progress and give the methods back; calls that wait fail."""
        with self._there:
            self._closed = True
            self._there.notify()
        self._thread.join(timeout=5)
        while self._taken:
            taken, name, made = self._taken.pop()
            owner, turn = taken(), made()
            if owner is not None and turn is not None:
                turn.give_back(owner, name)

    def _next(self) -> tuple[Future, Callable, str] | None:
        with self._there:
            while not (self._quick or self._steady or self._closed):
                self._there.wait()
            if self._closed:
                for future, _, _ in (*self._quick, *self._steady):
                    future.set_exception(StoppedError("the server is ending: ask again"))
                return None
            if self._quick and (self._in_a_row < CLICKS_IN_A_ROW or not self._steady):
                self._in_a_row += 1
                return self._quick.popleft()
            self._in_a_row = 0
            return self._steady.popleft()

    @torch.no_grad()
    def _work(self) -> None:
        _INSIDE.turn = True
        while (turn := self._next()) is not None:
            future, call, part = turn
            start = time.perf_counter()
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(error)
            self._observe(part, time.perf_counter() - start)
            del turn, future, call  # nothing is kept alive while there is nothing to do


class Turn:
    """A method whose calls a worker makes. own: it stood in the object, not in its class."""

    def __init__(self, worker: Worker, call: Callable, part: str, own: bool):
        self.worker, self.call, self.part, self.own = worker, call, part, own
        update_wrapper(self, call, updated=())  # one of another worker keeps its own

    def __call__(self, *args: Any, **named: Any) -> Any:
        quick = self.part in QUICK
        return self.worker.run(lambda: self.call(*args, **named), self.part, quick)

    def give_back(self, owner: Any, name: str) -> None:
        """Leave the method as if it had never been taken, even where another worker took it since:
        on an assistant that several servers share, the first may close first."""
        outer = vars(owner).get(name)
        if outer is self:
            if self.own:
                setattr(owner, name, self.call)
            else:
                delattr(owner, name)
            return
        while isinstance(outer, Turn) and outer.call is not self:
            outer = outer.call
        if isinstance(outer, Turn):
            outer.call, outer.own = self.call, self.own


def take_turns(assistant: Assistant, worker: Worker) -> Assistant:
    """The same assistant, its parts' calls made by the worker.

    Only methods of our own parts are taken, those that METHODS names; the models inside them are
    left as they are.
    """
    owners = [(part, getattr(assistant, part)) for part in METHODS]
    owners = [(part, owner) for part, owner in owners if owner is not None]
    parameters = sum(one.numel() for _, owner in owners for one in owner.parameters())
    # While others have the cores, threads that wait for each other take fifty times as long.
    threads = 1 if parameters < SMALL else CORES
    worker.run(lambda: torch.set_num_threads(threads), "language")
    for part, owner in owners:
        for path in METHODS[part]:
            *inside, name = path.split(".")
            taken = reduce(getattr, inside, owner)
            if hasattr(taken, name):  # a decoder encodes nothing; not every bridge knows pictures
                worker.take(taken, name, part)
    return assistant
