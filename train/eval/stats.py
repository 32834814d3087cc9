"""Scores as sums over items, so that any of them can be resampled, split into shares and compared.

A `Measure` keeps a few numbers of each item; the score is a function of their sums. A mean keeps
(value, 1), BLEU its counts of n-grams, a precision its hits and its tries.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
Combine = Callable[[np.ndarray], np.ndarray]  # sums (..., k) -> scores (...)


def ratio(sums: np.ndarray) -> np.ndarray:
    """First column over second; 0 where there is nothing to count."""
    counted = np.where(sums[..., 1] > 0, sums[..., 1], 1.0)
    return np.where(sums[..., 1] > 0, sums[..., 0] / counted, 0.0)


@dataclass(frozen=True)
class Measure:
    """One score of a run. parts: float (items, k), summed before `combine`. chance: what knowing
    nothing gives on all of them, where that is known."""

    parts: np.ndarray
    combine: Combine = ratio
    chance: float | None = None

    @classmethod
    def mean(cls, values: Sequence[float] | np.ndarray, chance: float | None = None) -> Measure:
        column = np.asarray(values, dtype=np.float64)
        return cls(np.stack([column, np.ones_like(column)], axis=-1), ratio, chance)

    @classmethod
    def share(cls, hits: Sequence[float], tries: Sequence[float]) -> Measure:
        """Sum of hits over sum of tries, for example a precision."""
        return cls(np.stack([np.asarray(hits, float), np.asarray(tries, float)], axis=-1))

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def value(self) -> float:
        return float(self.combine(self.parts.sum(0))) if len(self) else float("nan")

    def only(self, rows: np.ndarray) -> Measure:
        """The same score of some of the items. rows: bool (items,) or indices."""
        return Measure(self.parts[rows], self.combine)

    def interval(self, groups: Sequence[Hashable], seed: int = 0) -> tuple[float, float]:
        """95 % bootstrap interval (Efron 1979): pictures, not items, are drawn again.

        groups: of each item, the picture it is about; questions about one picture stand and fall
        together, and drawing them one by one would make the interval too narrow.
        """
        if not len(self):
            return float("nan"), float("nan")
        sums = grouped(self.parts, groups)
        scores = self.combine(_counts(len(sums), seed) @ sums)
        low, high = np.quantile(scores, (0.025, 0.975))
        return float(low), float(high)


def grouped(parts: np.ndarray, groups: Sequence[Hashable]) -> np.ndarray:
    """(items, k) -> (groups, k): the sums of each group, groups in order of appearance."""
    order: dict[Hashable, int] = {}
    index = np.array([order.setdefault(group, len(order)) for group in groups], dtype=np.int64)
    sums = np.zeros((len(order), parts.shape[1]))
    np.add.at(sums, index, parts)
    return sums


def _counts(groups: int, seed: int) -> np.ndarray:
    """How often each group is drawn in each resample, (RESAMPLES, groups)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES).astype(np.float64)


@dataclass(frozen=True)
class Comparison:
    """How two runs differ on the same items: first less second."""

    first: float
    second: float
    low: float  # 95 % bootstrap interval of the difference
    high: float
    p: float  # how often chance alone would differ as much
    items: int
    difference: float


def compare(
    first: Measure, second: Measure, groups: Sequence[Hashable], seed: int = 0
) -> Comparison:
    """A paired test of two runs over the same items, in the same order.

    p comes from approximate randomisation (Noreen 1989): the two answers of each picture are
    swapped or not by the toss of a coin, and the difference that is left compared with the real
    one. It works for any score, means or not.
    """
    ours, theirs = grouped(first.parts, groups), grouped(second.parts, groups)
    combine = first.combine
    real = first.value - second.value
    rng = np.random.default_rng(seed)
    swap = rng.integers(0, 2, size=(RESAMPLES, len(ours))).astype(np.float64)
    kept = 1 - swap
    chance = combine(kept @ ours + swap @ theirs) - combine(swap @ ours + kept @ theirs)
    p = (1 + int((np.abs(chance) >= abs(real) - 1e-12).sum())) / (1 + RESAMPLES)
    counts = _counts(len(ours), seed)
    drawn = combine(counts @ ours) - combine(counts @ theirs)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Comparison(first.value, second.value, float(low), float(high), p, len(first), real)
