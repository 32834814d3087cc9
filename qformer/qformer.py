"""BLIP-2's Q-Former: learned queries that read a picture, and a BERT that shares their layers.

J. Li et al., "BLIP-2" (arXiv 2301.12597), section 3.1. A picture's cross-attention keys and
values are computed once (`QFormer.remember`) and read by any number of passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from .config import QFormerConfig
from .layers import KeyValue, LayerPass, QFormerLayer
from .masks import Pattern, self_attention_mask


@dataclass
class ImageMemory:
    """What the Q-Former keeps of B pictures: one entry per cross-attention layer."""

    keys: list[Tensor]  # (B, heads, tokens, head width)
    values: list[Tensor]  # the same
    attention_mask: Tensor | None = None  # (B, tokens) bool, False hides a token
    image_embeds: Tensor | None = None  # (B, tokens, encoder width), what they were made from

    def __len__(self) -> int:
        return self.keys[0].shape[0]

    @property
    def num_tokens(self) -> int:
        return self.keys[0].shape[2]

    def select(self, index: Tensor) -> ImageMemory:
        """The pictures at `index` (M,), in that order, repeats allowed."""
        return ImageMemory(
            [keys.index_select(0, index) for keys in self.keys],
            [values.index_select(0, index) for values in self.values],
            None if self.attention_mask is None else self.attention_mask.index_select(0, index),
            None if self.image_embeds is None else self.image_embeds.index_select(0, index),
        )


@dataclass
class QFormerPass:
    """B pictures read in N = B * passes rows, picture-major; without a memory, text only.

    query_embeds: (N, queries, width), by default `query_tokens` in every row.
    input_ids, attention_mask: (N, text). text_offsets: (N, text, width), added to the text
    embeddings before their LayerNorm. patch_bias: float (N, tokens) or (cross-attention
    layers, N, tokens) added to the cross-attention logits, -inf hides a patch.
    pattern: see `masks.self_attention_mask`. prefix: `QFormerOutput.prefix` of a query pass
    over the same N rows, or the place of that pass where both are made together; then only text
    is given, and the pattern is "causal".
    return_text: False spares the last layer the text rows, where only queries are wanted.
    """

    memory: ImageMemory | None = None
    query_embeds: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    text_offsets: Tensor | None = None
    patch_bias: Tensor | None = None
    pattern: Pattern = "bidirectional"
    prefix: list[KeyValue] | int | None = None
    return_text: bool = True

    def __post_init__(self) -> None:
        if self.prefix is not None and (
            self.pattern != "causal" or self.memory is not None or self.input_ids is None
        ):
            raise ValueError('a prefix goes with input_ids alone and pattern="causal"')
        if self.memory is None and (self.query_embeds is not None or self.patch_bias is not None):
            raise ValueError("queries need a picture to read: give memory=remember(image_embeds)")
        if self.memory is None and self.input_ids is None:
            raise ValueError("nothing to read: give a memory, input_ids, or both")


@dataclass
class QFormerOutput:
    """What a pass returns; None for what the pass did not hold."""

    query_embeds: Tensor | None  # (N, queries, width)
    text_embeds: Tensor | None  # (N, text, width)
    prefix: list[KeyValue]  # self-attention keys and values of this pass's rows, per layer
    maps: list[Tensor] | None  # (N, heads, queries, image tokens) per cross-attention layer


class QFormer(nn.Module):
    """The bridge's trunk. Its names and shapes are ours; `convert.py` maps published weights."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.query_tokens = nn.Parameter(torch.empty(1, config.num_queries, width))
        if config.vocab_size:
            self.word_embeddings = nn.Embedding(config.vocab_size, width)
            self.position_embeddings = nn.Embedding(config.max_positions, width)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(config, has_cross_attention=index in config.cross_attention_layers)
            for index in range(config.num_layers)
        )
        nn.init.normal_(self.query_tokens, std=0.02)
        self.apply(init_bert_weights)

    def remember(self, image_embeds: Tensor, attention_mask: Tensor | None = None) -> ImageMemory:
        """Keys and values of pictures, (B, tokens, encoder width), for every later pass.

        attention_mask: (B, tokens), 0 hides an image token. Raises ValueError if it hides a
        whole picture: attention over nothing would answer anyway.
        """
        if image_embeds.shape[-1] != self.config.encoder_hidden_size:
            raise ValueError(
                f"image_embeds are {image_embeds.shape[-1]} wide, the Q-Former reads"
                f" encoder_hidden_size={self.config.encoder_hidden_size}"
            )
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            if not bool(attention_mask.any(-1).all()):
                raise ValueError("attention_mask hides every token of a picture; show at least one")
        image_embeds = image_embeds.to(self.layernorm.weight.dtype)
        reading = [self.layers[index] for index in self.config.cross_attention_layers]
        pairs = [layer.cross_attention.remember(image_embeds)[0] for layer in reading]  # type: ignore[union-attr, operator]
        return ImageMemory(
            [keys for keys, _ in pairs],
            [values for _, values in pairs],
            attention_mask,
            image_embeds,
        )

    def forward(
        self, memory: ImageMemory | None = None, *, return_maps: bool = False, **given: Any
    ) -> QFormerOutput:
        """One pass alone; given: the fields of a `QFormerPass`.

        Raises ValueError for rows that do not fit together and for a row that sees no patch.
        """
        return self.run([QFormerPass(memory, **given)], return_maps)[0]

    def run(self, passes: Sequence[QFormerPass], return_maps: bool = False) -> list[QFormerOutput]:
        """Several passes together, layer by layer: each of them as if it were alone, faster."""
        if return_maps and any(one.memory is None for one in passes):
            raise ValueError("queries need a picture to read: give memory=remember(image_embeds)")
        under_way: list[LayerPass] = []
        for one in passes:
            under_way.append(self._begin(one, under_way))
        biases = [
            []
            if one.memory is None
            else self._memory_biases(one.memory, one.patch_bias, at.num_queries)
            for one, at in zip(passes, under_way, strict=True)
        ]
        own: list[list[KeyValue]] = [[] for _ in passes]
        maps: list[list[Tensor]] = [[] for _ in passes]
        reads = 0  # cross-attention layers passed so far
        for index, layer in enumerate(self.layers):
            last = index + 1 == len(self.layers)
            for one, at, bias in zip(passes, under_way, biases, strict=True):
                at.prefix = one.prefix[index] if isinstance(one.prefix, list) else one.prefix
                at.memory = at.memory_bias = None
                if one.memory is not None and layer.cross_attention is not None:
                    at.memory = one.memory.keys[reads], one.memory.values[reads]
                    at.memory_bias = bias[reads]
                at.return_text = one.return_text or one.memory is None or not last
            reads += layer.cross_attention is not None
            layer(under_way, return_maps)
            for number, at in enumerate(under_way):
                own[number].append(cast(KeyValue, at.own))
                if at.attention_map is not None:
                    maps[number].append(at.attention_map)
        return [
            QFormerOutput(
                query_embeds=at.states[:, : at.num_queries] if at.num_queries else None,
                text_embeds=(
                    None if at.states.shape[1] == at.num_queries else at.states[:, at.num_queries :]
                ),
                prefix=own[number],
                maps=maps[number] if return_maps else None,
            )
            for number, at in enumerate(under_way)
        ]

    def _begin(self, one: QFormerPass, before: Sequence[LayerPass]) -> LayerPass:
        """A pass before its first layer. before: those beside it that come first."""
        parts, num_queries, prefix = [], 0, 0
        if one.memory is not None:
            rows = self._rows(one.memory, one.query_embeds, one.input_ids, one.patch_bias)
            queries = one.query_embeds
            parts.append(self.query_tokens.expand(rows, -1, -1) if queries is None else queries)
            num_queries = parts[0].shape[1]
        if one.input_ids is not None:
            parts.append(self._embed_text(one.input_ids, one.text_offsets))
        states = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        states = self.dropout(self.layernorm(states.to(self.layernorm.weight.dtype)))
        if isinstance(one.prefix, int):
            if not 0 <= one.prefix < len(before):
                raise ValueError(f"prefix={one.prefix} is not the place of a pass before this one")
            prefix = before[one.prefix].states.shape[1]
        elif one.prefix is not None:
            prefix = one.prefix[0][0].shape[2]
        mask = self_attention_mask(
            one.pattern, num_queries, states.shape[1] - num_queries, one.attention_mask,
            prefix=prefix, device=states.device,
        )  # fmt: skip
        return LayerPass(states, num_queries, mask)

    def _rows(
        self,
        memory: ImageMemory,
        query_embeds: Tensor | None,
        input_ids: Tensor | None,
        patch_bias: Tensor | None,
    ) -> int:
        """N, as the arguments have it; all must agree and be a multiple of the pictures."""
        counts = {"memory": len(memory)}
        if query_embeds is not None:
            counts["query_embeds"] = query_embeds.shape[0]
        if input_ids is not None:
            counts["input_ids"] = input_ids.shape[0]
        if patch_bias is not None:
            counts["patch_bias"] = patch_bias.shape[-2]
        pictures = counts.pop("memory")
        given = set(counts.values()) or {pictures}
        if len(given) > 1 or max(given) % pictures or not max(given):
            raise ValueError(f"rows {counts} must agree and be a multiple of {pictures} pictures")
        if patch_bias is not None and patch_bias.shape[-1] != memory.num_tokens:
            raise ValueError(
                f"patch_bias covers {patch_bias.shape[-1]} image tokens of {memory.num_tokens}"
            )
        return given.pop()

    def _embed_text(self, input_ids: Tensor, text_offsets: Tensor | None) -> Tensor:
        """(N, text) -> (N, text, width): words, positions and offsets, before the LayerNorm."""
        if not self.config.vocab_size:
            raise ValueError("this Q-Former has no text side (vocab_size=0): give no input_ids")
        length = input_ids.shape[1]
        if length > self.config.max_positions:
            raise ValueError(
                f"{length} text tokens are more than max_positions={self.config.max_positions}"
            )
        embeds = self.word_embeddings(input_ids) + self.position_embeddings.weight[:length]
        return embeds if text_offsets is None else embeds + text_offsets

    def _memory_biases(
        self, memory: ImageMemory, patch_bias: Tensor | None, num_queries: int
    ) -> list[Tensor | None]:
        """Per cross-attention layer, what `Attention.read` takes as bias; None where all see all.

        Each is (B, 1, 1, tokens) or, with a patch_bias, (B, 1, passes * queries, tokens).
        """
        visible = memory.attention_mask
        if patch_bias is None:
            return [None if visible is None else visible[:, None, None]] * len(memory.keys)
        pictures = len(memory)
        bias = patch_bias.unflatten(-2, (pictures, -1))  # ([layers,] B, passes, tokens)
        if visible is not None:
            bias = bias.masked_fill(~visible[:, None], -torch.inf)
        if not bool((bias > -torch.inf).any(-1).all()):
            raise ValueError("patch_bias hides every patch from a row; show it at least one")
        folded = bias.repeat_interleave(num_queries, dim=-2).unsqueeze(-3)
        if folded.dim() == 4:
            return [folded] * len(memory.keys)
        if folded.shape[0] != len(memory.keys):
            raise ValueError(
                f"patch_bias has {folded.shape[0]} layers, cross-attention {len(memory.keys)}"
            )
        return list(folded)


def init_bert_weights(module: nn.Module) -> None:
    """BERT's start: normal(0, 0.02) weights, zero biases; LayerNorm keeps its ones."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
