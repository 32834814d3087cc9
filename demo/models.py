"""Loads the assistant in a thread, so that the page is there first, and another one when a visitor
chooses it: the old one answers until the new one is there. Imports nothing heavy."""

from __future__ import annotations

import gc
import json
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
    """What visitors may choose from. build: (model, segmenter or None for the model's own, one of
    adapters.memory.PRECISIONS) -> the assistant. model, segmenter, precision: what runs before
    somebody chooses. device: where it runs; None: on several, of which nothing tells what is free.
    """

    build: Callable[[str, str | None, str], Assistant]
    model: str = EMBEDDED
    segmenter: str | None = None
    precision: str = "fp32"
    device: str | None = "cpu"

    def choices(self) -> dict[str, Any]:
        """The list, as the page shows it: {"model", "suits", "licence", "memory"} each, the memory
        in bytes by precision; and the bytes that are free, None where nothing tells."""
        from adapters.catalogue import CATALOGUE
        from adapters.memory import PRECISIONS, available
        from adapters.segmenters import KNOWN

        weights = Path(__file__).parents[1] / "adapters" / "embedded"
        own = sum(file.stat().st_size for file in weights.rglob("*") if file.is_file())
        models: list[dict[str, Any]] = [{
            "model": EMBEDDED, "suits": "painted scenes; nothing to download",
            "licence": "Apache-2.0", "memory": dict.fromkeys(PRECISIONS, 2 * own),
        }]  # fmt: skip
        for listed in CATALOGUE:
            if listed.answers:  # the others only compare
                needs = {name: listed.whole.needed(*how) for name, how in PRECISIONS.items()}
                models.append({"model": listed.model, "suits": listed.suits,
                               "licence": listed.licence, "memory": needs})  # fmt: skip
        segmenters = [
            {"model": name, "suits": known.says, "licence": known.licence,
             "memory": {precision: round(1e6 * known.millions * dtype.itemsize)
                        for precision, (dtype, _) in PRECISIONS.items()}}
            for name, known in KNOWN.items()
        ]  # fmt: skip
        free = None if self.device is None else available(self.device)
        return {"models": models, "segmenters": segmenters, "free": free}

    def check(self, model: str, segmenter: str | None, precision: str) -> None:
        """Raises LoupeError for what is not offered (strangers choose from the list alone), and,
        before anything is fetched, for what does not fit into memory."""
        from adapters.catalogue import CATALOGUE
        from adapters.memory import PRECISIONS, Placement, check
        from adapters.segmenters import KNOWN
        from qformer.contracts import LoupeError

        models = {listed.model: listed for listed in CATALOGUE if listed.answers}
        if model not in {EMBEDDED, *models} or segmenter not in {None, *KNOWN}:
            raise LoupeError("this model is not on the list: choose one of those shown")
        if model in models and self.device is not None:
            dtype, quantize = PRECISIONS[precision]
            smaller = {name: name for name in PRECISIONS if name != "fp32"}
            place = Placement(self.device, quantize)
            check(model, models[model].whole, dtype, place, smaller)


def fetched(model: str) -> tuple[int, int | None]:
    """Bytes of a hub model that this machine has by now, and of its weights in all where it has
    been told (models of one file do not say)."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    here = sum(file.stat().st_size for file in folder.glob("blobs/*") if file.is_file())
    for index in folder.glob("snapshots/*/*.safetensors.index.json"):
        try:
            return here, int(json.loads(index.read_text())["metadata"]["total_size"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return here, None


class Loader:
    """Builds the assistant in a thread, once started. title: what visitors read meanwhile."""

    def __init__(
        self, build: Callable[[], Assistant], title: str = "", chooser: Chooser | None = None
    ):
        self._build, self.title, self.chooser = build, title, chooser
        self.loading: str | None = None  # what is being read, by name
        self.source = ""  # ... and where it comes from: a folder, or a hub id
        self.error: LoupeError | None = None  # what the last reading met
        self.model = chooser.model if chooser else ""  # as the chooser's list has it
        self.segmenter = chooser.segmenter if chooser else None  # another than the model's own
        self.precision = chooser.precision if chooser else "fp32"
        self._assistant: Assistant | None = None
        self._told: list[Callable[[Assistant], None]] = []
        self._changed = threading.Condition()
        self._wanted = threading.Event()

    def start(self, after: float = 0.0) -> Loader:
        """Begin, in so many seconds or as soon as somebody is in a hurry."""

        def build() -> Assistant:
            self._wanted.wait(after)
            return self._build()

        self._begin(self.title or "the model", self.model, build)
        return self

    def hurry(self) -> None:
        self._wanted.set()

    def on_change(self, call: Callable[[Assistant], None]) -> None:
        """call: told of an assistant that takes another's place, to let go of that one."""
        self._told.append(call)

    def choose(self, model: str, segmenter: str | None, precision: str) -> None:
        """Read another model; the present one stays until it is there. Raises LoupeError."""
        from qformer.contracts import LoupeError

        if self.chooser is None:
            raise LoupeError("models are not chosen here: start with `loupe chat --model`")
        self.chooser.check(model, segmenter, precision)
        build = self.chooser.build

        def made() -> Assistant:
            assistant = build(model, segmenter, precision)
            self.title = "embedded default" if model == EMBEDDED else model.rpartition("/")[2]
            self.model, self.segmenter, self.precision = model, segmenter, precision
            return assistant

        self._begin(model, model, made)

    def _begin(self, name: str, source: str, build: Callable[[], Assistant]) -> None:
        from qformer.contracts import LoupeError

        with self._changed:
            if self.loading is not None:
                raise LoupeError(f"{self.loading} is being read: wait for it")
            self.loading, self.source, self.error = name, source, None
        threading.Thread(target=self._run, args=(build,), daemon=True).start()

    def _run(self, build: Callable[[], Assistant]) -> None:
        made, met = None, None
        try:
            made = build()
        except Exception as error:
            met = self._worded(error)
        replaced, self._assistant = self._assistant, made or self._assistant
        if made is not None and replaced is not None:
            del replaced
            for call in self._told:
                call(made)
            gc.collect()  # a model is a circle of objects: the one before goes now
        with self._changed:
            self.loading, self.error = None, met
            self._changed.notify_all()

    def _worded(self, error: Exception) -> LoupeError:
        from adapters.memory import ran_out
        from qformer.contracts import LoupeError

        if isinstance(error, LoupeError):
            return error
        log.error("the model could not be loaded", exc_info=error)
        if ran_out(error):
            return LoupeError(
                f"memory ran out while {self.loading} was read: choose a smaller model, or this one"
                " in a smaller precision (--dtype bf16, --quantize nf4)"
            )
        return LoupeError(
            f"the model could not be loaded ({type(error).__name__}): the terminal says more"
        )

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
