"""Stage 1: the Q-Former learns to read pictures from texts (ITC, ITM, ITG).

BLIP-2 (arXiv 2301.12597), section 3.1. Rows may be whole pictures or regions: what a row sees
is its picture's memory, its patch_bias and its query_embeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .contracts import LoupeError
from .losses import (
    IGNORED,
    gather_with_gradient,
    hard_negatives,
    itc_loss,
    itc_similarity,
    itg_labels,
    itg_loss,
    itm_loss,
    world,
)
from .qformer import ImageMemory, QFormer, QFormerOutput, QFormerPass, init_bert_weights


class GenerationHead(nn.Module):
    """BERT's language-model head; its decoder is the word embedding table itself."""

    def __init__(self, width: int, vocab_size: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.layernorm = nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, states: Tensor, word_embeddings: Tensor) -> Tensor:
        """(..., width), (vocabulary, width) -> logits (..., vocabulary)."""
        states = self.layernorm(F.gelu(self.dense(states)))
        return F.linear(states, word_embeddings, self.bias)


class Stage1(nn.Module):
    """The Q-Former with stage 1's heads.

    detach_gathered: treat the other side of the contrast as constants in ITC, as LAVIS does.
    By default its gradient flows to every process, so that several processes train exactly
    like one with the whole batch.
    """

    def __init__(self, qformer: QFormer, detach_gathered: bool = False):
        super().__init__()
        config = qformer.config
        if not config.vocab_size:
            raise LoupeError("stage 1 needs the Q-Former's text side: set vocab_size")
        width = config.hidden_size
        self.detach_gathered = detach_gathered
        self.vision_projection = nn.Linear(width, config.itc_size)
        self.text_projection = nn.Linear(width, config.itc_size)
        self.itm_head = nn.Linear(width, 2)
        self.generation_head = GenerationHead(width, config.vocab_size, config.layer_norm_eps)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.apply(init_bert_weights)
        self.qformer = qformer  # after the heads' start, which must not touch trained weights

    def losses(
        self,
        memory: ImageMemory,
        input_ids: Tensor,
        attention_mask: Tensor,
        same: Tensor | None = None,
        patch_bias: Tensor | None = None,
        query_embeds: Tensor | None = None,
        negatives: tuple[Tensor, Tensor] | None = None,
        contrast: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The three losses of N texts for N rows over B pictures, N = B * passes, picture-major.

        input_ids, attention_mask: (N, T), [CLS] first. same: long (N,), equal where two rows
        have the same target (the same image, or regions described alike); by default every row
        is its own. patch_bias, query_embeds: as `QFormer.forward` takes them. negatives: column
        indices (for each row a text, for each text a row), (N,) each; drawn if not given.
        contrast: another ITC loss, of row features, text features and `same` (see momentum.py).
        Several processes: all hold as many rows; `same` counts across them. Returns scalars
        under "itc", "itm" and "itg". Raises LoupeError if there is no negative at all.
        """
        with torch.no_grad():  # ALBEF's bounds: a learned temperature must stay one
            self.temperature.clamp_(0.001, 0.5)
        rank, _ = world()
        rows = len(input_ids)
        seen = _rows_of(memory, patch_bias, query_embeds)
        if seen != rows:
            raise LoupeError(f"{rows} texts for {seen} rows of pictures and regions")
        memory, patch_bias, query_embeds = _evened(
            memory, patch_bias, query_embeds, self.qformer.query_tokens, rows
        )
        query_pass, text_pass, written = self.qformer.run(
            [
                QFormerPass(memory, query_embeds, patch_bias=patch_bias),
                QFormerPass(input_ids=input_ids, attention_mask=attention_mask),
                self._writing(input_ids, attention_mask),
            ]
        )
        row_features = self._row_features(cast(Tensor, query_pass.query_embeds))
        text_features = self._text_features(cast(Tensor, text_pass.text_embeds))

        if same is None:
            same = torch.arange(rows, device=input_ids.device) + rank * rows
        is_same = same[:, None] == gather_with_gradient(same)
        image_to_text = itc_similarity(row_features, self._others(text_features)) / self.temperature
        text_to_image = (
            itc_similarity(self._others(row_features), text_features).T / self.temperature
        )
        if negatives is None:
            negatives = (
                hard_negatives(image_to_text, is_same),
                hard_negatives(text_to_image, is_same),
            )
        match_logits, matched = self._match_with_negatives(
            memory, input_ids, attention_mask, patch_bias, query_embeds, *negatives
        )
        return {
            "itc": (
                itc_loss(image_to_text, text_to_image, is_same)
                if contrast is None
                else contrast(row_features, text_features, same)
            ),
            "itm": itm_loss(match_logits, matched),
            "itg": self._generation_loss(
                input_ids, attention_mask, cast(Tensor, written.text_embeds)
            ),
        }

    def row_features(
        self,
        memory: ImageMemory,
        patch_bias: Tensor | None = None,
        query_embeds: Tensor | None = None,
    ) -> Tensor:
        """Contrastive features of pictures or regions, (N, queries, itc_size), unit length."""
        query_pass = self.qformer(memory, query_embeds=query_embeds, patch_bias=patch_bias)
        return self._row_features(query_pass.query_embeds)

    def text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Contrastive features of texts, (N, T) -> (N, itc_size), unit length."""
        told = self.qformer(input_ids=input_ids, attention_mask=attention_mask)
        return self._text_features(told.text_embeds)

    def match(
        self,
        memory: ImageMemory,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        patch_bias: Tensor | None = None,
        query_embeds: Tensor | None = None,
    ) -> Tensor:
        """ITM logits (N, 2) of text n against row n: [no match, match]."""
        asked = _pair(memory, input_ids, attention_mask, patch_bias, query_embeds)
        return self._match_logits(self.qformer.run([asked]))

    def _match_logits(self, found: Sequence[QFormerOutput]) -> Tensor:
        """Linear: equal to the mean of the queries' logits."""
        return self.itm_head(torch.cat([cast(Tensor, one.query_embeds).mean(1) for one in found]))

    def scores(
        self, memory: ImageMemory, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Retrieval: "itc" cosines (pictures, texts), "itm" logits (N, 2) of picture n, text n."""
        features = self.row_features(memory), self.text_features(input_ids, attention_mask)
        return {
            "itc": itc_similarity(*features),
            "itm": self.match(memory, input_ids, attention_mask),
        }

    def _row_features(self, query_embeds: Tensor) -> Tensor:
        return F.normalize(self.vision_projection(query_embeds), dim=-1)

    def _text_features(self, text_embeds: Tensor) -> Tensor:
        return F.normalize(self.text_projection(text_embeds[:, 0]), dim=-1)

    def _others(self, features: Tensor) -> Tensor:
        """The features of all processes, as the other side of the contrast."""
        return gather_with_gradient(features.detach() if self.detach_gathered else features)

    def _match_with_negatives(
        self,
        memory: ImageMemory,
        input_ids: Tensor,
        attention_mask: Tensor,
        patch_bias: Tensor | None,
        query_embeds: Tensor | None,
        negative_text: Tensor,
        negative_row: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """ITM logits (3N, 2) and bool (3N,): each row with its text and with a wrong one, each
        text with a wrong row."""
        rows, pictures = len(input_ids), len(memory)
        passes = rows // pictures
        all_ids, all_attention = _gather_texts(
            input_ids, attention_mask, self.qformer.config.pad_id
        )
        own = torch.arange(rows, device=input_ids.device) + world()[0] * rows
        # The right and the wrong text are two more passes over the same pictures, not copies.
        texts = torch.cat([own.view(pictures, passes), negative_text.view(pictures, passes)], dim=1)
        found = self.qformer.run(
            [
                _pair(
                    memory,
                    all_ids[texts.flatten()],
                    all_attention[texts.flatten()],
                    _twice(patch_bias, pictures, dim=-2),
                    _twice(query_embeds, pictures, dim=0),
                ),
                _pair(
                    self._gathered_pictures(memory, negative_row // passes),
                    input_ids,
                    attention_mask,
                    _gathered_rows(patch_bias, negative_row, dim=-2),
                    _gathered_rows(query_embeds, negative_row, dim=0),
                ),
            ]
        )
        matched = torch.zeros(3 * rows, dtype=torch.bool, device=input_ids.device)
        matched[: 2 * rows].view(pictures, 2, passes)[:, 0] = True
        return self._match_logits(found), matched

    def _gathered_pictures(self, memory: ImageMemory, index: Tensor) -> ImageMemory:
        """The pictures at `index` among those of all processes."""
        if world()[1] == 1:
            return memory.select(index)
        if memory.image_embeds is None:
            raise ValueError("several processes exchange image_embeds: use QFormer.remember")
        # image_embeds are a fraction of the keys and values made from them: send those instead
        shown = memory.attention_mask
        return self.qformer.remember(
            gather_with_gradient(memory.image_embeds)[index],
            _gathered_rows(None if shown is None else shown.long(), index, dim=0),
        )

    def _writing(self, input_ids: Tensor, attention_mask: Tensor) -> QFormerPass:
        """ITG on the first pass's keys and values; [DEC] takes the place of [CLS]."""
        opened = input_ids.clone()
        opened[:, 0] = self.qformer.config.dec_id
        return QFormerPass(
            input_ids=opened, attention_mask=attention_mask, prefix=0, pattern="causal"
        )

    def _generation_loss(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor) -> Tensor:
        labels = itg_labels(input_ids, attention_mask)
        kept = labels != IGNORED  # the vocabulary is wide: no logits for padding
        logits = self.generation_head(states[kept], self.qformer.word_embeddings.weight)
        return itg_loss(logits, labels[kept])


def _rows_of(memory: ImageMemory, patch_bias: Tensor | None, query_embeds: Tensor | None) -> int:
    """N, of passes over the pictures of a memory."""
    if query_embeds is not None:
        return query_embeds.shape[0]
    return len(memory) if patch_bias is None else patch_bias.shape[-2]


def _pair(
    memory: ImageMemory,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    patch_bias: Tensor | None,
    query_embeds: Tensor | None,
) -> QFormerPass:
    """Text n against row n, of which the queries alone are wanted."""
    return QFormerPass(
        memory, query_embeds, input_ids, attention_mask, patch_bias=patch_bias, return_text=False
    )


def _gather_texts(input_ids: Tensor, attention_mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention_mask of all processes, padded to the longest text of any."""
    if world()[1] == 1:
        return input_ids, attention_mask
    longest = torch.tensor(input_ids.shape[1], device=input_ids.device)
    dist.all_reduce(longest, op=dist.ReduceOp.MAX)
    padding = (0, int(longest) - input_ids.shape[1])
    return (
        gather_with_gradient(F.pad(input_ids, padding, value=pad_id)),
        gather_with_gradient(F.pad(attention_mask.long(), padding)),
    )


def _gathered_rows(tensor: Tensor | None, index: Tensor, dim: int) -> Tensor | None:
    """The rows of `tensor` at `index` among those of all processes; rows lie along `dim`."""
    if tensor is None:
        return None
    return gather_with_gradient(tensor.movedim(dim, 0))[index].movedim(0, dim)


def _evened(
    memory: ImageMemory,
    patch_bias: Tensor | None,
    query_embeds: Tensor | None,
    queries: Tensor,
    rows: int,
) -> tuple[ImageMemory, Tensor | None, Tensor | None]:
    """The same in the form of every process', which exchange it: where one has regions, all have a
    bias and queries for each row, and where one has more tokens, of focal crops, all have as many.
    The new tokens are hidden from all rows. queries: (1, queries, width), of a whole picture.
    rows: N."""
    if world()[1] == 1:
        return memory, patch_bias, query_embeds
    sides = 0 if patch_bias is None else patch_bias.dim()
    own = memory.num_tokens, sides, int(query_embeds is not None)
    form = torch.tensor(own, device=memory.keys[0].device)
    dist.all_reduce(form, op=dist.ReduceOp.MAX)
    longest, sides, own_queries = form.tolist()
    if sides and patch_bias is None:
        shape = (len(memory.keys), rows, memory.num_tokens)[3 - sides :]
        patch_bias = memory.keys[0].new_zeros(shape)
    if own_queries and query_embeds is None:
        query_embeds = queries.expand(rows, -1, -1)
    new = longest - memory.num_tokens
    if not new or patch_bias is None:
        return memory, patch_bias, query_embeds

    def padded(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else F.pad(tensor, (0, 0, 0, new))

    evened = ImageMemory(
        [cast(Tensor, padded(keys)) for keys in memory.keys],
        [cast(Tensor, padded(values)) for values in memory.values],
        None if memory.attention_mask is None else F.pad(memory.attention_mask, (0, new)),
        padded(memory.image_embeds),
    )
    return evened, F.pad(patch_bias, (0, new), value=-torch.inf), query_embeds


def _twice(tensor: Tensor | None, pictures: int, dim: int) -> Tensor | None:
    """Each picture's passes two times over; rows lie along `dim`."""
    if tensor is None:
        return None
    passes = tensor.movedim(dim, 0).unflatten(0, (pictures, -1))
    return torch.cat([passes, passes], dim=1).flatten(0, 1).movedim(0, dim)
