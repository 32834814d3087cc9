"""Which pictures fit a text: image-text contrast picks, image-text matching decides.

BLIP-2 (arXiv 2301.12597), section 4.4. However many pictures there are, no more than `keep` of them
are remembered at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from .bridge import Bridge
from .contracts import QuestionError, Segmenter, TextTokenizer, VisionEncoder
from .losses import itc_similarity
from .qformer import ImageMemory
from .stage1 import Stage1
from .view import View

if TYPE_CHECKING:
    from .assistant import Assistant

KEEP = 128  # candidates for matching, as in BLIP-2


@dataclass(frozen=True)
class Match:
    """How well one picture fits. itc: cosine; itm: logit of "they match", less that of "not";
    score: what is ranked by, BLIP-2's match logit plus cosine."""

    index: int  # of the picture, in the order given
    itc: float
    itm: float
    score: float


class Ranker(nn.Module):
    """A stage-1 model at work: a frozen encoder, the bridge's norm and Q-Former, stage 1's heads.

    tokenizer: of the Q-Former. end_id: closes a text ([SEP]), None for none. max_text: most tokens
    of a text, all counted. segmenter: proposes areas of a picture, see finding.py.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        bridge: Bridge,
        stage1: Stage1,
        tokenizer: TextTokenizer,
        end_id: int | None = None,
        max_text: int = 35,
        segmenter: Segmenter | None = None,
    ) -> None:
        super().__init__()
        self.vision, self.bridge, self.stage1 = vision, bridge, stage1
        self.segmenter = segmenter
        self.tokenizer, self.end_id, self.max_text = tokenizer, end_id, max_text
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.bridge.image_layernorm.weight.device

    def encode(self, image: Tensor) -> View:
        """Read a picture once, to look for regions in it; its View answers no questions."""
        # A View asks the bridge and the segmenter for its regions, and nothing else.
        return View(cast("Assistant", self), image)

    def read_text(self, text: str, cut: bool = False) -> Tensor:
        """(1, T) ids as the Q-Former reads them. Raises QuestionError for none, or too many; cut:
        too many lose their end, as in BLIP-2's evaluation."""
        words = self.tokenizer(text.strip())
        if not words:
            raise QuestionError("the text is empty: say what to look for")
        end = [] if self.end_id is None else [self.end_id]
        words = words[: self.max_text - 1 - len(end)] if cut else words
        ids = [self.bridge.config.qformer.cls_id, *words, *end]
        if len(ids) > self.max_text:
            raise QuestionError(
                f"the text is {len(ids)} tokens long and the model reads {self.max_text}:"
                " shorten it"
            )
        return torch.tensor([ids], device=self.device)

    @torch.no_grad()
    def remember(self, images: Sequence[Tensor]) -> ImageMemory:
        """The Q-Former's keys and values of pictures, uint8 (height, width, 3) each."""
        device = self.bridge.image_layernorm.weight.device
        pixels = torch.stack([self.vision.preprocess(image.to(device)) for image in images])
        return self.bridge.remember(self.vision.encode(pixels))

    @torch.no_grad()
    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        """(images, queries, itc_size), unit length."""
        return self.stage1.row_features(self.remember(images))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(texts, itc_size), unit length."""
        return self.stage1.text_features(*self._padded(texts))

    @torch.no_grad()
    def match_logits(self, memory: ImageMemory, texts: Sequence[str], rows: int = 64) -> Tensor:
        """ITM logits (texts, 2) of one remembered picture: [no match, match]. rows: at a time."""
        parts = [
            self.stage1.match(memory, *self._padded(texts[start : start + rows]))
            for start in range(0, len(texts), rows)
        ]
        return torch.cat(parts)

    def _padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (texts, T), too long ones cut, and their attention_mask."""
        ids = [self.read_text(text, cut=True)[0] for text in texts]
        shown = [torch.ones_like(one) for one in ids]
        padded = pad_sequence(ids, True, self.bridge.config.qformer.pad_id)
        return padded, pad_sequence(shown, True, 0)

    @torch.no_grad()
    def rank(self, images: Iterable[Tensor], text: str, keep: int = KEEP) -> list[Match]:
        """The `keep` pictures that fit best by contrast, best first by matching.

        images: uint8 (height, width, 3) each, read one after the other. Raises QuestionError.
        """
        ids = self.read_text(text)
        text_features = self.text_features([text])
        candidates: list[tuple[float, int, Tensor]] = []  # a heap, the worst on top
        for index, image in enumerate(images):
            pixels = self.vision.preprocess(image.to(ids.device))[None]
            image_embeds = self.vision.encode(pixels)
            row = self.stage1.row_features(self.bridge.remember(image_embeds))
            cosine = float(itc_similarity(row, text_features))
            # Of two alike the earlier stays: -index makes it the larger.
            heapq.heappush(candidates, (cosine, -index, image_embeds))
            if len(candidates) > keep:
                heapq.heappop(candidates)
        matches = []
        for cosine, negative, image_embeds in candidates:
            no, yes = self.match_logits(self.bridge.remember(image_embeds), [text])[0].tolist()
            matches.append(Match(-negative, cosine, yes - no, yes + cosine))
        return sorted(matches, key=lambda match: (-match.score, match.index))
