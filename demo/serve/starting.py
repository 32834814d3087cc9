"""A start that nobody waits for: no rest in between, and of gradio's own figures none."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

# What gradio reads from the environment. It would have figures of every event worked out after each
# (pandas, over the last 10,000) and keep them; ours are at /metrics.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9),
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
}


@contextmanager
def lean_import() -> Iterator[None]:
    """Import gradio inside: without its figures, and without a search for what could go."""
    os.environ.update(QUIET)
    with unswept():
        yield


@contextmanager
def unswept() -> Iterator[None]:
    """Search for no garbage while much is made and all of it stays; nor in that later."""
    swept = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if swept:
            gc.freeze()
            gc.enable()
