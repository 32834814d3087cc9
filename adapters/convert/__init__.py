"""A model from one form into another: LAVIS' .pth, Hugging Face's folders, Loupe's checkpoints.

Read into a `Model`, written out of one; weights keep their bits, and each that has no home in the
new form is named. `convert` is the door.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from adapters import lavis
from adapters.build import find
from adapters.convert import huggingface, lavis_files, loupe
from adapters.convert.model import Model, Report
from adapters.published import PUBLISHED
from adapters.source import Source
from qformer.contracts import CheckpointError

Form = Literal["loupe", "hf", "lavis"]
WRITERS = {"loupe": loupe.write, "hf": huggingface.write, "lavis": lavis_files.write}


def convert(
    source: str | Path,
    target: Path,
    form: Form,
    vision: Source | None = None,
    language: Source | None = None,
    tokenizer: Source | None = None,
    num_heads: int | None = None,
) -> Report:
    """Write the model `source` (see `read`) in another form to `target`, a folder, or a file for
    "lavis". Raises CheckpointError, and then writes nothing."""
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise CheckpointError(f"{target} is there already: choose another place, or remove it")
    return WRITERS[form](read(source, vision, language, tokenizer, num_heads), target)


def read(
    source: str | Path,
    vision: Source | None = None,
    language: Source | None = None,
    tokenizer: Source | None = None,
    num_heads: int | None = None,
) -> Model:
    """A model in any form: a LAVIS .pth of any stage, with the frozen parts it lacks; a folder or
    hub id of a published BLIP-2, InstructBLIP or retrieval model; a Loupe checkpoint."""
    if str(source).endswith(lavis.SUFFIXES):
        return lavis_files.read(Path(source), vision, language, tokenizer, num_heads)
    if vision is not None or language is not None or tokenizer is not None:
        raise CheckpointError(
            f"{source} names its own parts: leave out vision, language and tokenizer"
        )
    found = find(source)
    if found.model_type in {*PUBLISHED, huggingface.BARE}:
        return huggingface.read(found)
    if "vision" in found.settings() and found.is_folder:
        return loupe.read(found.folder)
    raise CheckpointError(
        f"{source} is no model that can be converted: give a LAVIS .pth, a BLIP-2 or InstructBLIP "
        "of Hugging Face, or a Loupe checkpoint"
    )
