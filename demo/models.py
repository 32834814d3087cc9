"""Loads the assistant in a thread, so that the page is there first. Imports nothing heavy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qformer.assistant import Assistant

log = logging.getLogger(__name__)


class Loader:
    """Builds the assistant in a thread, once started."""

    def __init__(self, build: Callable[[], Assistant]):
        self._build = build
        self._future: Future[Assistant] = Future()

    def start(self) -> Loader:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def _run(self) -> None:
        from qformer.contracts import LoupeError

        try:
            self._future.set_result(self._build())
        except LoupeError as error:
            self._future.set_exception(error)
        except Exception as error:
            log.exception("the model could not be loaded")
            text = f"the model could not be loaded ({type(error).__name__}): the terminal says more"
            self._future.set_exception(LoupeError(text))

    def wait(self) -> Assistant:
        """The assistant, once it is there. Raises the LoupeError that building it met."""
        return self._future.result()

    def done(self) -> bool:
        """Whether it is there, or will never be."""
        return self._future.done()

    def ready(self) -> Assistant | None:
        """The assistant, or None while it is not there."""
        there = self._future.done() and self._future.exception() is None
        return self._future.result() if there else None
