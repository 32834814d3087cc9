"""One Q-Former layer: BERT's post-norm layer, two feed-forwards, optional cross-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import QFormerConfig

KeyValue = tuple[Tensor, Tensor]  # keys and values, (rows, heads, tokens, head width) each


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

    def remember(self, states: Tensor) -> KeyValue:
        """Keys and values of what is read, (rows, tokens, key width)."""
        return self.split_heads(self.key(states)), self.split_heads(self.value(states))

    def read(
        self, states: Tensor, memory: KeyValue, bias: Tensor | None, return_map: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let `states` (rows, tokens, width) read the keys and values, then add and norm.

        bias: bool (True is visible) or float added to the logits, broadcast to (rows, heads,
        tokens, keys). Returns the new states and, if asked, the attention map of that shape.
        """
        queries = self.split_heads(self.query(states))
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
        context = self.output(context.transpose(1, 2).flatten(2))
        return self.layernorm(states + self.dropout(context)), attention_map


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

    def forward(
        self,
        states: Tensor,
        num_queries: int,
        self_mask: Tensor | None,
        prefix: KeyValue | None = None,
        memory: KeyValue | None = None,
        memory_bias: Tensor | None = None,
        return_map: bool = False,
        return_text: bool = True,
    ) -> tuple[Tensor, KeyValue, Tensor | None]:
        """states: (N, queries + text, width). memory: (B, heads, tokens, d), N a multiple of B.

        memory_bias: broadcast to (B, 1, N / B * queries, tokens). return_text: False computes
        the query rows alone. Returns the new states, this layer's own self-attention keys and
        values, and the cross-attention map (N, heads, queries, tokens) if asked and there is one.
        """
        own = self.attention.remember(states)
        seen = own
        if prefix is not None:
            seen = torch.cat([prefix[0], own[0]], dim=2), torch.cat([prefix[1], own[1]], dim=2)
        if not return_text:
            states = states[:, :num_queries]
            if self_mask is not None and self_mask.shape[2] > 1:
                self_mask = self_mask[:, :, :num_queries]
        states, _ = self.attention.read(states, seen, self_mask)
        queries, text = states[:, :num_queries], states[:, num_queries:]
        attention_map = None
        if num_queries and self.cross_attention is not None and memory is not None:
            pictures, rows = memory[0].shape[0], queries.shape[0]
            # All passes over a picture become one long query axis: its keys and values are read
            # in place, never repeated.
            folded = queries.reshape(pictures, -1, queries.shape[-1])
            folded, attention_map = self.cross_attention.read(
                folded, memory, memory_bias, return_map
            )
            queries = folded.view(rows, num_queries, -1)
            if attention_map is not None:
                split = attention_map.unflatten(2, (rows // pictures, num_queries))
                attention_map = split.transpose(1, 2).flatten(0, 1)
        fed = [self.query_feed_forward(queries)] if num_queries else []
        if self.text_feed_forward is not None and text.shape[1]:
            fed.append(self.text_feed_forward(text))
        states = fed[0] if len(fed) == 1 else torch.cat(fed, dim=1)
        return states, own, attention_map
