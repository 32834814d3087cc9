"""How a language model writes: one token at a time, or the best of several beams.

Both see the model only through `step`: ids (rows,) -> logits (rows, vocabulary), which remembers
what it read. Equal to transformers' `generate` (a test holds it), but able to stream, to start from
a cached prefix and to leave it untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qformer.contracts import Decoding

Step = Callable[[Tensor], Tensor]


def write(
    logits: Tensor, step: Step, decoding: Decoding, stop_ids: Collection[int]
) -> Iterator[int]:
    """Greedy or sampled ids, one by one, the stopping id included.

    logits: (1, vocabulary) after the prompt. Nothing is computed beyond the last id.
    """
    ids: list[int] = []
    while True:
        scores = _adjust(logits.float(), [ids], decoding, stop_ids)[0]
        if decoding.temperature > 0:
            token = int(torch.multinomial(F.softmax(scores / decoding.temperature, -1), 1))
        else:
            token = int(scores.argmax())
        ids.append(token)
        yield token
        if token in stop_ids or len(ids) == decoding.max_new_tokens:
            return
        logits = step(torch.tensor([token], device=logits.device))


def write_together(
    logits: Tensor,
    step: Step,
    select: Callable[[Tensor], None],
    decoding: Decoding,
    stop_ids: Collection[int],
    room: Sequence[int],
) -> list[list[int]]:
    """Greedy or sampled ids of several answers at once, stopping ids left out.

    logits: (rows, vocabulary) after each prompt. select: as for `search_together`; an answer that
    has ended leaves the batch. room: the most new ids of each row.
    """
    texts: list[list[int]] = [[] for _ in room]
    writing = list(range(len(room)))
    while True:
        scores = _adjust(logits.float(), [texts[row] for row in writing], decoding, stop_ids)
        if decoding.temperature > 0:
            tokens = torch.multinomial(F.softmax(scores / decoding.temperature, -1), 1)[:, 0]
        else:
            tokens = scores.argmax(-1)
        kept = []
        for place, (row, token) in enumerate(zip(writing, tokens.tolist(), strict=True)):
            if token in stop_ids:
                continue
            texts[row].append(token)
            if len(texts[row]) < min(room[row], decoding.max_new_tokens):
                kept.append(place)
        if not kept:
            return texts
        if len(kept) < len(writing):
            places = torch.tensor(kept, device=logits.device)
            select(places)
            tokens, writing = tokens[places], [writing[place] for place in kept]
        logits = step(tokens)


def search_together(
    logits: Tensor,
    step: Step,
    select: Callable[[Tensor], None],
    decoding: Decoding,
    stop_ids: Collection[int],
    room: Sequence[int],
) -> list[list[int]]:
    """Beam search for several prompts side by side: the ids of each best answer, the stopping id
    included.

    logits: (prompts, vocabulary). select(rows) makes row i of the model's memory a copy of its row
    rows[i]. room: the most new ids of each prompt. The beams of a prompt whose search has ended
    leave the batch.
    """
    texts: list[list[int]] = [[] for _ in room]
    searches = {}
    for prompt, most in enumerate(room):
        fitting = replace(
            decoding,
            max_new_tokens=min(decoding.max_new_tokens, most),
            min_new_tokens=min(decoding.min_new_tokens, most),
        )
        searches[prompt] = _search(fitting, stop_ids)
        next(searches[prompt])
    shown = dict(enumerate(logits.split(1)))  # of each search, its beams' logits
    first = {prompt: prompt for prompt in shown}  # the row where its beams begin
    while True:
        rows: list[Tensor] = []
        tokens: list[Tensor] = []
        kept: list[int] = []
        for prompt, mine in shown.items():
            try:
                beams, ids = searches[prompt].send(mine)
            except StopIteration as end:
                texts[prompt] = end.value
                continue
            rows.append(beams + first[prompt])
            first[prompt] = sum(map(len, tokens))
            tokens.append(ids)
            kept.append(prompt)
        if not tokens:
            return texts
        select(torch.cat(rows).to(logits.device))
        logits = step(torch.cat(tokens).to(logits.device))
        shown = dict(zip(kept, logits.split([len(one) for one in tokens]), strict=True))


def _search(
    decoding: Decoding, stop_ids: Collection[int]
) -> Generator[tuple[Tensor, Tensor], Tensor, list[int]]:
    """One prompt's beam search. Is sent its beams' logits (rows, vocabulary), at first one row;
    yields which of these rows go on, and with which ids; returns the best answer.

    A finished answer scores sum(log p) / length ** length_penalty; the search ends when no running
    beam, at its present length, beats the worst of `beams` finished answers.
    """
    beams = decoding.beams
    histories: list[list[int]] = [[]]
    totals = torch.zeros(1)
    finished: list[tuple[float, list[int]]] = []
    go_on = torch.empty(0, dtype=torch.long), torch.empty(0, dtype=torch.long)
    for length in range(1, decoding.max_new_tokens + 1):
        logits = yield go_on
        log_probs = _adjust(F.log_softmax(logits.float(), -1), histories, decoding, stop_ids)
        candidates = totals[:, None] + log_probs.cpu()  # (rows, vocabulary)
        # Enough that `beams` remain even if every beam's best continuation is a stop.
        keep = min(beams * (1 + max(1, len(stop_ids))), candidates.numel())
        scores, flat = candidates.flatten().topk(keep)
        rows, tokens = flat // candidates.shape[1], flat % candidates.shape[1]
        running: list[tuple[float, int, int]] = []
        penalty = length**decoding.length_penalty
        last = length == decoding.max_new_tokens
        for rank, (score, row, token) in enumerate(
            zip(scores.tolist(), rows.tolist(), tokens.tolist(), strict=True)
        ):
            if token in stop_ids or last:
                if rank < beams:
                    finished.append((score / penalty, [*histories[row], token]))
            elif len(running) < beams:
                running.append((score, row, token))
        finished = sorted(finished, key=lambda answer: -answer[0])[:beams]
        if last or not running:
            break
        if len(finished) == beams and running[0][0] / penalty <= finished[-1][0]:
            break
        totals = torch.tensor([score for score, _, _ in running])
        histories = [[*histories[row], token] for _, row, token in running]
        go_on = (
            torch.tensor([row for _, row, _ in running]),
            torch.tensor([token for _, _, token in running]),
        )
    return finished[0][1]


def _adjust(
    scores: Tensor,
    histories: Sequence[list[int]],
    decoding: Decoding,
    stop_ids: Collection[int],
) -> Tensor:
    """Repetition penalty (CTRL, arXiv 1909.05858, section 4.1) and the least length; (rows, v)."""
    if decoding.repetition_penalty != 1 and histories[0]:
        seen = torch.tensor(histories, device=scores.device)
        chosen = scores.gather(1, seen)
        penalty = decoding.repetition_penalty
        chosen = torch.where(chosen < 0, chosen * penalty, chosen / penalty)
        scores = scores.scatter(1, seen, chosen)
    if len(histories[0]) < decoding.min_new_tokens:
        scores = scores.index_fill(
            1, torch.tensor(sorted(stop_ids), device=scores.device), -torch.inf
        )
    return scores
