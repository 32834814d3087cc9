"""Loads the assistant in a thread, so that the page is there first, and another one when a visitor
chooses it: the old one answers until the new one is there. Imports nothing heavy."""

from __future__ import annotations

import gc
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapters.memory import Count
    from qformer.assistant import Assistant
    from qformer.contracts import LoupeError

log = logging.getLogger(__name__)

PHOTOS, PAINTINGS = "photos", "paintings"  # the models that need no path, adapters/defaults.py
HEADER = 10**7  # bytes of the longest list that is looked through


@dataclass(frozen=True)
class Chooser:
    """What visitors may choose from. build: (model, segmenter or None for the model's own, one of
    adapters.memory.PRECISIONS) -> the assistant. model, segmenter, precision: what runs before
    somebody chooses. device: where it runs; None: on several, of which nothing tells what is free.
    """

    build: Callable[[str, str | None, str], Assistant]
    model: str = PAINTINGS
    segmenter: str | None = None
    precision: str = "fp32"
    device: str | None = "cpu"

    def choices(self) -> dict[str, Any]:
        """The list, as the page shows it: {"model", "suits", "licence", "memory"} each, the memory
        in bytes by precision; and the bytes that are free, None where nothing tells. A model's
        memory is without its segmenter; "segmenter" is the one it gets where none is chosen, None
        where that is part of the model."""
        from adapters.catalogue import CATALOGUE
        from adapters.defaults import DEFAULTS
        from adapters.memory import PRECISIONS, Count, available
        from adapters.segmenters import KNOWN

        def row(name: str, suits: str, licence: str, count: Count) -> dict[str, Any]:
            needs = {precision: count.needed(*how) for precision, how in PRECISIONS.items()}
            return {"model": name, "suits": suits, "licence": licence, "memory": needs}

        models = [
            row(name, one.suits + missing(name), one.licence, default_count(name))
            | {"segmenter": None}
            for name, one in DEFAULTS.items()
            if one.folder.is_dir()
        ]
        for one in CATALOGUE:
            if one.answers:  # the others only compare
                made = row(one.model, one.suits, one.licence, one.whole)
                models.append(made | {"segmenter": self._own_segmenter()})
        segmenters = [
            row(name, known.says, known.licence, Count(frozen=known.parameters))
            for name, known in KNOWN.items()
        ]
        free = None if self.device is None else available(self.device)
        return {"models": models, "segmenters": segmenters, "free": free}

    def _own_segmenter(self) -> str:
        """What a published model gets, which has none."""
        from adapters.segmenters import best_name

        return best_name(self.device or "cuda")

    def check(self, model: str, segmenter: str | None, precision: str) -> None:
        """Raises LoupeError for what is not offered (strangers choose from the list alone), and,
        before anything is fetched, for what does not fit into memory."""
        from adapters.catalogue import CATALOGUE
        from adapters.defaults import DEFAULTS
        from adapters.memory import PRECISIONS, Placement, check
        from adapters.segmenters import KNOWN
        from qformer.contracts import LoupeError

        models = {listed.model: listed.whole for listed in CATALOGUE if listed.answers}
        here = [name for name, one in DEFAULTS.items() if one.folder.is_dir()]
        models |= {name: default_count(name) for name in here}
        if model not in models or segmenter not in {None, *KNOWN}:
            raise LoupeError("this model is not on the list: choose one of those shown")
        if self.device is None:
            return
        count, what = models[model], f"{model} with {segmenter}" if segmenter else model
        if model in DEFAULTS:  # in float32, whatever the others are held in
            more = {"bridge": count.bridge + (KNOWN[segmenter].parameters if segmenter else 0)}
            precision, smaller = "fp32", {}
        else:
            own = KNOWN[segmenter or self._own_segmenter()].parameters
            more = {"frozen": count.frozen + own}
            smaller = {name: name for name in PRECISIONS if name != "fp32"}
        dtype, quantize = PRECISIONS[precision]
        check(what, replace(count, **more), dtype, Placement(self.device, quantize), smaller)


def missing(name: str) -> str:
    """What the list adds to a default whose parts are not here."""
    from adapters.defaults import check_parts, folder_of
    from adapters.download import SET_UP
    from qformer.contracts import CheckpointError

    try:
        check_parts(folder_of(name))
    except CheckpointError:
        return f", after `{SET_UP}`"
    return ""


def default_count(name: str) -> Count:
    """Count a default, segmenter and all. It is held in float32, as a bridge is, however it is
    stored; the parts of packages count before they are fetched, too."""
    from adapters.defaults import folder_of, package_parts
    from adapters.memory import Count
    from adapters.packages import PACKAGES
    from adapters.weights import parameters

    folder = folder_of(name)
    own = sum(map(parameters, folder.parent.rglob("*.safetensors")))
    return Count(bridge=own + sum(PACKAGES[part].parameters for part in package_parts(folder)))


def fetched(model: str) -> tuple[int, int | None]:
    """Bytes of a hub model that this machine has by now, and of its weights in all where that has
    been told: by the index of several files, or by the first bytes of one."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{model.replace('/', '--')}"
    sizes = {file: file.stat().st_size for file in folder.glob("blobs/*") if file.is_file()}
    here = sum(sizes.values())
    for index in folder.glob("snapshots/*/*.safetensors.index.json"):
        try:
            return here, int(json.loads(index.read_text())["metadata"]["total_size"])
        except (OSError, ValueError, KeyError, TypeError):
            return here, None
    told = {file: whole for file in sizes if (whole := promised(file)) is not None}
    return here, sum((sizes | told).values()) if told else None


def promised(file: Path) -> int | None:
    """Bytes that a file of weights, begun to be fetched, will have in the end; None for others. It
    begins with a list of what it holds and where (safetensors, "Format")."""
    try:
        with file.open("rb") as begun:
            length = int.from_bytes(begun.read(8), "little")
            if not 2 <= length <= HEADER:
                return None
            listed = json.loads(begun.read(length))
        ends = [one["data_offsets"][1] for name, one in listed.items() if name != "__metadata__"]
        return 8 + length + max(map(int, ends))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


class Loader:
    """Builds the assistant in a thread, once started. title: what visitors read meanwhile."""

    def __init__(
        self,
        build: Callable[[], Assistant],
        title: str = "",
        chooser: Chooser | None = None,
        settle: Callable[[], tuple[str, str]] | None = None,
    ):
        """settle: the name of the model that `build` makes, where that is not known before, and why
        it is not the one that was wished for, if so; called in the thread."""
        self._build, self.title, self.chooser, self._settle = build, title, chooser, settle
        self.why = ""  # not the model that was wished for
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
            if self._settle is not None:
                self.model, self.why = self._settle()
                self.title = self.model
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
            self.title = model.rpartition("/")[2]
            self.model, self.segmenter, self.precision = model, segmenter, precision
            self.why = ""
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
