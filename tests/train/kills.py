"""Kill a run with SIGKILL at random moments until it is through, and compare its curve.

python tests/train/kills.py --kills 50 --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_EVERY = 400, 5


def program(folder: Path, processes: int, port: int) -> list[str]:
    script = [str(Path(__file__).with_name("slow.py")), str(folder), str(STEPS), str(SAVE_EVERY)]
    if processes == 1:
        return [sys.executable, *script]
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}",
        f"--master_port={port}", *script,
    ]  # fmt: skip


def start(folder: Path, processes: int, pause: float) -> subprocess.Popen:
    port = random.SystemRandom().randint(20000, 40000)
    env = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PAUSE": str(pause),
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    return subprocess.Popen(
        program(folder, processes, port), env=env, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def curve(folder: Path) -> dict[int, dict]:
    """Step -> what was logged, but for the clock. A line half written is none."""
    log, found = folder / "log.jsonl", {}
    for line in log.read_text().splitlines() if log.exists() else ():
        if line.endswith("}"):
            record = json.loads(line)
            found[record["step"]] = {k: v for k, v in record.items() if k != "seconds"}
    return found


def newest(folder: Path) -> int:
    steps = [int(path.name.removeprefix("step-")) for path in (folder / "state").glob("step-*")]
    return max(steps, default=0)


def survive(kills: int, processes: int, say=print) -> tuple[int, int]:
    """(kills in the middle of training, most steps lost by one). Raises AssertionError if the
    curve differs from that of a run nobody killed."""
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        run = start(whole, processes, 0.0)
        assert run.wait() == 0, run.stderr.read().decode()
        hit = lost = 0
        rng = random.Random(0)
        while hit < kills:
            before = newest(killed)
            pause = 0.02
            run = start(killed, processes, pause)
            first = time.time()
            while newest(killed) == before and run.poll() is None and time.time() - first < 120:
                time.sleep(0.01)  # until it trains
            time.sleep(rng.random() * 12 * pause)
            os.killpg(run.pid, signal.SIGKILL)
            if run.wait() == 0:
                break
            hit += 1
            reached, kept = max(curve(killed), default=0), newest(killed)
            lost = max(lost, reached - kept)
            say(f"kill {hit}: at step {reached}, goes on from {kept}")
        run = start(killed, processes, 0.0)
        assert run.wait() == 0, run.stderr.read().decode()
        theirs, ours = curve(whole), curve(killed)
        assert sorted(ours) == list(range(1, STEPS + 1))
        assert ours == theirs, "the curves differ"
        return hit, lost


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    hit, lost = survive(arguments.kills, arguments.processes, lambda line: print(line, flush=True))
    print(
        f"{hit} kills with {arguments.processes} processes: the curve is the same to the bit; at "
        f"most {lost} steps were lost (saved every {SAVE_EVERY})"
    )
