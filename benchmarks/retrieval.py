"""The memory and time of retrieving among many pictures, with features of ViT-g's shape.

    python -m benchmarks.retrieval                   5,000 pictures, 25,000 texts, 128 candidates
    python -m benchmarks.retrieval --matched 5000    the Q-Former reads every pair: hours on a CPU

Encoder outputs are noise, (257, 1408) a picture, made anew each time a picture is read. The
Q-Former is small unless told, and reads the pairs of the first pictures alone, the others' match
logits being drawn: what it holds at a time is one picture and 64 texts, whatever their number. A
full-size one adds its 0.7 GB of weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import extra_memory
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.retrieval import KEEP, Ranker
from qformer.stage1 import Stage1
from train.eval import retrieval
from train.eval.models import RankerModel
from train.eval.run import Book

TOKENS, WIDTH = 257, 1408  # of ViT-g at 224 pixels
WORDS = 10  # of a caption


class RandomVision(nn.Module):
    """An encoder whose output is noise, turned by a picture's number."""

    image_size, grid, leading_tokens, width = (224, 224), (16, 16), 1, WIDTH

    def preprocess(self, image: Tensor) -> Tensor:
        return image[0, 0].float()  # (3,)

    def __init__(self) -> None:
        super().__init__()
        noise = torch.randn(TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise)

    def encode(self, pixel_values: Tensor) -> Tensor:
        numbers = (pixel_values[:, 0] + 256 * pixel_values[:, 1]).long().tolist()
        return torch.stack([self.noise.roll((n, n // TOKENS), (0, 1)) for n in numbers])


class PartlyMatched(RankerModel):
    """Match logits are drawn for all but the first pictures."""

    def __init__(self, ranker: Ranker, matched: int) -> None:
        super().__init__("loupe", ranker)
        self.left = matched
        self.rng = np.random.default_rng(1)

    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        self.left -= 1
        if self.left >= 0:
            return super().rerank(image, texts)
        return torch.from_numpy(self.rng.normal(size=len(texts)))


@dataclass(frozen=True)
class Numbered:
    """A picture that is its number."""

    number: int

    @property
    def key(self) -> str:
        return str(self.number)

    def load(self) -> Tensor:
        return torch.tensor([[[self.number % 256, self.number // 256, 0]]], dtype=torch.uint8)

    def digest(self) -> str:
        return self.key


def ranker(width: int, layers: int) -> Ranker:
    config = QFormerConfig(
        hidden_size=width, num_layers=layers, num_heads=max(1, width // 64) * 2,
        intermediate_size=4 * width, encoder_hidden_size=WIDTH, num_queries=32, itc_size=256,
    )  # fmt: skip
    torch.manual_seed(0)
    bridge = Bridge(BridgeConfig(config))
    stage1 = Stage1(bridge.qformer)
    return Ranker(RandomVision(), bridge, stage1, lambda text: [*map(int, text.split())], 102)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--texts", type=int, default=25000)
    parser.add_argument("--keep", type=int, default=KEEP, help="candidates (%(default)s)")
    parser.add_argument("--width", type=int, default=64, help="of the Q-Former (%(default)s)")
    parser.add_argument("--layers", type=int, default=1, help="of the Q-Former (%(default)s)")
    parser.add_argument("--matched", type=int, default=20, help="pictures read again (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = PartlyMatched(ranker(arguments.width, arguments.layers), arguments.matched)
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, row)) for row in rng.integers(1000, 30000, (arguments.texts, WORDS))]
    owner = np.arange(arguments.texts) % arguments.pictures
    pictures = [Numbered(number) for number in range(arguments.pictures)]
    gallery = retrieval.Gallery([one.key for one in pictures], pictures, texts, owner)
    start, pairs = time.perf_counter(), 0

    def run() -> None:
        nonlocal pairs
        with tempfile.TemporaryDirectory() as folder:
            book = Book(Path(folder) / "predictions.jsonl", {})
            vectors = torch.cat(
                [model.text_features(texts[i : i + 64]) for i in range(0, len(texts), 64)]
            )
            seen = retrieval.features(model, gallery, 32, say)
            found = retrieval.pick(seen, vectors, len(pictures), arguments.keep)
            retrieval.match(model, "loupe", gallery, found, book, say)
            retrieval.matched_ranks("loupe", gallery, found, book)
            pairs = sum(len(record["texts"]) for record in book.records)

    def say(done: int, total: int) -> None:
        if done % 500 == 0:
            print(f"{done} of {total}, {time.perf_counter() - start:.0f} s", flush=True)

    memory = extra_memory(run)
    held = TOKENS * WIDTH * 4 * arguments.pictures / 2**30
    print(f"{arguments.pictures} x {arguments.texts}, {pairs} pairs matched")
    print(f"time {time.perf_counter() - start:.0f} s")
    told = "unknown" if memory is None else f"{memory:.0f} MB"
    print(f"peak beyond the start: {told}; the encoder's outputs would be {held:.1f} GB")


if __name__ == "__main__":
    main()
