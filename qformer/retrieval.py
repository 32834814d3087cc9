"""Which pictures fit a text: image-text contrast picks, image-text matching decides.

BLIP-2 (arXiv 2301.12597), section 4.4. However many pictures there are, no more than `keep` of them
are remembered at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .bridge import Bridge
from .contracts import QuestionError, TextTokenizer, VisionEncoder
from .losses import itc_similarity
from .stage1 import Stage1

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
    of a text, all counted.
    """

    def __init__(
        self,
        vision: VisionEncoder,
        bridge: Bridge,
        stage1: Stage1,
        tokenizer: TextTokenizer,
        end_id: int | None = None,
        max_text: int = 35,
    ) -> None:
        super().__init__()
        self.vision, self.bridge, self.stage1 = vision, bridge, stage1
        self.tokenizer, self.end_id, self.max_text = tokenizer, end_id, max_text
        self.eval()

    def read_text(self, text: str) -> Tensor:
        """(1, T) ids as the Q-Former reads them. Raises QuestionError for none, or too many."""
        words = self.tokenizer(text.strip())
        if not words:
            raise QuestionError("the text is empty: say what to look for")
        ids = [self.bridge.config.qformer.cls_id, *words]
        ids += [] if self.end_id is None else [self.end_id]
        if len(ids) > self.max_text:
            raise QuestionError(
                f"the text is {len(ids)} tokens long and the model reads {self.max_text}:"
                " shorten it"
            )
        return torch.tensor([ids], device=self.bridge.image_layernorm.weight.device)

    @torch.no_grad()
    def rank(self, images: Iterable[Tensor], text: str, keep: int = KEEP) -> list[Match]:
        """The `keep` pictures that fit best by contrast, best first by matching.

        images: uint8 (height, width, 3) each, read one after the other. Raises QuestionError.
        """
        ids = self.read_text(text)
        text_features = self.stage1.text_features(ids, torch.ones_like(ids))
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
            memory = self.bridge.remember(image_embeds)
            no, yes = self.stage1.match(memory, ids, torch.ones_like(ids))[0].tolist()
            matches.append(Match(-negative, cosine, yes - no, yes + cosine))
        return sorted(matches, key=lambda match: (-match.score, match.index))
