"""How often `loupe find` finds the right thing in painted scenes the model never saw.

Each thing that is alone in its kind and colour is looked for as "the red star". It is found if the
best region covers it (IoU of at least 0.5); it could have been if any proposal does.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from adapters.build import build
from qformer import finding
from qformer.proposals import Everything
from train.scenes.render import paint
from train.scenes.scene import sample_scene

SEED = 2_000_000_077  # of scenes that no phase of training draws
SMALLEST = 50  # visible pixels of a thing that is looked for


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first & second).sum() / (first | second).sum())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.find", description=__doc__)
    parser.add_argument("--model", default="paintings")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--points-per-side", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    assistant = build(arguments.model)
    settings = Everything(arguments.points_per_side, **finding.GENEROUS)
    rng = np.random.default_rng(arguments.seed)
    asked = found = proposed = areas = 0
    for _ in range(arguments.scenes):
        scene = sample_scene(rng)
        picture, masks = paint(scene)
        view = assistant.encode(torch.from_numpy(np.ascontiguousarray(picture)))
        proposals = view.everything(settings)
        areas += len(proposals)
        for item, mask in zip(scene.items, masks, strict=True):
            target = torch.from_numpy(np.asarray(mask, dtype=bool))
            if sum(other.pair == item.pair for other in scene.items) > 1 or target.sum() < SMALLEST:
                continue
            asked += 1
            proposed += any(overlap(one.region_mask, target) >= 0.5 for one in proposals)
            if proposals:
                text = f"the {item.colour} {item.kind}"
                ranked = finding.by_likelihood(view, proposals, text)
                best = max(ranked, key=lambda one: one.worth)
                found += overlap(best.proposal.region_mask, target) >= 0.5
        print(f"{asked} asked, {found} found, {proposed} proposed, {areas} areas", flush=True)
    print(
        f"found {found / asked:.3f} of {asked} things, {found / max(1, proposed):.3f} of those "
        f"proposed; {areas / arguments.scenes:.1f} areas a picture"
    )


if __name__ == "__main__":
    main()
