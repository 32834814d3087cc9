"""Which pictures a step sees: every data set in a shuffled order of its own, mixed by weight.

What stands at place n follows from the seed and n alone, so that a resumed run, or another
process, goes on where it must without keeping a state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np

from qformer.contracts import LoupeError
from train.data.readers import STREAMED, read
from train.data.sample import Picture, Sample, Tally, Turn
from train.data.source import DataConfig

CYCLE = 1000  # places after which the mixture of data sets repeats
BLOCK = 4096  # samples of a stream that are shuffled together

Drawn = tuple[Picture, list[Sample]]  # a picture with all that is said about it
Wanted = Callable[[Sample], Sample | None]  # what a stage can learn of a sample


def by_picture(samples: Iterator[Sample]) -> list[Drawn]:
    """Samples of one picture together, as they first come."""
    found: dict[str, Drawn] = {}
    for sample in samples:
        found.setdefault(sample.picture.key, (sample.picture, []))[1].append(sample)
    return list(found.values())


class Listed:
    """A data set in memory: samples that name their pictures."""

    def __init__(self, samples: Iterator[Sample], seed: int) -> None:
        self.drawn, self.seed = by_picture(samples), seed
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.drawn)

    def at(self, place: int) -> Drawn:
        epoch, within = divmod(place, len(self.drawn))
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            self._order = (epoch, rng.permutation(len(self.drawn)))
        return self.drawn[self._order[1][within]]

    def other(self, rng: np.random.Generator) -> Drawn:
        """Any, in place of one that cannot be used."""
        return self.drawn[int(rng.integers(len(self.drawn)))]


class Streamed:
    """A data set that is read as it comes, shuffled block by block; read again at its end.

    Places are asked for in rising order; a resumed run reads on from the beginning to its place.
    """

    def __init__(self, open_again: Callable[[], Iterator[Sample]], seed: int) -> None:
        self.open_again, self.seed = open_again, seed
        self._rewind()

    def _rewind(self) -> None:
        self.samples, self.block, self.start, self.number = self.open_again(), [], 0, -1

    def at(self, place: int) -> Drawn:
        if place < self.start:
            self._rewind()
        while place >= self.start + len(self.block):
            self.start += len(self.block)
            self.block = by_picture(islice(self.samples, BLOCK))
            if not self.block:
                self.samples = self.open_again()
                self.block = by_picture(islice(self.samples, BLOCK))
            if not self.block:
                raise LoupeError("a streamed data set has no good sample: look at it with "
                                 "`loupe data check`")  # fmt: skip
            self.number += 1
            rng = np.random.default_rng((self.seed, self.number))
            self.block = [self.block[i] for i in rng.permutation(len(self.block))]
        return self.block[place - self.start]

    def other(self, rng: np.random.Generator) -> Drawn:
        return self.block[int(rng.integers(len(self.block)))]


class Mixture:
    """Several data sets as one. Raises LoupeError for a set with nothing to learn."""

    def __init__(self, sets: Sequence[Listed | Streamed], weights: Sequence[float], seed: int):
        self.sets = sets
        shares = np.array(weights, dtype=float) / sum(weights)
        if shares.min() * CYCLE < 1:
            raise LoupeError(f"a data set's weight is below 1 in {CYCLE}: raise it")
        ends = np.round(np.cumsum(shares) * CYCLE).astype(int)
        turns = np.repeat(np.arange(len(sets)), np.diff(ends, prepend=0))
        self.turns = np.random.default_rng((seed, 1)).permutation(turns)
        self.each = np.bincount(self.turns, minlength=len(sets))
        # the how-manieth of its set each place of a cycle is
        self.order = np.array([np.sum(self.turns[:n] == s) for n, s in enumerate(self.turns)])

    def at(self, place: int) -> Drawn:
        cycle, within = divmod(place, CYCLE)
        which = self.turns[within]
        return self.sets[which].at(int(cycle * self.each[which] + self.order[within]))

    def holds(self, wanted: Callable[[Turn], bool]) -> bool:
        """Whether any turn is as wanted; of a stream it is not known, and believed."""
        return any(
            isinstance(one, Streamed)
            or any(wanted(t) for _, samples in one.drawn for s in samples for t in s.turns)
            for one in self.sets
        )

    def other(self, rng: np.random.Generator) -> Drawn:
        return self.sets[int(rng.integers(len(self.sets)))].other(rng)


def open_mixture(
    configs: Sequence[DataConfig], wanted: Wanted, tally: Tally, seed: int, some: bool = False
) -> Mixture:
    """The data sets of a config, each sample reduced to what is `wanted` of it. some: sets that
    have nothing of that are left out, as long as one has."""
    sets: list[Listed | Streamed] = []
    weights: list[float] = []
    for number, config in enumerate(configs):

        def samples(config: DataConfig = config) -> Iterator[Sample]:
            kept = (wanted(sample) for sample in read(config, tally))
            return (sample for sample in kept if sample is not None)

        if config.format in STREAMED:
            sets.append(Streamed(samples, seed + number))
            weights.append(config.weight)
            continue
        listed = Listed(samples(), seed + number)
        if not len(listed) and some and (sets or number + 1 < len(configs)):
            continue
        if not len(listed):
            raise LoupeError(
                f"{config.path} ({config.format}) has nothing this stage learns from: {tally.bad} "
                "bad samples; look at it with `loupe data check`"
            )
        sets.append(listed)
        weights.append(config.weight)
    return Mixture(sets, weights, seed)
