"""How near two texts come in meaning, by a sentence encoder from a local folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import open_model, quiet
from adapters.frozen import Frozen
from qformer.contracts import CheckpointError

READ = {"Transformer", "Pooling", "Normalize"}  # the cosine divides by the length anyway
POOLINGS = ("mean", "cls")
AT_ONCE = 64  # texts
LONGEST = 128  # tokens of a text


class SentenceEncoder(Frozen):
    """An encoder whose token states, averaged over a text or those of its first token, are compared
    by their cosine: the form of most Sentence-Transformers (Reimers and Gurevych 2019)."""

    def __init__(self, model: torch.nn.Module, tokenizer: object, pooling: str = "mean") -> None:
        super().__init__()
        self.model, self.tokenizer, self.pooling = model, tokenizer, pooling
        self._known: dict[str, Tensor] = {}
        self.freeze()

    @classmethod
    def open(cls, source: str | Path) -> SentenceEncoder:
        """Raises CheckpointError for a folder without an encoder or its tokenizer, or with another
        pooling."""
        model, pooling = open_model(source, ignore_missing=("pooler.",)), pooling_of(source)
        from transformers import AutoTokenizer

        try:
            with quiet():
                return cls(model, AutoTokenizer.from_pretrained(source), pooling)
        except Exception as error:  # transformers raises a dozen kinds here
            raise CheckpointError(f"{source} holds no whole tokenizer: copy it again") from error

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(texts, width), unit length."""
        read = self.tokenizer(  # type: ignore[operator]
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        )
        states = self.model(**read).last_hidden_state
        if self.pooling == "cls":
            return F.normalize(states[:, 0], dim=-1)
        shown = read["attention_mask"][..., None].to(states)
        return F.normalize((states * shown).sum(1) / shown.sum(1), dim=-1)

    def nearest(self, texts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[float]:
        """The cosine of each text with the nearest of its answers; an empty one is like nothing."""
        every = dict.fromkeys([*texts, *(answer for some in answers for answer in some)])
        new = [text for text in every if text.strip() and text not in self._known]
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            self._known |= dict(zip(part, self.encode(part), strict=True))
        nothing = torch.zeros(1)
        return [
            max(
                float((self._known[text] * self._known.get(answer, nothing)).sum())
                for answer in some
            )
            if text in self._known
            else 0.0
            for text, some in zip(texts, answers, strict=True)
        ]


def pooling_of(source: str | Path) -> str:
    """Read the pooling that Sentence-Transformers wrote beside a model; "mean" for a bare model.

    Raises CheckpointError for what is not read here.
    """
    modules = _written(source, "modules.json") or []
    kinds = {one["type"].rpartition(".")[2]: one["path"] for one in modules}
    if kinds.keys() - READ:
        others = ", ".join(sorted(kinds.keys() - READ))
        raise CheckpointError(
            f"{source} ends in {others}, which is not read: give a sentence encoder of a model and"
            " its pooling alone"
        )
    settings = _written(source, f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
    pooling = settings.get("pooling_mode")
    if pooling is None:  # as written before version 5
        switches = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
        on = [key for key, value in settings.items() if key.startswith("pooling_mode_") and value]
        pooling = next((name for name, key in switches.items() if on == [key]), on or "mean")
    if pooling not in POOLINGS:
        raise CheckpointError(
            f"{source} pools by {pooling}, and {' and '.join(POOLINGS)} are read: give another"
            " sentence encoder"
        )
    return pooling


def _written(source: str | Path, name: str) -> Any:
    """A JSON file of a folder or hub id; None where it is not."""
    from transformers.utils import cached_file

    try:
        path = cached_file(str(source), name)
    except OSError:
        return None
    return json.loads(Path(str(path)).read_text(encoding="utf-8"))
