"""Who sees whom in the Q-Former's shared self-attention. Visible is True throughout."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Pattern = Literal["bidirectional", "unimodal", "causal"]
PATTERNS: tuple[Pattern, ...] = ("bidirectional", "unimodal", "causal")


def self_attention_mask(
    pattern: Pattern,
    num_queries: int,
    num_text: int,
    attention_mask: Tensor | None = None,
    prefix: int = 0,
    device: torch.device | None = None,
) -> Tensor | None:
    """Mask over rows [queries; text] and columns [prefix; queries; text]. BLIP-2, figure 2.

    bidirectional: all see all (ITM, instructions). unimodal: queries and text do not see each
    other (ITC). causal: text sees the prefix, all queries and the text up to itself; queries
    never see text (ITG). attention_mask: (N, num_text), 0 hides a padding token from everyone.
    Returns bool (1 or N, 1, 1 or rows, columns), or None where everything is visible.
    """
    if pattern not in PATTERNS:
        raise ValueError(f"unknown pattern {pattern!r}; choose one of {PATTERNS}")
    if num_text == 0:
        return None
    visible = None  # (rows, columns)
    before = prefix + num_queries
    if pattern == "causal":
        visible = torch.ones(num_queries + num_text, before + num_text, dtype=torch.bool)
        visible[:num_queries, before:] = False
        visible[num_queries:, before:].tril_()
    elif pattern == "unimodal" and num_queries:
        visible = torch.ones(num_queries + num_text, before + num_text, dtype=torch.bool)
        visible[:num_queries, before:] = False
        visible[num_queries:, :before] = False
    if visible is not None:
        visible = visible.to(device)[None, None]
    if attention_mask is None or bool(attention_mask.all()):
        return visible
    real = F.pad(attention_mask.bool(), (before, 0), value=True)[:, None, None]
    return real if visible is None else visible & real
