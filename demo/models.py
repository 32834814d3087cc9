"""Loads the assistant in a thread, so that the page is there first, and another one when a visitor
chooses it: the old one answers until the new one is there. Imports nothing heavy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qformer.assistant import Assistant
    from qformer.contracts import LoupeError

log = logging.getLogger(__name__)

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Chooser:
    """What visitors may choose from. build: (model, segmenter or None for the model's own) -> the
    assistant. memory: a precision in the catalogue's rows, or None for float32. model, segmenter:
    what runs before somebody chooses."""

    build: Callable[[str, str | None], Assistant]
    memory: str | None = None
    model: str = EMBEDDED
    segmenter: str | None = None

    def models(self) -> list[dict[str, Any]]:
        """{"model", "suits", "licence", "memory" in bytes} each."""
        from adapters.catalogue import rows

        weights = Path(__file__).parents[1] / "adapters" / "embedded"
        own = sum(file.stat().st_size for file in weights.rglob("*") if file.is_file())
        offered = [{"model": EMBEDDED, "suits": "painted scenes; nothing to download",
                    "licence": "Apache-2.0", "memory": 2 * own}]  # fmt: skip
        for row in rows():
            if row["int8"] is not None:  # the others only compare
                size = row[self.memory] if self.memory else 4 * row["parameters"]
                told = {name: row[name] for name in ("model", "suits", "licence")}
                offered.append({**told, "memory": size})
        return offered

    @staticmethod
    def segmenters() -> list[dict[str, Any]]:
        """The same of those known by a short name."""
        from adapters.segmenters import KNOWN

        return [
            {"model": name, "suits": known.says, "licence": known.licence,
             "memory": round(4e6 * known.millions)}
            for name, known in KNOWN.items()
        ]  # fmt: skip

    def check(self, model: str, segmenter: str | None) -> None:
        """Raises LoupeError for what is not offered: strangers choose from the list alone."""
        from adapters.catalogue import CATALOGUE
        from adapters.segmenters import KNOWN
        from qformer.contracts import LoupeError

        models = {EMBEDDED, *(listed.model for listed in CATALOGUE if listed.answers)}
        if model not in models or segmenter not in {None, *KNOWN}:
            raise LoupeError("this model is not on the list: choose one of those shown")


def fetched(model: str) -> int:
    """Bytes of a hub model that this machine has by now."""
    from huggingface_hub.constants import HF_HUB_CACHE

    blobs = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}" / "blobs"
    return sum(file.stat().st_size for file in blobs.glob("*") if file.is_file())


class Loader:
    """Builds the assistant in a thread, once started. title: what visitors read meanwhile."""

    def __init__(
        self, build: Callable[[], Assistant], title: str = "", chooser: Chooser | None = None
    ):
        self._build, self.title, self.chooser = build, title, chooser
        self.loading: str | None = None  # what is being read, by name
        self.error: LoupeError | None = None  # what the last reading met
        self.model = chooser.model if chooser else ""  # as the chooser's list has it
        self.segmenter = chooser.segmenter if chooser else None  # another than the model's own
        self._assistant: Assistant | None = None
        self._changed = threading.Condition()
        self._wanted = threading.Event()

    def start(self, after: float = 0.0) -> Loader:
        """Begin, in so many seconds or as soon as somebody is in a hurry."""

        def build() -> Assistant:
            self._wanted.wait(after)
            return self._build()

        self._begin(self.title or "the model", build)
        return self

    def hurry(self) -> None:
        self._wanted.set()

    def choose(self, model: str, segmenter: str | None) -> None:
        """Read another model; the present one stays until it is there. Raises LoupeError."""
        from qformer.contracts import LoupeError

        if self.chooser is None:
            raise LoupeError("models are not chosen here: start with `loupe chat --model`")
        self.chooser.check(model, segmenter)
        build = self.chooser.build

        def made() -> Assistant:
            assistant = build(model, segmenter)
            self.title = "embedded default" if model == EMBEDDED else model.rpartition("/")[2]
            self.model, self.segmenter = model, segmenter
            return assistant

        self._begin(model, made)

    def _begin(self, name: str, build: Callable[[], Assistant]) -> None:
        from qformer.contracts import LoupeError

        with self._changed:
            if self.loading is not None:
                raise LoupeError(f"{self.loading} is being read: wait for it")
            self.loading, self.error = name, None
        threading.Thread(target=self._run, args=(build,), daemon=True).start()

    def _run(self, build: Callable[[], Assistant]) -> None:
        from qformer.contracts import LoupeError

        made, met = None, None
        try:
            made = build()
        except LoupeError as error:
            met = error
        except Exception as error:
            log.exception("the model could not be loaded")
            met = LoupeError(
                f"the model could not be loaded ({type(error).__name__}): the terminal says more"
            )
        with self._changed:
            self._assistant = made or self._assistant
            self.loading, self.error = None, met
            self._changed.notify_all()

    def done(self) -> bool:
        """Whether the model is there, or what building it met."""
        return self._known

    def settled(self, seconds: float) -> bool:
        """Whether nothing is being read any more, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.loading is None and self._known, seconds)

    @property
    def _known(self) -> bool:
        return self._assistant is not None or self.error is not None

    def wait(self) -> Assistant:
        """The assistant, once it is there. Raises the LoupeError that building it met."""
        self.hurry()
        with self._changed:
            self._changed.wait_for(
                lambda: self._assistant is not None or (self.error and self.loading is None)
            )
            if self._assistant is None:
                raise self.error
            return self._assistant

    def ready(self) -> Assistant | None:
        """The assistant, or None while it is not there."""
        return self._assistant
