"""What every command of the project says on the terminal. Imports nothing but argparse."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """argparse, with a wrong call answered in one line and examples kept as they are written."""

    def __init__(self, **named: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **named)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def progress(text: str, done: int, total: int | None, every: int = 0) -> None:
    """Show a line that renews itself on a terminal. Elsewhere print one for each `every`-th and
    the last; with every=0 none. total: None where nobody knows."""
    if sys.stderr.isatty():
        print(f"\r{text}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif every and (done == total or done % every == 0):
        print(text, file=sys.stderr, flush=True)
