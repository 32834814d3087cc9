"""How likely an answer is right, from how likely the language model found it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .contracts import LoupeError

LONGEST = 6  # words of an answer that may be hedged; a longer one is being read already


@dataclass(frozen=True)
class Confidence:
    """Platt's scaling (1999), fitted on questions that were held back: an answer whose tokens were
    as likely as p (their geometric mean) is right as often as sigmoid(scale * logit(p) + shift).
    least: a short answer less likely right than that is given as `hedge` has it; 0 for none."""

    scale: float = 1.0
    shift: float = 0.0
    least: float = 0.0
    hedge: str = "I can't tell, perhaps: {answer}"

    def __post_init__(self) -> None:
        if not 0 <= self.least < 1:
            raise LoupeError(f"confidence.least={self.least:g} must lie between 0 and 1")
        if self.hedge.count("{answer}") != 1:
            raise LoupeError(f"confidence.hedge={self.hedge!r} needs one {{answer}}")

    def of(self, likelihood: float) -> float:
        """The share of such answers that are right, 0 to 1. likelihood: 0 to 1."""
        p = min(max(likelihood, 1e-6), 1 - 1e-6)
        return 1 / (1 + math.exp(-(self.scale * math.log(p / (1 - p)) + self.shift)))

    def hedged(self, answer: str) -> str:
        return self.hedge.replace("{answer}", answer)
