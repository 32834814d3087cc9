"""Text to ids and back, from a folder with a sentencepiece model or any Hugging Face tokenizer.

A folder that has `tokenizer.model` and no `tokenizer.json` is read by sentencepiece itself.
transformers (5.23) rebuilds such a tokenizer under the class its config names: LlamaTokenizer then
ignores the model's normaliser and segmentation, only `SentencePieceBackend` gives the same ids, so
that is the class `save_sentencepiece` writes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

from adapters.folder import quiet
from adapters.source import ModelSource, Source, not_here, read_json
from qformer.contracts import CheckpointError


class Tokenizer(Protocol):
    """What the language models need; calling it is qformer's TextTokenizer."""

    start_ids: list[int]  # what opens a sequence
    eos_id: int | None

    def __len__(self) -> int: ...

    def __call__(self, text: str) -> list[int]:
        """Text -> ids, no special ids."""
        ...

    def decode(self, ids: list[int]) -> str:
        """Ids -> text, special ids left out. Text of ids[:n] begins text of ids[:n + 1], save for
        U+FFFD at its end while a character's bytes are incomplete."""
        ...


class SentencePieceTokenizer:
    """A sentencepiece model file. Text that spells a special token stays text."""

    def __init__(self, model_file: Path, add_bos: bool = True) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self.model = SentencePieceProcessor(model_file=str(model_file))
        except (OSError, RuntimeError):
            raise CheckpointError(
                f"{model_file} is missing or damaged: copy the folder again"
            ) from None
        bos, eos = self.model.bos_id(), self.model.eos_id()
        self.start_ids = [bos] if add_bos and bos >= 0 else []
        self.eos_id = eos if eos >= 0 else None

    def __len__(self) -> int:
        return self.model.get_piece_size()

    def __call__(self, text: str) -> list[int]:
        return self.model.encode(text)

    def decode(self, ids: list[int]) -> str:
        # A language model's vocabulary may be padded beyond the tokenizer's.
        known = len(self)
        return self.model.decode([i for i in ids if i < known and not self.model.is_control(i)])


class HubTokenizer:
    """Any tokenizer transformers opens."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos_id: int | None = tokenizer.eos_token_id
        # What the tokenizer puts before an empty text and does not mean as its end: BOS for
        # Llama, </s> for OPT (whose BOS it is), nothing for T5 and GPT-2.
        opening = tokenizer("")["input_ids"]
        opens = tokenizer.bos_token_id is not None and opening[:1] == [tokenizer.bos_token_id]
        self.start_ids: list[int] = opening[:1] if opens else []

    def __len__(self) -> int:
        return len(self.tokenizer)

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def open_tokenizer(source: Source, subfolder: str = "") -> Any:
    """The Tokenizer of a folder or hub id, or of a folder within. Raises CheckpointError if there
    is none."""
    source = ModelSource.of(source)
    folder = source.folder / subfolder
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        settings = folder / "tokenizer_config.json"
        add_bos = read_json(settings).get("add_bos_token", True) if settings.is_file() else True
        return SentencePieceTokenizer(folder / "tokenizer.model", add_bos)
    if source.is_folder and not any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
    ):
        raise CheckpointError(
            f"{folder} has no tokenizer (tokenizer.model or tokenizer.json): copy the folder again"
        )
    from transformers import AutoTokenizer

    try:
        with quiet():
            return HubTokenizer(AutoTokenizer.from_pretrained(**source.pinned, subfolder=subfolder))
    except Exception as error:  # as in open_model
        if not source.is_folder:
            raise CheckpointError(not_here(source)) from error
        raise CheckpointError(
            f"the tokenizer of {source} does not open ({type(error).__name__}): "
            "copy the folder again"
        ) from error


def save_sentencepiece(model_file: Path, folder: Path) -> None:
    """Put a sentencepiece model into a Hugging Face folder so that AutoTokenizer reads it alike."""
    tokenizer = SentencePieceTokenizer(model_file)
    names = {"pad": "pad_id", "unk": "unk_id", "bos": "bos_id", "eos": "eos_id"}
    ids = {name: getattr(tokenizer.model, method)() for name, method in names.items()}
    config = {f"{n}_token": tokenizer.model.id_to_piece(i) for n, i in ids.items() if i >= 0}
    config |= {"tokenizer_class": "SentencePieceBackend", "clean_up_tokenization_spaces": False}
    folder.mkdir(parents=True, exist_ok=True)
    if model_file.resolve() != (folder / "tokenizer.model").resolve():
        shutil.copyfile(model_file, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
