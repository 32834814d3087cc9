"""One Q-Former layer: BERT's post-norm layer, two feed-forwards, optional cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import QFormerConfig

KeyValue = tuple[Tensor, Tensor]  # keys and values, (rows, heads, tokens, head width) each


def together(module: nn.Module, parts: Sequence[Tensor]) -> list[Tensor]:
    """What a module that works token by token makes of several (rows, tokens, width): one matrix
    product in place of many, and in training one gradient of its weights."""
    if len(parts) == 1:
        return [module(parts[0])]
    shapes = [part.shape[:2] for part in parts]
    done = module(torch.cat([part.flatten(0, 1) for part in parts]))
    pieces = done.split([rows * tokens for rows, tokens in shapes])
    return [piece.unflatten(0, shape) for piece, shape in zip(pieces, shapes, strict=True)]


@dataclass
class LayerPass:
    """What a layer is given of one pass over the pictures, and what it makes of it.

    states: (N, queries + text, width). prefix: keys and values that the pass sees besides its own,
    or the place, among the passes beside it, of the one whose they are. memory: (B, heads, tokens,
    d), N a multiple of B. memory_bias: broadcast to (B, 1, N / B * queries, tokens). return_text:
    False computes the query rows alone. own: this layer's self-attention keys and values.
    attention_map: (N, heads, queries, tokens), if asked and the layer has cross-attention.
    """

    states: Tensor
    num_queries: int
    self_mask: Tensor | None
    prefix: KeyValue | int | None = None
    memory: KeyValue | None = None
    memory_bias: Tensor | None = None
    return_text: bool = True
    own: KeyValue | None = None
    attention_map: Tensor | None = None


class Attention(nn.Module):
    """Multi-head attention with BERT's output: dense, dropout, residual, LayerNorm.

    key_width: width of what is read; None reads the rows themselves (self-attention).
    """

    def __init__(self, config: QFormerConfig, key_width: int | None = None):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.dropout_rate = config.dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(key_width or width, width)
        self.value = nn.Linear(key_width or width, width)
        self.output = nn.Linear(width, width)
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def split_heads(self, states: Tensor) -> Tensor:
        """(rows, tokens, width) -> (rows, heads, tokens, head width)."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def remember(self, *parts: Tensor) -> list[KeyValue]:
        """Keys and values of what is read, (rows, tokens, key width) each."""
        keys, values = together(self.key, parts), together(self.value, parts)
        return [
            (self.split_heads(key), self.split_heads(value))
            for key, value in zip(keys, values, strict=True)
        ]

    def read(
        self,
        parts: Sequence[Tensor],
        memories: Sequence[KeyValue],
        biases: Sequence[Tensor | None],
        return_maps: bool = False,
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Let each of `parts` (rows, tokens, width) read its keys and values, then add and norm.

        biases: bool (True is visible) or float added to the logits, broadcast to (rows, heads,
        tokens, keys). Returns the new states and, if asked, the attention maps of that shape.
        """
        asked = [self.split_heads(queries) for queries in together(self.query, parts)]
        found = [self._look(*one, return_maps) for one in zip(asked, memories, biases, strict=True)]
        contexts = together(self.output, [context for context, _ in found])
        states = [
            self.layernorm(part + self.dropout(context))
            for part, context in zip(parts, contexts, strict=True)
        ]
        return states, [attention_map for _, attention_map in found]

    def _look(
        self, queries: Tensor, memory: KeyValue, bias: Tensor | None, return_map: bool
    ) -> tuple[Tensor, Tensor | None]:
        """What queries (rows, heads, tokens, d) find, (rows, tokens, width), and their map."""
        keys, values = memory
        attention_map = None
        if return_map:
            logits = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
            if bias is not None:
                hidden = bias.logical_not() if bias.dtype == torch.bool else None
                logits = logits + bias if hidden is None else logits.masked_fill(hidden, -torch.inf)
            attention_map = logits.softmax(-1)
            dropped = F.dropout(attention_map, self.dropout_rate, self.training)
            context = dropped.to(values.dtype) @ values
        else:
            if bias is not None and bias.dtype != torch.bool:
                bias = bias.to(queries.dtype)
            context = F.scaled_dot_product_attention(
                queries, keys, values, bias, self.dropout_rate if self.training else 0.0
            )
        return context.transpose(1, 2).flatten(2), attention_map


class FeedForward(nn.Module):
    """dense, GELU, dense, dropout, residual, LayerNorm; (..., width) -> (..., width)."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: Tensor) -> Tensor:
        return self.layernorm(states + self.dropout(self.output(F.gelu(self.expand(states)))))


class QFormerLayer(nn.Module):
    """Self-attention over [queries; text]; then queries read the image, and each kind of row
    has a feed-forward of its own."""

    def __init__(self, config: QFormerConfig, has_cross_attention: bool):
        super().__init__()
        self.attention = Attention(config)
        self.cross_attention = (
            Attention(config, config.encoder_hidden_size) if has_cross_attention else None
        )
        self.query_feed_forward = FeedForward(config)
        self.text_feed_forward = FeedForward(config) if config.text_feed_forward else None

    def forward(self, passes: Sequence[LayerPass], return_maps: bool = False) -> None:
        """Put every pass through this layer: its states, `own` and `attention_map` are replaced."""
        own = self.attention.remember(*[one.states for one in passes])
        asking, seen, visible = [], [], []
        for one, pair in zip(passes, own, strict=True):
            one.own = pair
            before = own[one.prefix] if isinstance(one.prefix, int) else one.prefix
            if before is not None:
                pair = torch.cat([before[0], pair[0]], dim=2), torch.cat([before[1], pair[1]], 2)
            states, mask = one.states, one.self_mask
            if not one.return_text:
                states = states[:, : one.num_queries]
                if mask is not None and mask.shape[2] > 1:
                    mask = mask[:, :, : one.num_queries]
            asking.append(states)
            seen.append(pair)
            visible.append(mask)
        read, _ = self.attention.read(asking, seen, visible)
        queries, text = [], []
        for one, states in zip(passes, read, strict=True):  # split: two slices cost more to undo
            count = one.num_queries
            both = states.split([count, states.shape[1] - count], dim=1)
            queries.append(both[0])
            text.append(both[1])
        self._look_at_pictures(passes, queries, return_maps)
        fed = self._feed(self.query_feed_forward, queries)
        told = self._feed(self.text_feed_forward, text)
        for one, *kinds in zip(passes, fed, told, strict=True):
            held = [states for states in kinds if states is not None]
            one.states = held[0] if len(held) == 1 else torch.cat(held, dim=1)

    def _look_at_pictures(
        self, passes: Sequence[LayerPass], queries: list[Tensor], return_maps: bool
    ) -> None:
        """Replace the queries of those passes that read a picture here."""
        looking = [
            (number, one.memory)
            for number, one in enumerate(passes)
            if one.num_queries and one.memory is not None
        ]
        if self.cross_attention is None or not looking:
            for one in passes:
                one.attention_map = None
            return
        # All passes over a picture become one long query axis: its keys and values are read in
        # place, never repeated.
        folded, maps = self.cross_attention.read(
            [
                queries[n].reshape(memory[0].shape[0], -1, queries[n].shape[-1])
                for n, memory in looking
            ],
            [memory for _, memory in looking],
            [passes[n].memory_bias for n, _ in looking],
            return_maps,
        )
        for (number, memory), states, attention_map in zip(looking, folded, maps, strict=True):
            rows, count = queries[number].shape[:2]
            queries[number] = states.view(rows, count, -1)
            if attention_map is not None:
                split = attention_map.unflatten(2, (rows // memory[0].shape[0], count))
                attention_map = split.transpose(1, 2).flatten(0, 1)
            passes[number].attention_map = attention_map

    @staticmethod
    def _feed(module: nn.Module | None, parts: Sequence[Tensor]) -> list[Tensor | None]:
        """Each part that has tokens through its feed-forward; None for the others."""
        fed: list[Tensor | None] = [None] * len(parts)
        holding = [number for number, part in enumerate(parts) if part.shape[1]]
        if module is not None and holding:
            done = together(module, [parts[number] for number in holding])
            for number, part in zip(holding, done, strict=True):
                fed[number] = part
        return fed
