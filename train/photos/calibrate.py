"""Fit how likely the photo model's answers are right, on facts that were kept back from training.

python -m train.photos.calibrate adapters/photos/loupe --images ../shared/data
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from adapters.build import build
from adapters.checkpoint import CONFIG, load_config, verify, write_manifest
from qformer.assistant import Assistant
from qformer.confidence import Confidence
from qformer.console import Parser
from qformer.contracts import LoupeError
from train.data.draw import by_picture
from train.data.readers import read
from train.data.source import DataConfig
from train.photos.asking import said

SETS = ("things", "labels", "exist", "colour", "count", "parts")
EACH = 50  # questions of a set
LEAST = 0.3  # an answer less likely right is given as a guess

Fact = tuple[float, bool]  # how likely the model found its answer, and whether that was right


def facts(assistant: Assistant, data: DataConfig, count: int, seed: int) -> Iterator[Fact]:
    """One question each about `count` pictures of a set, asked as the chat asks."""
    rng = np.random.default_rng(seed)
    drawn = by_picture(read(data))
    for place in rng.permutation(len(drawn))[:count]:
        picture, samples = drawn[place]
        asked = [(one, turn) for one in samples for turn in one.turns if turn.question]
        if not asked:
            continue
        sample, turn = asked[int(rng.integers(len(asked)))]
        try:
            view = assistant.encode(picture.load())
            masks = [sample.areas[area].region_mask(view.size) for area in turn.areas]
            talk = view.converse()
            answer = "".join(talk.ask(turn.question, [view.region(mask) for mask in masks]))
        except LoupeError:
            continue
        yield talk.certainty(), said(answer) in {said(one) for one in turn.answers}


def fit(found: Sequence[Fact]) -> Confidence:
    """Platt's scaling by Newton's method. Raises LoupeError for too few facts to tell."""
    right = torch.tensor([float(one) for _, one in found], dtype=torch.float64)
    if len(found) < 20 or right.min() == right.max():
        raise LoupeError(f"{len(found)} facts, all right or all wrong, calibrate nothing")
    p = torch.tensor([likely for likely, _ in found], dtype=torch.float64).clamp(1e-6, 1 - 1e-6)
    columns = torch.stack([torch.logit(p), torch.ones_like(p)], 1)
    weights = torch.zeros(2, dtype=torch.float64)
    for _ in range(50):
        chance = torch.sigmoid(columns @ weights)
        slope = columns.T @ (chance - right) + 1e-3 * weights
        curve = (columns.T * (chance * (1 - chance))) @ columns + 1e-3 * torch.eye(2)
        weights = weights - torch.linalg.solve(curve, slope)
    return Confidence(round(float(weights[0]), 4), round(float(weights[1]), 4), LEAST)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description="Calibrate an installed photo model.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, default=Path("runs/photos/data"))
    parser.add_argument("--images", type=Path, required=True, help="where the pictures lie")
    parser.add_argument("--each", type=int, default=EACH, help="questions a set (%(default)s)")
    arguments = parser.parse_args(argv)
    verify(arguments.checkpoint)
    assistant = build(arguments.checkpoint)
    assistant.config = dataclasses.replace(assistant.config, confidence=None)
    found: list[Fact] = []
    for name in SETS:
        file = arguments.data / f"val-{name}.jsonl"
        data = DataConfig("folder", str(file), str(arguments.images))
        ones = list(facts(assistant, data, arguments.each, len(found)))
        share = sum(right for _, right in ones) / max(1, len(ones))
        print(f"{name}: {share:.3f} of {len(ones)} right", flush=True)
        found += ones
    confidence = fit(found)
    right = torch.tensor([float(one) for _, one in found])
    for how, told in (("as it is", None), ("fitted", confidence)):
        p = torch.tensor([one if told is None else told.of(one) for one, _ in found])
        print(
            f"{how}: log loss {float(F.binary_cross_entropy(p.clamp(1e-6, 1 - 1e-6), right)):.3f}"
        )
    config = dataclasses.replace(load_config(arguments.checkpoint), confidence=confidence)
    settings = {"format": config.format} | dataclasses.asdict(config)
    (arguments.checkpoint / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
    write_manifest(arguments.checkpoint)
    print(confidence)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
