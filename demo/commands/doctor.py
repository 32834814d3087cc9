"""`loupe doctor`: what this machine has and lacks."""

from __future__ import annotations

import argparse

SAYS = "check what Loupe needs on this machine"
EXAMPLES = """examples:
  loupe doctor
  loupe doctor --json"""


def arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="report as one JSON object")


def run(args: argparse.Namespace) -> int:
    from demo import doctor

    return doctor.run(as_json=args.json)
