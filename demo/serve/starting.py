"""A start that nobody waits for: of gradio and transformers only what is used, and no rest in
between."""

from __future__ import annotations

import gc
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NoReturn

# What gradio reads from the environment. It would have figures of every event worked out after each
# (pandas, over the last 10,000) and keep them; ours are at /metrics.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
}


@contextmanager
def lean_import() -> Iterator[None]:
    """Around the first import of gradio: 3 s of it are not for us.

    It reads the source of each component and writes a stub file beside it, for editors; where the
    source cannot be had it goes on without (and may stand on a disk that is read-only). It fills in
    the help of each event of each component, which nobody asks for here. It imports the mcp
    package, if there is one, for a server of its own; the commands of its own command line; and
    pandas, for components that the page has none of.
    """
    os.environ.update(QUIET)
    if "gradio" in sys.modules:
        yield
        return
    import jinja2

    getfile, mcp, template = inspect.getfile, sys.modules.get("mcp"), jinja2.Template
    commands = ModuleType("gradio.cli")
    commands.deploy = None  # type: ignore[attr-defined]

    def without_sources(thing: Any) -> NoReturn:
        raise OSError("not looked for")

    class Unfilled:
        """A text with places to fill in, left as it is until gradio is there."""

        def __init__(self, source: str):
            self.source = source

        def render(self, **named: Any) -> str:
            filled = jinja2.Template is not Unfilled
            return template(self.source).render(**named) if filled else self.source

    inspect.getfile = without_sources
    jinja2.Template = Unfilled  # type: ignore[assignment, misc]
    sys.modules["gradio.cli"] = commands
    sys.modules.setdefault("mcp", None)  # type: ignore[arg-type]
    if "pandas" not in sys.modules and find_spec("pandas"):
        sys.modules["pandas"] = Later("pandas")
    try:
        with unswept():
            yield
    finally:
        inspect.getfile, jinja2.Template = getfile, template  # type: ignore[misc]
        del sys.modules["gradio.cli"]
        if mcp is None:
            del sys.modules["mcp"]


@contextmanager
def one_app() -> Iterator[None]:
    """While a page is put together: gradio makes its web application anew after each step, but the
    one made last, when the page is mounted, is the one that is used."""
    from gradio.routes import App

    made = App.create_app
    App.create_app = staticmethod(lambda *args, **named: None)  # type: ignore[method-assign]
    try:
        yield
    finally:
        App.create_app = staticmethod(made)  # type: ignore[method-assign]


@contextmanager
def lean_models() -> Iterator[None]:
    """Around the first loading of a model that is to answer: a second of it is not for us.

    transformers imports what shares a model among machines, and torch's compiler, to tell it what
    to leave alone. Who answers does neither, so that nothing need be told; who asks for more of the
    compiler gets it.
    """
    import torch.distributed

    unmarked = Later(
        "torch._dynamo", disable=same, assume_constant_result=same, allow_in_graph=same
    )
    sys.modules.setdefault("torch._dynamo", unmarked)
    available = torch.distributed.is_available
    torch.distributed.is_available = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.distributed.is_available = available


def same(function: Any = None, *args: Any, **named: Any) -> Any:
    """In place of a mark on a function: the function, or what marks one."""
    return same if function is None else function


class Later(ModuleType):
    """A module that is imported when something of it is first asked for, other than what is
    known."""

    def __init__(self, name: str, **known: Any):
        super().__init__(name)
        vars(self).update(known)
        self.__spec__ = find_spec(name)
        self.__path__ = self.__spec__.submodule_search_locations  # its parts can be imported, too

    def __getattr__(self, name: str) -> Any:
        # The others are asked for by those who look through sys.modules.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def unswept() -> Iterator[None]:
    """While much is made and all of it stays, no search for what could go; nor later in that."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if swept:
            gc.freeze()
            gc.enable()
