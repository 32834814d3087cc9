"""`loupe train embedded`: the embedded default, from random weights to answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qformer.console import Parser
from train.embedded.config import SHIPPED, read_embedded

# Each step frees what the next one needs again: glibc gives large blocks back to the system every
# time, which costs a seventh of the run, unless told to keep them.
QUIET_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**27),
    "OMP_NUM_THREADS": "1",
}
EXAMPLES = """examples:
  loupe train embedded                       all of it; run again to resume after a kill
  loupe train embedded --only vision         one phase
  loupe train embedded --set stage2.steps=2000 --out runs/longer
"""


def main(argv: Sequence[str]) -> int:
    """Raises LoupeError for a config that does not fit; `loupe` prints it in one line."""
    parser = Parser(
        prog="loupe train embedded", epilog=EXAMPLES,
    )  # fmt: skip
    parser.add_argument("--config", type=Path, default=SHIPPED)
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", dest="changes")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"))
    parser.add_argument("--only", metavar="PHASE", help="one phase, instead of all in order")
    parser.add_argument("--threads", type=int, default=1, help="of a phase that runs alone")
    arguments = parser.parse_args(argv)
    config = read_embedded(arguments.config, arguments.changes)

    from train.embedded.pipeline import PHASES, Pipeline

    if arguments.only is None:
        return run_all(argv)
    if arguments.only not in (*PHASES, "snapshot"):
        parser.error(f"there is no phase {arguments.only!r}; the phases are {', '.join(PHASES)}")
    import torch

    torch.set_num_threads(arguments.threads)
    pipeline = Pipeline(config, arguments.out, lambda line: print(line, flush=True))
    getattr(pipeline, arguments.only)()
    return 0


def run_all(argv: Sequence[str]) -> int:
    """Every phase in a process of its own. The frozen parts do not depend on one another: vision
    trains beside language and segmenter, a thread each, which on two cores beats two threads."""
    from train.embedded.pipeline import PHASES

    def start(phase: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "train.embedded.cli", *argv, "--only", phase]
        return subprocess.Popen(command, env={**os.environ, **QUIET_MEMORY})

    beside = start("vision")
    for phase in ("language", "segmenter"):
        if code := start(phase).wait():
            beside.terminate()
            return code
    if code := beside.wait():
        return code
    for phase in PHASES[3:]:
        if code := start(phase).wait():
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
