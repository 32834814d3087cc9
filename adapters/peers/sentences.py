"""How near two texts come in meaning, by a sentence encoder from a local folder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.folder import Source, open_model, quiet
from adapters.frozen import Frozen
from qformer.contracts import CheckpointError


class SentenceEncoder(Frozen):
    """An encoder whose token states, averaged over a text, are compared by their cosine: the form
    of most Sentence-Transformers (Reimers and Gurevych 2019)."""

    def __init__(self, model: torch.nn.Module, tokenizer: object) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self._known: dict[str, Tensor] = {}
        self.freeze()

    @classmethod
    def open(cls, source: Source) -> SentenceEncoder:
        """Raises CheckpointError for a folder without an encoder or its tokenizer."""
        model = open_model(source, ignore_missing=("pooler.",))
        from transformers import AutoTokenizer

        try:
            with quiet():
                return cls(model, AutoTokenizer.from_pretrained(source))
        except Exception as error:  # transformers raises a dozen kinds here
            raise CheckpointError(f"{source} holds no whole tokenizer: copy it again") from error

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """(texts, width), unit length."""
        read = self.tokenizer(  # type: ignore[operator]
            list(texts), padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        states = self.model(**read).last_hidden_state
        shown = read["attention_mask"][..., None].to(states)
        return F.normalize((states * shown).sum(1) / shown.sum(1), dim=-1)

    def similarity(self, texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
        """Cosines (texts, others); an empty text is like nothing."""
        new = [t for t in dict.fromkeys([*texts, *others]) if t.strip() and t not in self._known]
        if new:
            self._known |= dict(zip(new, self.encode(new), strict=True))
        found = np.zeros((len(texts), len(others)))
        for row, text in enumerate(texts):
            for column, other in enumerate(others):
                if text in self._known and other in self._known:
                    found[row, column] = float(self._known[text] @ self._known[other])
        return found
