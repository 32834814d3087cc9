"""The memory and time of retrieving among many pictures, with features of ViT-g's shape.

    python -m benchmarks.retrieval                 5,000 pictures, 25,000 texts, 128 candidates
    python -m benchmarks.retrieval --all           the same with nothing drawn: days on a CPU
    python -m benchmarks.retrieval --all --pictures 200 --texts 1000 --keep 32 \\
        --width 256 --layers 4                     nothing drawn, in minutes

Encoder outputs are noise, (257, 1408) a picture, made anew each time a picture is read. The
Q-Former has BLIP-2's size. Without --all it reads the first pictures and texts alone, and of the
first pictures every pair; the other vectors, of the same shape, and the other match logits are
drawn. What it holds at a time is a batch of pictures, or one picture and 64 texts, whatever their
number: the peak is that of a whole run.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.measure import extra_memory
from qformer.bridge import Bridge, BridgeConfig
from qformer.config import QFormerConfig
from qformer.retrieval import KEEP, Ranker
from qformer.stage1 import Stage1
from train.eval import retrieval
from train.eval.book import Book
from train.eval.models import RankerModel

TOKENS, WIDTH = 257, 1408  # of ViT-g at 224 pixels
QUERIES, VECTOR = 32, 256  # of BLIP-2's Q-Former: contrastive vectors of a picture, their width
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


class PartlyRead(RankerModel):
    """Vectors and match logits are drawn for all but the first `read` and `matched`; pictures are
    encoded all the same."""

    def __init__(self, ranker: Ranker, read: float, matched: float) -> None:
        super().__init__("loupe", ranker)
        self.limits = {"pictures": read, "texts": read, "matched pictures": matched}
        self.read: Counter[str] = Counter()
        self.random = torch.Generator().manual_seed(1)

    def _reads(self, kind: str, count: int) -> bool:
        """Whether the next `count` of a kind are read, not drawn."""
        reads = self.read[kind] + count <= self.limits[kind]
        self.read[kind] += count if reads else 0
        return reads

    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        if self._reads("pictures", len(images)):
            return super().image_features(images)
        vision = self.ranker.vision
        vision.encode(torch.stack([vision.preprocess(image) for image in images]))
        return self._drawn(len(images), QUERIES, VECTOR)

    def text_features(self, texts: Sequence[str]) -> Tensor:
        if self._reads("texts", len(texts)):
            return super().text_features(texts)
        return self._drawn(len(texts), VECTOR)

    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        if self._reads("matched pictures", 1):
            self.read["pairs"] += len(texts)
            return super().rerank(image, texts)
        return torch.randn(len(texts), generator=self.random)

    def _drawn(self, *shape: int) -> Tensor:
        return normalize(torch.randn(shape, generator=self.random), dim=-1)


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
        hidden_size=width, num_layers=layers, num_heads=width // 64,
        intermediate_size=4 * width, encoder_hidden_size=WIDTH, num_queries=QUERIES,
        itc_size=VECTOR,
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
    parser.add_argument("--width", type=int, default=768, help="of the Q-Former (%(default)s)")
    parser.add_argument("--layers", type=int, default=12, help="of the Q-Former (%(default)s)")
    parser.add_argument(
        "--read",
        type=int,
        default=128,
        help="pictures, and texts, of which the Q-Former makes the vectors (%(default)s)",
    )
    parser.add_argument(
        "--matched",
        type=int,
        default=2,
        help="pictures of which the Q-Former reads every pair (%(default)s)",
    )
    parser.add_argument("--all", action="store_true", help="draw nothing: read all of them")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    limits = (math.inf, math.inf) if arguments.all else (arguments.read, arguments.matched)
    model = PartlyRead(ranker(arguments.width, arguments.layers), *limits)
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
    drawn = "nothing was drawn" if arguments.all else "the other vectors and logits were drawn"
    print(
        "the Q-Former made the vectors of {pictures} pictures and {texts} texts, and the logits of"
        " {pairs} pairs; ".format(**model.read)
        + drawn
    )
    print(f"time {time.perf_counter() - start:.0f} s")
    told = "unknown" if memory is None else f"{memory:.0f} MB"
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak beyond the start: {told}; of the process, weights included: {whole:.0f} MB")
    print(f"the encoder's outputs alone would be {held:.1f} GB")


if __name__ == "__main__":
    main()
