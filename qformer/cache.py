"""What is computed once is kept, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

CACHED_REGIONS = 32

Key = TypeVar("Key")
Value = TypeVar("Value")


class Bounded(OrderedDict[Key, Value]):
    """A cache of the CACHED_REGIONS entries used last."""

    def of(self, keys: Sequence[Key], make: Callable[[list[Key]], Sequence[Value]]) -> list[Value]:
        """The values of `keys`; those missing are made, all at once."""
        missing = [key for key in keys if key not in self]
        made = dict(zip(missing, make(missing), strict=True)) if missing else {}
        values = [made[key] if key in made else self[key] for key in keys]
        for key, value in zip(keys, values, strict=True):
            self[key] = value
            self.move_to_end(key)
        while len(self) > CACHED_REGIONS:
            self.popitem(last=False)
        return values
