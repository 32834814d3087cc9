"""Timing two ways of doing one thing, interleaved, so that a busy machine slows both alike."""

from __future__ import annotations

import re
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

State = TypeVar("State")


@dataclass(frozen=True)
class Ratio:
    """How much longer `slow` takes than `fast`: medians in seconds, and the spread of the ratio."""

    name: str
    fast: float
    slow: float
    low: float  # the smallest and the largest ratio of any single pair
    high: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.slow / self.fast:.2f}x ({self.low:.2f}-{self.high:.2f});"
            f" {self.slow * 1000:.1f} ms against {self.fast * 1000:.1f} ms"
        )


def compare(
    name: str,
    slow: Callable[[State], object],
    fast: Callable[[State], object],
    repeats: int,
    prepare: Callable[[], State],
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Run both `repeats` times in turn, after one unmeasured run of each.

    prepare: makes, unmeasured, what each run is given. clock: time.process_time counts this
    process's own work, where others keep the processors busy.
    """

    def seconds(run: Callable[[State], object]) -> float:
        state = prepare()
        start = clock()
        run(state)
        return clock() - start

    seconds(slow), seconds(fast)
    pairs = [(seconds(slow), seconds(fast)) for _ in range(repeats)]
    ratios = [first / second for first, second in pairs]
    return Ratio(
        name,
        fast=statistics.median(second for _, second in pairs),
        slow=statistics.median(first for first, _ in pairs),
        low=min(ratios),
        high=max(ratios),
    )


def extra_memory(run: Callable[[], object]) -> float | None:
    """Megabytes by which a run's peak exceeds what the process held before; None off Linux.

    Meant for a process that does nothing else: memory the allocator kept would hide the peak.
    """
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # Linux: forget the peak so far
    before = _field(status, "VmRSS")
    run()
    return (_field(status, "VmHWM") - before) / 1024


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """Gives a function that tells the process's largest memory within, in megabytes, mapped files
    included; nan off Linux."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # Linux: forget the peak so far
    peak = float("nan")
    yield lambda: peak
    if reset.exists():
        peak = _field(status, "VmHWM") / 1024


def _field(status: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
