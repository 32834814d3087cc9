"""A tokenizer of our own, for a Q-Former's text side or a small language model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SPECIALS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
SYMBOLS = ["[CLS]", "[DEC]"]  # ids 4 and 5, for the Q-Former's text side


def fit_sentencepiece(
    lines: Iterable[str], model_file: Path, vocabulary: int, split_digits: bool = False
) -> None:
    """Write a sentencepiece model of these lines; it folds case, and falls back to bytes for what
    it has never read. vocabulary: its most pieces. split_digits: each digit is a piece."""
    import sentencepiece

    model_file.parent.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(model_file.with_suffix("")),
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        user_defined_symbols=SYMBOLS,
        hard_vocab_limit=False,
        split_digits=split_digits,
        minloglevel=2,
        num_threads=1,
        **SPECIALS,
    )
    model_file.with_suffix(".vocab").unlink()
