"""Published segmenters by short name, and how one is chosen and opened."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch

from adapters.folder import opening, quiet
from adapters.registry import SEGMENTERS
from adapters.segmenter_efficientsam import save_efficientsam
from adapters.segmenter_lite import save_lite
from adapters.segmenter_mobilesam import save_mobilesam
from adapters.source import ModelSource
from qformer.contracts import CheckpointError, hint

AUTO = "auto"
EMBEDDED = Path(__file__).parent / "embedded" / "segmenter"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Known:
    """kind: its entry in the registry. hub: where it is published; file: its weights there, where
    the hub id holds several or no config.json. millions: of parameters, as published. seconds: to
    encode a picture on one CPU thread, where it was measured (docs/segmenters.md)."""

    kind: str
    hub: str
    millions: float
    says: str
    seconds: float | None = None
    licence: str = "Apache-2.0"
    file: str | None = None

    @property
    def parameters(self) -> int:
        return round(1e6 * self.millions)


KNOWN: dict[str, Known] = {
    "sam-vit-b": Known("sam", "facebook/sam-vit-base", 94, "the first SAM", 13.8),
    "sam-vit-l": Known("sam", "facebook/sam-vit-large", 312, "... larger"),
    "sam-vit-h": Known("sam", "facebook/sam-vit-huge", 641, "... largest"),
    "slimsam-77": Known("sam", "Zigeng/SlimSAM-uniform-77", 9.7, "SAM pruned to a tenth"),
    "slimsam-50": Known("sam", "Zigeng/SlimSAM-uniform-50", 28, "SAM pruned to a third"),
    "sam-hq-vit-b": Known("sam_hq", "syscv-community/sam-hq-vit-base", 95, "SAM, finer edges"),
    "sam-hq-vit-l": Known("sam_hq", "syscv-community/sam-hq-vit-large", 314, "... larger"),
    "sam-hq-vit-h": Known("sam_hq", "syscv-community/sam-hq-vit-huge", 643, "... largest"),
    "sam2.1-tiny": Known("sam2", "facebook/sam2.1-hiera-tiny", 39, "the default on a CPU", 4.2),
    "sam2.1-small": Known("sam2", "facebook/sam2.1-hiera-small", 46, "a little larger"),
    "sam2.1-base-plus": Known("sam2", "facebook/sam2.1-hiera-base-plus", 81, "default on a GPU"),
    "sam2.1-large": Known("sam2", "facebook/sam2.1-hiera-large", 224, "the best of SAM 2.1"),
    "sam3": Known(
        "sam3_video", "facebook/sam3", 848, "finds by text and exemplars", licence="SAM License"
    ),
    "efficientsam-ti": Known(
        "efficientsam", "merve/EfficientSAM", 10, "small; no clicks that exclude", 2.4,
        file="efficient_sam_vitt.pt",
    ),
    "efficientsam-s": Known(
        "efficientsam", "merve/EfficientSAM", 26, "... larger", 5.1, file="efficient_sam_vits.pt"
    ),
    "mobilesam": Known(
        "mobilesam", "dhkim2810/MobileSAM", 10, "SAM with a small encoder", 2.5,
        file="mobile_sam.pt",
    ),
    "edgetam": Known(
        "edgetam", "yonigozlan/EdgeTAM-hf", 14, "smallest of SAM 2's kind; needs timm; untried"
    ),
}  # fmt: skip
RELEASES = {known.file: known.kind for known in KNOWN.values() if known.file}


def open_segmenter(
    source: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Any:
    """A segmenter by short name (KNOWN), hub id, folder, or a release's weight file.

    source: "auto" is SAM 2.1, tiny on a CPU and base-plus on a GPU, or the embedded default's where
    the hub does not give it; "embedded" always that. device: where it will run. Raises
    CheckpointError.
    """
    if str(source) == AUTO:
        return open_segmenter(default_name(device), dtype, device)
    if str(source) == "embedded":
        source = EMBEDDED
    known = KNOWN.get(str(source))
    if known is not None and not Path(source).exists():
        options = {} if known.file is None else {"file": known.file}
        with opening(known.hub):
            return SEGMENTERS[known.kind](known.hub, dtype, **options)
    path = Path(source)
    if path.is_file():
        kind = RELEASES.get(path.name)
        if kind is None:
            raise CheckpointError(
                f"{path.name} is not a release's weight file; known: {', '.join(RELEASES)}"
            )
        with opening(path):
            return SEGMENTERS[kind](path, dtype)
    if not path.is_dir() and not HUB_ID.fullmatch(str(source)):
        otherwise = "give a short name (loupe segmenters lists them), a folder or a hub id"
        raise CheckpointError(f"there is no segmenter {source}: {hint(source, KNOWN, otherwise)}")
    kind = kind_of(source)
    if kind not in SEGMENTERS:
        raise CheckpointError(
            f"{source} is a {kind!r} model; as segmenters these are known: {', '.join(SEGMENTERS)}"
        )
    with opening(source):
        return SEGMENTERS[kind](source, dtype)


def kind_of(source: str | Path) -> str | None:
    """The model_type of a folder or hub id; that of a release's weights where no config is."""
    path = Path(source)
    if path.is_dir() and not (path / "config.json").is_file():
        for file, kind in RELEASES.items():
            if (path / file).is_file():
                return kind
    return ModelSource.of(source).model_type


def save_segmenter(segmenter: Any, folder: Path) -> None:
    """A folder that `open_segmenter` reads again."""
    folder.mkdir(parents=True, exist_ok=True)
    if segmenter.family == "efficientsam":
        save_efficientsam(segmenter.model, folder)
    elif segmenter.family == "mobilesam":
        save_mobilesam(segmenter.model, folder)
    elif segmenter.family == "lite-sam":
        save_lite(segmenter, folder)
    elif segmenter.family == "sam3":
        raise CheckpointError("a whole SAM 3 is not saved here: tune its tracker (sam3_tracker)")
    else:
        with quiet():
            segmenter.model.save_pretrained(folder)
        mean, std = segmenter.mean.flatten().tolist(), segmenter.std.flatten().tolist()
        values = {"image_mean": mean, "image_std": std, "resample": 2}
        (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


def best_name(device: str | torch.device) -> str:
    """The default, where it can be had."""
    return "sam2.1-tiny" if torch.device(device).type == "cpu" else "sam2.1-base-plus"


def default_name(device: str | torch.device) -> str:
    """The best default that can be had here."""
    name = best_name(device)
    return name if available(KNOWN[name].hub) else "embedded"


def available(hub: str) -> bool:
    """Whether a hub id lies in the cache, or the hub answers."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub, "config.json"), str) or hub_answers()


def is_here(known: Known) -> bool:
    """Whether its weights lie in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    file = known.file or "model.safetensors"
    return isinstance(try_to_load_from_cache(known.hub, file), str)


@cache
def hub_answers(timeout: float = 2.0) -> bool:
    """Asked once, by a connection of our own: the hub's client tries for half a minute."""
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or address.hostname is None:
        return False
    if getproxies():  # who is behind one has set it up to reach the hub
        return True
    try:
        socket.create_connection((address.hostname, address.port or 443), timeout).close()
    except OSError:
        return False
    return True
