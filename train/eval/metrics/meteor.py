"""METEOR 1.5 (Denkowski and Lavie 2014): its own Java program, where Java and the jar are there.

The jar comes with pycocoevalcap (the extra "meteor"); LOUPE_METEOR may name another copy. It is
asked for each item's statistics; they add up, and the score of any sum is asked for in turn, which
is how the official scorer gets its total. Java needs about 2 GB of address space.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from train.eval.metrics.captions import Words
from train.eval.stats import Measure

JAR = "LOUPE_METEOR"
MISSING = 'METEOR is left out: it needs Java and pip install "loupe-assistant[meteor]"'


def jar() -> Path | None:
    """The jar with its paraphrase tables beside it, if Java could run it."""
    if shutil.which("java") is None:
        return None
    if JAR in os.environ:
        file = Path(os.environ[JAR])
    else:
        package = importlib.util.find_spec("pycocoevalcap")
        if package is None or not package.submodule_search_locations:
            return None
        file = Path(next(iter(package.submodule_search_locations))) / "meteor" / "meteor-1.5.jar"
    return file if file.is_file() else None


def meteor(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measure | None:
    """None where it cannot run."""
    file = jar()
    if file is None:
        return None
    program = Program(file)
    parts = [
        program.statistics(" ".join(caption), [" ".join(text) for text in texts])
        for caption, texts in zip(captions, references, strict=True)
    ]
    return Measure(np.array(parts).reshape(len(captions), -1), program.scores)


class Program:
    """The running jar; it ends with this object."""

    def __init__(self, file: Path) -> None:
        self.process = subprocess.Popen(
            ["java", "-jar", "-Xmx2G", file.name, "-", "-", "-stdio", "-l", "en", "-norm"],
            cwd=file.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
        )  # fmt: skip

    def statistics(self, caption: str, texts: Sequence[str]) -> list[float]:
        clean = [" ".join(text.replace("|||", "").split()) for text in (*texts, caption)]
        return [float(value) for value in self._ask(" ||| ".join(["SCORE", *clean])).split()]

    def scores(self, sums: np.ndarray) -> np.ndarray:
        """Summed statistics (..., k) -> METEOR (...)."""
        flat = sums.reshape(-1, sums.shape[-1])
        scores = []
        for row in flat:
            line = " ".join(f"{value:.10g}" for value in row)
            self._ask(f"EVAL ||| {line}")  # of the one item; the total follows
            scores.append(float(self._read()))
        return np.array(scores).reshape(sums.shape[:-1])

    def _ask(self, line: str) -> str:
        pipe = cast(IO[str], self.process.stdin)
        pipe.write(line + "\n")
        pipe.flush()
        return self._read()

    def _read(self) -> str:
        return cast(IO[str], self.process.stdout).readline().strip()

    def __del__(self) -> None:
        process = getattr(self, "process", None)
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                pipe.close()
            process.terminate()
            process.wait()
