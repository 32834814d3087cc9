"""Stage 1's three losses as pure functions, and the gathering that several processes need.

BLIP-2 (arXiv 2301.12597), section 3.1. "Row" is one picture or region with one text; `same`
tells which rows and columns describe the same thing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .contracts import LoupeError

IGNORED = -100  # in labels


def world() -> tuple[int, int]:
    """(rank, number of processes); (0, 1) outside a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        pieces = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(pieces, tensor.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        # Every process used every row: a row's gradient is the sum of what each has to say.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        rank, processes = world()
        return total.chunk(processes)[rank]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """(rows, ...) of every process, in rank order, (processes * rows, ...).

    All processes hold the same number of rows and must call this, and backward, together.
    Gradients return to the process a row came from, summed. Alone: the tensor itself.
    """
    return tensor if world()[1] == 1 else _Gather.apply(tensor)


def itc_similarity(query_features: Tensor, text_features: Tensor) -> Tensor:
    """Cosine of the best query: (rows, queries, d), (texts, d), unit length -> (rows, texts)."""
    return (query_features @ text_features.T).amax(1).float()


def itc_loss(
    image_to_text: Tensor, text_to_image: Tensor, same: Tensor, smoothing: float = 0.1
) -> Tensor:
    """Image-text contrastive loss, both directions averaged.

    image_to_text, text_to_image: (rows, columns) logits, similarity / temperature; the columns
    are the rows of all processes. same: bool (rows, columns), True in every row at least once;
    the target is shared equally among them.
    """
    targets = same / same.sum(1, keepdim=True)
    targets = (1 - smoothing) * targets + smoothing / same.shape[1]
    return (F.cross_entropy(image_to_text, targets) + F.cross_entropy(text_to_image, targets)) / 2


@torch.no_grad()
def negative_probabilities(logits: Tensor, same: Tensor) -> Tensor:
    """softmax(logits) over the columns that are not `same`; both (rows, columns).

    Raises LoupeError if a row has no negative.
    """
    if bool(same.all(1).any()):
        raise LoupeError(
            "ITM has no negative to draw: every row of the batch describes the same thing;"
            " give at least two different ones"
        )
    return logits.float().masked_fill(same, -torch.inf).softmax(1)


def hard_negatives(logits: Tensor, same: Tensor) -> Tensor:
    """Draw for each row one column that is not `same`, with probability softmax(logits).

    logits, same: (rows, columns). Returns (rows,) column indices. BLIP-2, section 3.1 (ITM).
    """
    return torch.multinomial(negative_probabilities(logits, same), 1).squeeze(1)


def itm_loss(match_logits: Tensor, matched: Tensor) -> Tensor:
    """Image-text matching: cross entropy of (pairs, 2) logits against bool (pairs,)."""
    return F.cross_entropy(match_logits, matched.long())


def itg_labels(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What each position is to predict: the next token, IGNORED where there is none. (N, T)."""
    following = input_ids[:, 1:].masked_fill(~attention_mask[:, 1:].bool(), IGNORED)
    return F.pad(following, (0, 1), value=IGNORED)


def itg_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Image-grounded generation: cross entropy per token, (..., vocabulary) against (...).

    labels: already shifted (`itg_labels`); IGNORED positions do not count.
    """
    return F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
    )
