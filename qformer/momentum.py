"""ALBEF's momentum teacher for stage 1's contrast (arXiv 2107.07651, section 3.2).

A slowly moving average of the Q-Former gives the other side of the contrast, a queue of its
features gives more negatives than a batch holds, and its similarities are soft targets: a caption
may well describe another picture too. BLIP-2 leaves it out. Whether it helps here was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from .contracts import LoupeError
from .losses import gather_with_gradient, itc_similarity
from .qformer import ImageMemory, QFormer


@dataclass(frozen=True)
class MomentumConfig:
    """decay: of the average. queue: pairs kept of earlier batches, over all processes. share: of
    the target that the teacher's own similarities make up."""

    decay: float = 0.995
    queue: int = 4096
    share: float = 0.4

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise LoupeError(f"momentum.decay={self.decay:g} must lie between 0 and 1")
        if self.queue < 0:
            raise LoupeError(f"momentum.queue={self.queue} must be 0 (none) or more")
        if not 0 <= self.share < 1:
            raise LoupeError(f"momentum.share={self.share:g} must lie from 0 to below 1")


class Momentum(nn.Module):
    """The teacher: averaged weights and the queue, all of them buffers, so that they are saved."""

    def __init__(self, config: MomentumConfig, student: nn.Module, queries: int, width: int):
        super().__init__()
        self.config = config
        self.names = [name for name, _ in student.named_parameters()]
        for name, value in student.named_parameters():
            self.register_buffer(_buffer(name), value.detach().clone())
        self.row_queue: Tensor
        self.text_queue: Tensor
        self.same_queue: Tensor
        self.filled: Tensor
        self.register_buffer("row_queue", torch.zeros(config.queue, queries, width))
        self.register_buffer("text_queue", torch.zeros(config.queue, width))
        self.register_buffer("same_queue", torch.zeros(config.queue, dtype=torch.long))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, student: nn.Module, at_once: bool = False) -> None:
        """One step of the average; at_once: become the student."""
        for name, value in student.named_parameters():
            getattr(self, _buffer(name)).lerp_(
                value.detach(), 1.0 if at_once else 1 - self.config.decay
            )

    def weights(self) -> dict[str, Tensor]:
        return {name: getattr(self, _buffer(name)) for name in self.names}

    @torch.no_grad()
    def remember(self, rows: Tensor, texts: Tensor, same: Tensor) -> None:
        """Put a batch (of all processes) into the queue, in place of the oldest."""
        room = self.config.queue
        if not room:
            return
        rows, texts, same = rows[-room:], texts[-room:], same[-room:]
        count = len(rows)
        for queue, new in (
            (self.row_queue, rows), (self.text_queue, texts), (self.same_queue, same)
        ):  # fmt: skip
            queue.copy_(torch.cat([new.to(queue), queue[: room - count]]))
        self.filled.add_(count).clamp_(max=room)


def _buffer(name: str) -> str:
    return "mean_" + name.replace(".", "__")


class Features(nn.Module):
    """The part of stage 1 that the teacher follows: the Q-Former and its two projections."""

    def __init__(self, qformer: QFormer, vision_projection: nn.Linear, text_projection: nn.Linear):
        super().__init__()
        self.qformer = qformer
        self.vision_projection, self.text_projection = vision_projection, text_projection

    def forward(
        self,
        memory: ImageMemory,
        query_embeds: Tensor | None,
        patch_bias: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Unit-length features: rows (N, queries, width) and texts (N, width)."""
        seen = self.qformer(memory, query_embeds=query_embeds, patch_bias=patch_bias).query_embeds
        told = self.qformer(input_ids=input_ids, attention_mask=attention_mask).text_embeds[:, 0]
        return (
            F.normalize(self.vision_projection(seen), dim=-1),
            F.normalize(self.text_projection(told), dim=-1),
        )


@torch.no_grad()
def teach(
    momentum: Momentum, student: Features, image_embeds: Tensor, **inputs: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The teacher's features of a batch, from its own keys and values of the pictures."""
    weights = momentum.weights()
    training = student.training
    student.eval()
    try:
        memory = functional_call(
            _Remember(student.qformer),
            {f"qformer.{n.removeprefix('qformer.')}": v for n, v in weights.items()
             if n.startswith("qformer.")},
            (image_embeds,),
        )  # fmt: skip
        return functional_call(student, weights, (memory,), inputs)
    finally:
        student.train(training)


class _Remember(nn.Module):
    def __init__(self, qformer: QFormer) -> None:
        super().__init__()
        self.qformer = qformer

    def forward(self, image_embeds: Tensor) -> ImageMemory:
        return self.qformer.remember(image_embeds)


def momentum_itc_loss(
    momentum: Momentum,
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    same: Tensor,
    temperature: Tensor,
) -> Tensor:
    """Both directions against the teacher's features of all processes and of the queue.

    student, teacher: (rows, texts) of this process's N pairs. same: long (N,), equal where two
    describe the same thing. The target is shared by what is the same, less `share`, which goes
    where the teacher sees likeness. The queue then takes the batch.
    """
    rows, texts = (gather_with_gradient(one) for one in teacher)
    together = gather_with_gradient(same)
    count = int(momentum.filled)
    all_rows = torch.cat([rows, momentum.row_queue[:count].to(rows)])
    all_texts = torch.cat([texts, momentum.text_queue[:count].to(texts)])
    is_same = same[:, None] == torch.cat([together, momentum.same_queue[:count]])
    hard = is_same / is_same.sum(1, keepdim=True)
    share = momentum.config.share

    def direction(ours: Tensor, theirs: Tensor) -> Tensor:
        soft = (theirs / temperature).softmax(1)
        return F.cross_entropy(ours / temperature, (1 - share) * hard + share * soft.detach())

    forth = direction(itc_similarity(student[0], all_texts), itc_similarity(teacher[0], all_texts))
    back = direction(itc_similarity(all_rows, student[1]).T, itc_similarity(all_rows, teacher[1]).T)
    momentum.remember(rows, texts, together)
    return (forth + back) / 2
