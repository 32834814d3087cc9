"""Kill a run with SIGKILL at random moments until it is through, and compare its curve.

python tests/train/kills.py --kills 50 --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAVE_EVERY = 5
STEPS = int(os.environ.get("STEPS", "40"))


class Group:
    """The processes of one run, without a launcher, whose children would outlive it."""

    def __init__(self, folder: Path, processes: int, pause: float) -> None:
        script = Path(__file__).with_name("slow.py")
        command = [sys.executable, str(script), str(folder), str(STEPS), str(SAVE_EVERY)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        together = {
            "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
        }  # fmt: skip
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        self.each = []
        for rank in range(processes):
            told = {"RANK": str(rank), "LOCAL_RANK": str(rank), **together} if processes > 1 else {}
            env = {**os.environ, **own, **told, "PAUSE": str(pause)}
            self.each.append(subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL))

    def over(self) -> bool:
        return any(one.poll() is not None for one in self.each)

    def wait(self) -> list[int]:
        return [one.wait() for one in self.each]

    def kill(self) -> list[int]:
        for one in self.each:
            one.kill()
        return self.wait()


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
        assert not any(Group(whole, processes, 0.0).wait()), "the whole run failed"
        hit = lost = 0
        rng = random.Random(0)
        while hit < kills:
            before, pause = newest(killed), 0.02
            run = Group(killed, processes, pause)
            while newest(killed) == before and not run.over():
                time.sleep(0.01)  # until it trains
            time.sleep(rng.random() * 12 * pause)
            if not any(run.kill()):
                break  # it came to its end
            hit += 1
            reached, kept = max(curve(killed), default=0), newest(killed)
            lost = max(lost, reached - kept)
            say(f"kill {hit}: at step {reached}, goes on from {kept}")
        assert not any(Group(killed, processes, 0.0).wait()), "the resumed run failed"
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
