"""`loupe doctor`: what Loupe needs on this machine, a line each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from adapters.defaults import DEFAULTS, folder_of
from qformer.contracts import LoupeError

OPTIONAL = {
    "gradio": "the chat: pip install gradio",
    "peft": "training with LoRA: pip install peft",
    "accelerate": "training: pip install accelerate",
    "bitsandbytes": "quantisation: pip install bitsandbytes",
    "gguf": "loupe setup photos: pip install gguf",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Check:
    """state: "ok" | "absent" (an optional part) | "broken" (something to put right)."""

    name: str
    state: str
    says: str


def checks() -> Iterator[Check]:
    running = platform.python_version()
    old = sys.version_info < (3, 11)
    yield Check("python", "broken" if old else "ok", running + (": use 3.11 or newer" * old))
    yield torch_check()
    for library in ("transformers", "sentencepiece", "safetensors", "numpy", "pillow"):
        found = installed(library)
        wanted = f"missing: pip install {library}"
        yield Check(library, "ok" if found else "broken", found or wanted)
    yield torchvision_check()
    for library, use in OPTIONAL.items():
        found = installed(library)
        yield Check(library, "ok" if found else "absent", found or f"not installed; for {use}")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    yield Check("chromium", "ok" if browser else "absent", browser or "not found; for tests only")
    yield from map(weights_check, DEFAULTS)
    yield parts_check()
    yield Check("cores", "ok", str(usable_cores()))
    yield memory_check()


def installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def torch_check() -> Check:
    import torch  # Loupe's rooms need it at import, so it is there

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Check("torch", "ok", f"{torch.__version__}, {', '.join(gpus) or 'no GPU'}")


def torchvision_check() -> Check:
    """Beside another torch its import fails, and takes many of transformers' models with it."""
    if find_spec("torchvision") is None:
        return Check("torchvision", "ok", "not installed, not needed")
    # In a process of its own: a failed import would leave half a torchvision behind in this one.
    run = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, check=False
    )
    if run.returncode:
        return Check("torchvision", "broken", "does not fit torch: pip uninstall torchvision")
    return Check("torchvision", "ok", f"{installed('torchvision')}, not needed")


def weights_check(model: str) -> Check:
    from adapters.checkpoint import verify

    what = f"{model} weights"
    folder = folder_of(model)
    if not folder.is_dir():
        return Check(what, "broken", "missing: check the project out again")
    try:
        verify(folder)
    except LoupeError as error:
        return Check(what, "broken", str(error))
    size = sum(path.stat().st_size for path in folder.parent.rglob("*") if path.is_file())
    return Check(what, "ok", f"{size / 1e6:.1f} MB, every byte as it was shipped")


def parts_check() -> Check:
    """Of the photos' model: what `loupe setup photos` fetches."""
    from adapters.packages import SETS, cache_folder, locate_package

    name, size = "photos' parts", 0
    for part in SETS["photos"]:
        there = (cache_folder() / part).is_dir()
        try:
            size += sum(file.stat().st_size for file in locate_package(part).iterdir())
        except LoupeError as error:
            return Check(name, "broken" if there else "absent", str(error))
    return Check(name, "ok", f"{size / 1e6:.1f} MB, every byte as it was set up")


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_check() -> Check:
    try:
        pages, free = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_AVPHYS_PAGES")
        page = os.sysconf("SC_PAGE_SIZE") / 1e9
    except (AttributeError, ValueError, OSError):
        return Check("memory", "ok", "unknown on this system")
    says = f"{pages * page:.1f} GB, {free * page:.1f} GB of it free"
    if pages * page < 2:
        return Check("memory", "broken", f"{says}: the models that ship want 2 GB")
    return Check("memory", "ok", says)


def run(as_json: bool = False) -> int:
    """Report; 1 where something is to be put right."""
    found = list(checks())
    broken = sum(check.state == "broken" for check in found)
    if as_json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in found]}))
    else:
        signs = {"ok": "ok    ", "absent": "-     ", "broken": "BROKEN"}
        for check in found:
            print(f"{signs[check.state]}  {check.name:<17} {check.says}")
        print(f"{broken} to put right" if broken else "all is well")
    return 1 if broken else 0
