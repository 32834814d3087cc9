"""BLEU, ROUGE-L and CIDEr-D of captions, equal to pycocoevalcap 1.2 to 1e-6.

Each takes (captions, references) as words, one caption and one or more references an item, and
returns measures whose parts add up, so that intervals and comparisons need no second scoring.

The official scorer's quirks, kept because every published figure has them:
- BLEU adds 1e-9 to what was tried and 1e-15 to what was right, and takes the reference length that
  is closest to the caption's (the shorter of two as close), of a lone item the mean of all.
- ROUGE-L takes precision and recall from whichever references are best for each, beta 1.2; an empty
  caption counts one (wrong) word.
- CIDEr is CIDEr-D: counts are clipped, and a caption's length is its number of bigrams. Document
  frequencies come from the references of the very items scored, so that the score of a subset is
  not the mean of its items in the whole. All is multiplied by 10; one item alone scores 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from train.eval.stats import Measure

ORDERS = 4  # the longest n-gram
BETA = 1.2
SIGMA = 6.0
SMALL, TINY = 1e-9, 1e-15

Words = Sequence[str]
Grams = Counter[tuple[str, ...]]


def grams(words: Words) -> Grams:
    """How often each n-gram of 1 to ORDERS words occurs."""
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, ORDERS + 1)
        for start in range(len(words) - n + 1)
    )


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, Measure]:
    """BLEU-1 to BLEU-4 of the corpus (Papineni et al. 2002)."""
    parts = np.zeros((len(captions), 2 + 2 * ORDERS))  # lengths: ours, reference; right; tried
    for row, caption, texts in zip(parts, captions, references, strict=True):
        lengths = [len(text) for text in texts]
        row[0] = len(caption)
        row[1] = (
            sum(lengths) / len(lengths)
            if len(captions) == 1
            else min(lengths, key=lambda n: (abs(n - len(caption)), n))
        )
        allowed: Grams = Counter()
        for text in texts:
            allowed |= grams(text)
        for gram, count in grams(caption).items():
            row[1 + len(gram)] += min(count, allowed[gram])
        row[2 + ORDERS :] = [max(0, len(caption) - n) for n in range(ORDERS)]

    def order(n: int) -> Measure:
        return Measure(parts, lambda sums: _bleu(sums, n))

    return {f"BLEU-{n}": order(n) for n in range(1, ORDERS + 1)}


def _bleu(sums: np.ndarray, n: int) -> np.ndarray:
    right, tried = sums[..., 2 : 2 + n], sums[..., 2 + ORDERS : 2 + ORDERS + n]
    precision = np.prod((right + TINY) / (tried + SMALL), axis=-1) ** (1 / n)
    length = (sums[..., 0] + TINY) / (sums[..., 1] + SMALL)
    return precision * np.where(length < 1, np.exp(1 - 1 / np.minimum(length, 1.0)), 1.0)


def rouge(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measure:
    """ROUGE-L (Lin 2004), the mean over items."""
    return Measure.mean(
        [_rouge(caption, texts) for caption, texts in zip(captions, references, strict=True)]
    )


def _rouge(caption: Words, texts: Sequence[Words]) -> float:
    common = [longest_common(caption, text) for text in texts]
    precision = max(common) / max(1, len(caption))
    recall = max(c / max(1, len(text)) for c, text in zip(common, texts, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(one: Words, other: Words) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for j, there in enumerate(other, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == there else max(above, row[j - 1])
            diagonal = above
    return row[-1]


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Measure:
    """CIDEr-D (Vedantam et al. 2015), the mean over items."""
    counted = [[grams(text) for text in texts] for texts in references]
    frequency: Grams = Counter()
    for texts in counted:
        frequency.update(set().union(*texts))
    items = math.log(max(1, len(captions)))

    def vector(found: Grams) -> tuple[dict[tuple[str, ...], float], list[float], int]:
        """tf-idf weights, their norm for each order, and the number of bigrams."""
        weights, norms, bigrams = {}, [0.0] * ORDERS, 0
        for gram, count in found.items():
            weights[gram] = count * (items - math.log(max(1.0, frequency[gram])))
            norms[len(gram) - 1] += weights[gram] ** 2
            bigrams += count if len(gram) == 2 else 0
        return weights, [math.sqrt(norm) for norm in norms], bigrams

    scores = []
    for caption, texts in zip(captions, counted, strict=True):
        ours, our_norms, our_length = vector(grams(caption))
        total = 0.0
        for text in texts:
            theirs, their_norms, their_length = vector(text)
            similar = [0.0] * ORDERS
            for gram, weight in ours.items():
                there = theirs.get(gram, 0.0)
                similar[len(gram) - 1] += min(weight, there) * there
            penalty = math.exp(-((our_length - their_length) ** 2) / (2 * SIGMA**2))
            for n, value in enumerate(similar):
                norm = our_norms[n] * their_norms[n]
                total += penalty * (value / norm if norm else value)
        scores.append(10 * total / ORDERS / len(texts))
    return Measure.mean(scores)
