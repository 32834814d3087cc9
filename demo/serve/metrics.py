"""Figures of a running server, in Prometheus' text format."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric:
    """A counter or a gauge, one value for each combination of its labels."""

    def __init__(self, name: str, says: str, kind: str = "counter"):
        self.name, self.says, self.kind = name, says, kind
        self._values: dict[tuple[tuple[str, str], ...], float] = {}
        self._lock = threading.Lock()

    def add(self, amount: float = 1, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def value(self, **labels: str) -> float:
        return self._values.get(tuple(sorted(labels.items())), 0.0)

    def lines(self) -> list[str]:
        with self._lock:
            values = dict(self._values)
        return [f"{self.name}{_labels(key)} {value:.10g}" for key, value in values.items()]


class Reading(Metric):
    """A value looked up when it is asked for."""

    def __init__(self, name: str, says: str, read: Callable[[], float], kind: str = "gauge"):
        super().__init__(name, says, kind)
        self._read = read

    def lines(self) -> list[str]:
        return [f"{self.name} {self._read():.10g}"]


class Histogram(Metric):
    """How long things take, in seconds."""

    def __init__(self, name: str, says: str):
        super().__init__(name, says, "histogram")
        self._counts: dict[tuple[tuple[str, str], ...], list[float]] = {}

    def observe(self, seconds: float, **labels: str) -> None:
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts.setdefault(key, [0.0] * (len(BUCKETS) + 2))
            counts[-2] += seconds
            counts[-1] += 1
            for place, bound in enumerate(BUCKETS):
                counts[place] += seconds <= bound

    def lines(self) -> list[str]:
        with self._lock:
            all_counts = {key: list(counts) for key, counts in self._counts.items()}
        said = []
        for key, counts in all_counts.items():
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), [*counts[:-2], counts[-1]],
                                    strict=True):  # fmt: skip
                said.append(f"{self.name}_bucket{_labels((*key, ('le', bound)))} {count:.10g}")
            said.append(f"{self.name}_sum{_labels(key)} {counts[-2]:.10g}")
            said.append(f"{self.name}_count{_labels(key)} {counts[-1]:.10g}")
        return said


def _labels(key: tuple[tuple[str, str], ...]) -> str:
    if not key:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n"))
        for name, value in key
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


class Metrics:
    """All of a server's figures. None of them says who asked, or what."""

    def __init__(self) -> None:
        self.requests = Metric("loupe_requests_total", "Requests, by door and status.")
        self.seconds = Histogram("loupe_request_seconds", "Until a request was answered whole.")
        self.first = Histogram("loupe_first_token_seconds", "Until an answer's first words.")
        self.tokens = Metric("loupe_tokens_total", "Tokens read and written by the model.")
        self.busy = Metric("loupe_busy_total", "Requests told to come again later.")
        self.stopped = Metric("loupe_stopped_total", "Answers nobody waited for to the end.")
        self.model = Histogram("loupe_model_seconds", "One call of a part of the model.")
        self._all: list[Metric] = [
            self.requests, self.seconds, self.first, self.tokens, self.busy, self.stopped,
            self.model,
            Reading("process_resident_memory_bytes", "Memory in use.", resident_memory),
            Reading("process_cpu_seconds_total", "Processor time.", time.process_time, "counter"),
        ]  # fmt: skip

    def reading(self, name: str, says: str, read: Callable[[], float]) -> None:
        """Report what `read` returns, whenever somebody looks."""
        self._all.append(Reading(name, says, read))

    def text(self) -> str:
        lines: list[str] = []
        for metric in self._all:
            lines += [f"# HELP {metric.name} {metric.says}", f"# TYPE {metric.name} {metric.kind}"]
            lines += metric.lines()
        return "\n".join(lines) + "\n"


def resident_memory() -> float:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
