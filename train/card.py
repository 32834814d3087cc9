"""`--push`: a model card, and the upload of what was trained and nothing else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adapters.checkpoint import CONFIG, LORA, MANIFEST, WEIGHTS, load_config
from adapters.packages import PREFIX, package_of
from qformer.contracts import LoupeError
from train.recipe import Recipe

UPLOADED = (CONFIG, WEIGHTS, MANIFEST, f"{LORA}/*", "vision/*")  # vision/: only where it trained


def check_shared(parts: Mapping[str, Any], trained: Collection[str] = ()) -> None:
    """Raises LoupeError for a frozen part that others could not get: a folder of this machine.
    trained: those that are saved with the checkpoint."""
    for name in ("vision", "language", "tokenizer"):
        part = parts[name]
        if part is None or name in trained:
            continue
        if part.path.startswith(".") or Path(part.path).is_dir():
            raise LoupeError(
                f"the {name} is a folder on this machine ({part.path}), which others do not have: "
                f"train with its hub id in start.{name}, or share the folder yourself"
            )


def write_card(recipe: Recipe, file: Path, run: Path, target: Path) -> None:
    """Put into `target` what is uploaded: the checkpoint of a finished run, and its README.md.

    file: the recipe's own. Raises LoupeError for a frozen part that others could not get.
    """
    checkpoint = run / "checkpoint"
    config = load_config(checkpoint)
    trained = ("vision",) if config.vision.path == "./vision" else ()
    check_shared(vars(config), trained)
    target.mkdir(parents=True, exist_ok=True)
    for pattern in UPLOADED:
        for path in checkpoint.glob(pattern):
            place = target / path.relative_to(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    (target / "README.md").write_text(card(recipe, file, run, config), encoding="utf-8")


def card(recipe: Recipe, file: Path, run: Path, config: Any) -> str:
    """The README.md: recipe, data, scores, and the licence of each frozen part."""
    parts = {
        name: getattr(config, name)
        for name in ("vision", "language", "segmenter", "tokenizer")
        if getattr(config, name) is not None
    }
    base = [part.path for part in parts.values() if not part.path.startswith((".", PREFIX))]
    rows = [row(name, part) for name, part in parts.items()]
    data = [f"- {one.format}: `{one.path}`, weight {one.weight:g}" for one in recipe.data]
    head = ["---", "library_name: loupe", "base_model:", *(f"- {name}" for name in base), "---"]
    told = scores(run)
    trained = [name for name in ("bridge", "vision") if getattr(recipe.trains, name)]
    trained += [f"a LoRA on {part}" for part in (recipe.lora.where if recipe.lora else ())]
    return "\n".join([
        *head, "", f"# {run.name}", "",
        f"A Loupe checkpoint, stage `{recipe.stage}`. Trained: {', '.join(trained)}. The frozen "
        "parts are not in this repository; they are fetched from where they are published, under "
        "their own licences.", "",
        "```", "loupe chat --model FOLDER", "```", "",
        "| frozen part | from | revision | licence |", "|---|---|---|---|", *rows, "",
        "## Data", "", *data, "",
        "## Scores", "",
        *([f"At step {told['step']}, on data that were not learned:", ""] if told else []),
        *([f"- {n}: {v:.4f}" for n, v in told["scores"].items()] if told else ["Not evaluated."]),
        "", "## Recipe", "", "```toml", file.read_text(encoding="utf-8").strip(), "```", "",
    ])  # fmt: skip


def row(name: str, part: Any) -> str:
    """A frozen part's line in the table; one that a Python package carries is told as that."""
    if part.path.startswith(PREFIX):
        package = package_of(part.path.removeprefix(PREFIX))
        return (
            f"| {name} | {package.pip} (a Python package) | {package.version} | {package.licence} |"
        )
    return f"| {name} | {part.path} | {part.revision or 'main'} | {licence(part.path)} |"


def scores(run: Path) -> dict[str, Any] | None:
    """The last evaluation in the log."""
    log = run / "log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    told = [record for record in map(json.loads, lines) if "scores" in record]
    return told[-1] if told else None


def licence(source: str) -> str:
    """What the model's own card says; a hub id's is asked of the hub, where it answers."""
    page = Path(source) / "README.md"
    if not page.is_file():
        try:
            from huggingface_hub import hf_hub_download

            page = Path(hf_hub_download(source, "README.md"))
        except Exception:  # no network, no card, no such id
            return "see its page"
    found = re.search(
        r"^license:\s*(\S+)", page.read_text(encoding="utf-8", errors="replace"), re.M
    )
    return found[1] if found else "see its page"


def push(folder: Path, repository: str) -> str:
    """Upload a folder that `write_card` made; returns its address. Raises LoupeError."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except Exception as error:  # of the network, of the hub, of a missing token
        raise LoupeError(
            f"the upload to {repository} failed ({type(error).__name__}): the folder {folder} is "
            "ready; log in with `hf auth login` and push again"
        ) from error
