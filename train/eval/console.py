"""What a run says on the terminal: its scores, and how far it is."""

from __future__ import annotations

import json
from typing import Any

from qformer import console
from train.eval.scores import CHANCE, chances


def print_scores(scores: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(scores, ensure_ascii=False))
        return
    systems, chance = scores["systems"], chances(scores["systems"])
    width = max(map(len, systems))
    if chance:
        told = "  ".join(f"{measure} {value:.3f}" for measure, value in [*chance.items()][:4])
        print(f"{CHANCE:{width}}  {told}")
    for name, one in systems.items():
        told = "  ".join(
            f"{measure} {score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"
            for measure, score in list(one["scores"].items())[:4]
            if score["value"] is not None
        )
        errors = f"  {one['errors']} not answered" if one["errors"] else ""
        print(f"{name:{width}}  {told}{errors}")


def progress(done: int, total: int) -> None:
    """Say on standard error how many questions were asked."""
    console.progress(f"{done}/{total} asked", done, total, every=320)
