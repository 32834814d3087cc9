"""A toy run for kills.py: `python slow.py FOLDER STEPS SAVE_EVERY`, PAUSE seconds a step."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from pathlib import Path

import torch
from toy import CONFIG, Toy

from train.loop import fit


class Slow(Toy):
    def batch(self, rng, progress, place=0):
        time.sleep(float(os.environ["PAUSE"]))
        return super().batch(rng, progress)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, steps, every = sys.argv[1:]
    config = dataclasses.replace(CONFIG, steps=int(steps), save_every=int(every), log_every=1)
    fit(Slow(), config, Path(folder), lambda line: None)
