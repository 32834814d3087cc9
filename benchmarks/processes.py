"""Training by two processes beside one, a core each: pictures a second of `loupe train`.

The embedded default is tuned on pictures made here, by the command a user types; the first steps,
which encode the pictures, are left out. One and two processes take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measure import free_port

PICTURES, QUESTIONS = 64, 8
WARM = 8  # steps: each process has seen every picture
RECIPE = """
stage = "instruct"
output = "{run}"
turns = {questions}
[start]
checkpoint = "paintings"
[lora]
rank = 16
[cache]
folder = "{folder}/features"
[[data]]
format = "folder"
path = "{folder}"
[loop]
steps = {steps}
batch = {batch}
optimizer = "{optimizer}"
lr = 1e-4
log_every = {warm}
save_every = 100000
"""


def make(folder: Path) -> None:
    """Pictures of one colour each, and what is asked of them."""
    rng, rows = np.random.default_rng(0), []
    (folder / "images").mkdir()
    for number in range(PICTURES):
        colour = rng.integers(0, 256, 3, dtype=np.uint8)
        Image.fromarray(np.full((96, 128, 3), colour)).save(folder / "images" / f"{number}.png")
        rows += [
            {"image": f"{number}.png", "question": f"is it {word}?", "answer": "no"}
            for word in ("red", "green", "blue", "a star", "a car", "striped", "small", "dotted")
        ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))


def speed(folder: Path, processes: int, arguments: argparse.Namespace) -> float:
    """Pictures a second, after the first steps."""
    run = Path(tempfile.mkdtemp(dir=folder))
    config = folder / f"{run.name}.toml"
    shape = {"steps": arguments.steps, "batch": arguments.batch, "optimizer": arguments.optimizer}
    told = {"run": run, "folder": folder, "questions": QUESTIONS, "warm": WARM}
    config.write_text(RECIPE.format(**told, **shape))
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "true"}  # fmt: skip
    each = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), **together} if processes > 1 else {}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **own}
        command = [sys.executable, "-m", "train.cli", str(config)]
        each.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL))
    codes = [one.wait() for one in each]
    if any(codes):
        raise SystemExit("a run has failed: see above")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    first, last = log[0], log[-1]
    pictures = (last["step"] - first["step"]) * arguments.batch * processes
    return pictures / (last["seconds"] - first["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--steps", type=int, default=5 * WARM)
    parser.add_argument("--batch", type=int, default=16, help="of each process (%(default)s)")
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make(Path(name))
        pairs = []
        for _ in range(arguments.repeats):
            one, two = (speed(Path(name), processes, arguments) for processes in (1, 2))
            pairs.append((one, two))
            print(f"one {one:.1f} pictures/s, two {two:.1f}", file=sys.stderr, flush=True)
    ratios = [two / one for one, two in pairs]
    one, two = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(f"two processes / one: {statistics.median(ratios):.2f}x "
          f"({min(ratios):.2f}-{max(ratios):.2f}), goal 1.6;"
          f" {two:.1f} against {one:.1f} pictures/s")  # fmt: skip


if __name__ == "__main__":
    main()
