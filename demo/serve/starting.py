"""gradio imported in a third of its time."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


@contextmanager
def lean_import() -> Iterator[None]:
    """Around the first import of gradio: 2.5 s of it are not for us.

    It reads the source of each component and writes a stub file beside it, for editors; where the
    source cannot be had it goes on without (and may stand on a disk that is read-only). And it
    imports the mcp package, if there is one, for a server of its own.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "gradio" in sys.modules:
        yield
        return
    getfile, mcp = inspect.getfile, sys.modules.get("mcp")

    def without_sources(thing: Any) -> NoReturn:
        raise OSError("not looked for")

    inspect.getfile = without_sources
    sys.modules.setdefault("mcp", None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        inspect.getfile = getfile
        if mcp is None:
            del sys.modules["mcp"]
