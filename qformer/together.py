"""Many questions about many pictures at once: the answers of `View.ask`, in fewer, larger steps.

Pictures are encoded together, the questions' passes of the Q-Former are rows of a few batches, and
the language model writes all answers side by side. What each row computes is what it would compute
alone; only the order of sums inside the matrix products differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

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

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


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
    assistant: Assistant,
    questions: Sequence[Question],
    decoding: Decoding | None = None,
    views: Sequence[View] = (),
) -> list[str | LoupeError]:
    """The answer to each question, or why there is none; the others are answered all the same.

    views: of the questions' pictures, which are not encoded again where they were before.
    Greedy answers and beams are as `View.ask` writes them.
    """
    decoding = decoding or assistant.config.decoding
    prompts = _prompts(assistant, questions, decoding, views)
    good = [index for index, prompt in enumerate(prompts) if isinstance(prompt, Tensor)]
    read = [prompt for prompt in prompts if isinstance(prompt, Tensor)]
    written = assistant.language.generate_together(read, decoding) if read else []
    result: list[str | LoupeError] = [p if isinstance(p, LoupeError) else "" for p in prompts]
    for index, ids in zip(good, written, strict=True):
        result[index] = assistant.language.decode(ids).strip()
    return result


@torch.no_grad()
def likelihoods(
    assistant: Assistant,
    questions: Sequence[Question],
    batch: int = 64,
    views: Sequence[View] = (),
) -> list[list[Likelihood] | LoupeError]:
    """How likely each question's choices are as its whole answer. batch: texts read at once.
    views: as for `answers`."""
    language = assistant.language
    prompts = _prompts(assistant, questions, assistant.config.decoding, views)
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


def in_spite(
    ask: Callable[[Sequence[Asked]], list[Answer]], questions: Sequence[Asked]
) -> list[Answer | Exception]:
    """`ask` of all at once; where that fails, of each by itself, a failure in its place."""
    try:
        return [*ask(questions)]
    except Exception as error:  # whatever one of them does, the others are answered
        if len(questions) > 1:
            return [one for question in questions for one in in_spite(ask, [question])]
        return [error]


def _prompts(
    assistant: Assistant,
    questions: Sequence[Question],
    decoding: Decoding,
    known: Sequence[View] = (),
) -> list[Tensor | LoupeError]:
    """What the language model reads for each question, inputs_embeds (n, width)."""
    views = _views(assistant, [question.image for question in questions], known)
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


def _views(
    assistant: Assistant, images: Sequence[Tensor], known: Sequence[View]
) -> dict[int, View]:
    """A View of each picture, by the identity of its tensor; those not yet encoded are, in one
    step."""
    read = {id(view.image): view for view in known}
    views = {id(image): read.get(id(image)) or View(assistant, image) for image in images}
    View.encode_together([view for view in views.values() if not view.encoded])
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
    """Yield for each plan: source name -> (queries, language width)."""
    passes = [
        (view, row)
        for view, plan in plans
        for row in view.rows(list(plan.sources.values()), plan.instruction).split()
    ]
    made: list[Tensor] = [torch.empty(0)] * len(passes)
    bridge = assistant.bridge
    for chosen, memories in _shared(passes):
        rows = joined_rows([passes[index][1] for index in chosen])
        tokens = bridge.project(bridge.query(_joined(memories), rows))
        for index, one in zip(chosen, tokens, strict=True):
            made[index] = one
    rest = iter(made)
    for _, plan in plans:
        yield {name: next(rest) for name in plan.sources}


def _shared(passes: Sequence[tuple[View, PassRows]]) -> list[tuple[list[int], list[ImageMemory]]]:
    """Group the passes that go together: over pictures that are read equally often, so that a
    picture stands there once for all of its passes. A pass with a focal crop has a memory of its
    own, which no other is made to carry."""
    by_picture: dict[int | tuple[int, int], list[int]] = {}
    for index, (view, row) in enumerate(passes):
        key = id(view) if row.focal is None else (id(view), index)
        by_picture.setdefault(key, []).append(index)
    groups: dict[tuple[bool, int], list[list[int]]] = {}
    for key, indices in by_picture.items():
        groups.setdefault((isinstance(key, int), len(indices)), []).append(indices)
    return [
        ([index for indices in group for index in indices],
         [passes[indices[0]][0].memory for indices in group])
        for group in groups.values()
    ]  # fmt: skip


def _joined(memories: Sequence[ImageMemory]) -> ImageMemory:
    """Memories of one picture each, as one of several."""
    layers = range(len(memories[0].keys))
    return ImageMemory(
        [torch.cat([memory.keys[layer] for memory in memories]) for layer in layers],
        [torch.cat([memory.values[layer] for memory in memories]) for layer in layers],
    )


def joined_rows(parts: Sequence[PassRows]) -> PassRows:
    """Passes of several questions as one set, picture by picture.

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
