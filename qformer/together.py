"""Many questions about many pictures at once: the answers of `View.ask`, in fewer, larger steps.

Pictures are encoded together, every question's passes of the Q-Former are rows of one batch, and
the language model writes all answers side by side. What each row computes is what it would compute
alone; only the order of sums inside the matrix products differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .bridge import Focal, PassRows
from .contracts import Decoding, LoupeError
from .conversation import Conversation, Plan
from .prompt import assemble
from .qformer import ImageMemory
from .view import View

if TYPE_CHECKING:
    from .assistant import Assistant


@dataclass(frozen=True)
class Question:
    """One question. image: uint8 (height, width, 3); where several questions hold the very same
    tensor it is encoded once. text: "" asks for a caption. region_masks: bool (height, width) each.
    choices: the answers to compare, for `likelihoods`."""

    image: Tensor
    text: str
    region_masks: tuple[Tensor, ...] = ()
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds a text: its log-likelihood in nats, and its length in tokens."""

    total: float
    tokens: int

    @property
    def mean(self) -> float:
        return self.total / max(1, self.tokens)


@torch.no_grad()
def answers(
    assistant: Assistant, questions: Sequence[Question], decoding: Decoding | None = None
) -> list[str | LoupeError]:
    """The answer to each question, or why there is none; the others are answered all the same.

    Greedy answers and beams are as `View.ask` writes them; beams go one question at a time.
    """
    decoding = decoding or assistant.config.decoding
    prompts = _prompts(assistant, questions, decoding)
    good = [index for index, prompt in enumerate(prompts) if isinstance(prompt, Tensor)]
    read = [prompt for prompt in prompts if isinstance(prompt, Tensor)]
    written = assistant.language.generate_together(read, decoding) if read else []
    result: list[str | LoupeError] = [p if isinstance(p, LoupeError) else "" for p in prompts]
    for index, ids in zip(good, written, strict=True):
        result[index] = assistant.language.decode(ids).strip()
    return result


@torch.no_grad()
def likelihoods(
    assistant: Assistant, questions: Sequence[Question], batch: int = 64, view: View | None = None
) -> list[list[Likelihood] | LoupeError]:
    """How likely each question's choices are as its whole answer. batch: texts read at once.
    view: of the questions' one picture, where it was read before."""
    language = assistant.language
    prompts = _prompts(assistant, questions, assistant.config.decoding, view)
    end = torch.tensor([language.eos_id])
    pairs = [
        (index, torch.cat([language.tokenize(choice).cpu(), end]).to(assistant.device))
        for index, (prompt, question) in enumerate(zip(prompts, questions, strict=True))
        if isinstance(prompt, Tensor)
        for choice in question.choices
    ]
    found: list[list[Likelihood]] = [[] for _ in questions]
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        texts = [ids for _, ids in part]
        logits = language.answer_logits([prompts[index] for index, _ in part], texts)  # type: ignore[misc]
        for (index, ids), predicted in zip(part, logits, strict=True):
            log_probs = F.log_softmax(predicted.float(), -1).gather(1, ids[:, None])
            found[index].append(Likelihood(float(log_probs.sum()), len(ids)))
    return [
        prompt if isinstance(prompt, LoupeError) else one
        for prompt, one in zip(prompts, found, strict=True)
    ]


def _prompts(
    assistant: Assistant,
    questions: Sequence[Question],
    decoding: Decoding,
    view: View | None = None,
) -> list[Tensor | LoupeError]:
    """What the language model reads for each question, inputs_embeds (n, width)."""
    if view is None:
        views = _views(assistant, [question.image for question in questions])
    else:
        views = {id(view.image): view}
    plans: list[tuple[View, Plan] | LoupeError] = []
    for question in questions:
        try:
            plans.append(_plan(views[id(question.image)], question, decoding))
        except LoupeError as error:
            plans.append(error)
    soft_tokens = _soft_tokens(assistant, [plan for plan in plans if isinstance(plan, tuple)])
    result: list[Tensor | LoupeError] = []
    for planned in plans:
        if isinstance(planned, tuple):
            _, plan = planned
            result.append(assemble(assistant.language, plan.pieces, next(soft_tokens)))
        else:
            result.append(planned)
    return result


def _views(assistant: Assistant, images: Sequence[Tensor]) -> dict[int, View]:
    """A View of each picture, by the identity of its tensor, all encoded in one step."""
    views = {id(image): View(assistant, image) for image in images}
    if views:
        View.encode_together(list(views.values()))
    return views


def _plan(view: View, question: Question, decoding: Decoding) -> tuple[View, Plan]:
    prompt, text = view.assistant.config.prompt, question.text
    if not text:
        prompt, text = prompt.for_captions(), prompt.caption
    regions = [
        view.region(region_mask, f"region {number}")
        for number, region_mask in enumerate(question.region_masks, 1)
    ]
    return view, Conversation(view, prompt).plan(text, regions, decoding)


def _soft_tokens(
    assistant: Assistant, plans: Sequence[tuple[View, Plan]]
) -> Iterator[dict[str, Tensor]]:
    """Of each plan, source name -> (queries, language width); one pass of the Q-Former for all."""
    rows = [view.rows(list(plan.sources.values()), plan.instruction) for view, plan in plans]
    filled = [(view, row) for (view, _), row in zip(plans, rows, strict=True) if len(row)]
    made: Iterator[Tensor] = iter(())
    if filled:
        bridge = assistant.bridge
        memory = _joined([view.memory for view, row in filled for _ in range(len(row))])
        made = iter(bridge.project(bridge.query(memory, joined_rows([row for _, row in filled]))))
    for _, plan in plans:
        yield {name: next(made) for name in plan.sources}


def _joined(memories: Sequence[ImageMemory]) -> ImageMemory:
    """Memories of one picture each, as one of several."""
    layers = range(len(memories[0].keys))
    return ImageMemory(
        [torch.cat([memory.keys[layer] for memory in memories]) for layer in layers],
        [torch.cat([memory.values[layer] for memory in memories]) for layer in layers],
    )


def joined_rows(parts: Sequence[PassRows]) -> PassRows:
    """Passes of several questions as one set, each over a picture of its own.

    Instructions are padded to the longest. Raises ValueError where some have one and some none.
    """
    rows = PassRows(
        patch_coverage=torch.cat([part.patch_coverage for part in parts]),
        is_region=torch.cat([part.is_region for part in parts]),
        geometry=torch.cat([part.geometry for part in parts]),
    )
    if any(part.input_ids is not None for part in parts):
        for name in ("input_ids", "attention_mask", "text_has_geometry", "text_geometry"):
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                raise ValueError(f"some passes have {name} and some have none")
            each = [row for value in values for row in value]
            setattr(rows, name, pad_sequence(each, batch_first=True))  # padding: 0, not attended
    starts = torch.tensor([0, *(len(part) for part in parts)]).cumsum(0).tolist()
    focal = [
        dataclasses.replace(part.focal, rows=part.focal.rows + start)
        for part, start in zip(parts, starts, strict=False)
        if part.focal is not None
    ]
    if focal:
        rows.focal = Focal(
            _joined([one.memory for one in focal]),
            torch.cat([one.rows for one in focal]),
            torch.cat([one.patch_coverage for one in focal]),
        )
    return rows
