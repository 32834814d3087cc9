"""Turns about one picture, streamed, with the language model's prefix kept from turn to turn."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from .confidence import LONGEST, Confidence
from .contracts import Decoding, LoupeError, QuestionError
from .prompt import (
    PICTURE,
    UNION,
    Piece,
    PromptConfig,
    assemble,
    count_tokens,
    declarations,
    lay_out,
    sources,
)
from .regions import Region

if TYPE_CHECKING:
    from .view import Instruction, View


@dataclass(frozen=True)
class Turn:
    """One question and its answer. regions: those in force, asked about or carried on."""

    question: str
    regions: tuple[Region, ...]
    answer: str
    remembers: int  # how many turns before this one the language model could still read
    read: int = 0  # tokens the language model had before it when it answered, earlier turns' too
    wrote: int = 0  # tokens of the answer


@dataclass(frozen=True)
class Plan:
    """A turn before it is answered."""

    question: str
    regions: tuple[Region, ...]
    sources: dict[str, Region | None]  # what its soft tokens are made of, in order
    pieces: list[Piece]
    instruction: Instruction | None
    remembers: int


class Conversation:
    """Questions and answers about one View. Made by `View.converse`.

    prompt: another wording than the assistant's own.
    """

    def __init__(self, view: View, prompt: PromptConfig | None = None) -> None:
        self.view = view
        self.prompt = prompt or view.assistant.config.prompt
        self.turns: list[Turn] = []
        self._heard: list[Tensor] = []  # inputs_embeds (n, width) of what the prefix holds
        self._declared: dict[str, Region | None] = {}
        self._remembered = 0  # the last turns, whose words are in _heard
        self._before = 0  # parts of _heard before the last answer
        self._written: list[int] = []  # that answer's ids, EOS included
        self._prefix: Any = None  # the language model's, a cache of _heard
        self._answering = False

    def drop_caches(self) -> None:
        """Forget the language model's prefix; the next turn reads the words again."""
        self._prefix = None

    def ask(
        self,
        question: str,
        regions: Sequence[Region] | None = None,
        decoding: Decoding | None = None,
    ) -> Iterator[str]:
        """Answer in pieces of text, as they are written.

        regions: what the question is about; () the picture; None those the question names, else
        those of the last turn that had any ("and its colour?"). A turn that fails, or whose
        iterator is closed early, leaves the conversation as it was. When the context is full the
        language model forgets the earlier turns, see `Turn.remembers`.
        Raises QuestionError, RegionError.
        """
        self.plan(question, regions, decoding)  # mistakes show here, not at the first piece
        return self._answer(question, regions, decoding or self._decoding)

    @property
    def _decoding(self) -> Decoding:
        return self.view.assistant.config.decoding

    def plan(
        self,
        question: str,
        regions: Sequence[Region] | None = None,
        decoding: Decoding | None = None,
        previous: str | None = None,
    ) -> Plan:
        """How a question would be put. previous: stands for the last turn's question, if any."""
        question = question.strip()
        if not question:
            raise QuestionError("the question is empty: type one, for example: What is this?")
        language = self.view.assistant.language
        asked = self.view.check(self._in_force(question) if regions is None else regions)
        if self.turns:
            previous = self.turns[-1].question
        instruction = self.view.instruction(question, asked, previous)
        plan, needed = self._lay_out(question, asked, instruction, self._remembered)
        room = language.context - (decoding or self._decoding).max_new_tokens
        if needed > room and self._remembered:
            plan, needed = self._lay_out(question, asked, instruction, remembers=0)
        if needed >= language.context:
            raise QuestionError(
                f"the question takes {needed} tokens and the language model reads"
                f" {language.context}: ask a shorter one, or about fewer regions"
            )
        return plan

    def _in_force(self, question: str) -> tuple[Region, ...]:
        """The regions a follow-up is about when it is not told."""
        known = {region.name: region for turn in self.turns for region in turn.regions}
        named = tuple(
            region
            for name, region in known.items()
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", question, re.IGNORECASE)
        )
        return named or next((t.regions for t in reversed(self.turns) if t.regions), ())

    def _lay_out(
        self,
        question: str,
        asked: tuple[Region, ...],
        instruction: Instruction | None,
        remembers: int,
    ) -> tuple[Plan, int]:
        """The plan, and how many tokens of context it fills."""
        assistant, by_name = self.view.assistant, {region.name: region for region in asked}
        # An instruct Q-Former answers each question with other tokens: all is declared anew. A
        # name that now stands for another area (a refined region) is declared anew as well.
        declared = {
            name
            for name, source in self._declared.items()
            if remembers and instruction is None and by_name.get(name, source) is source
        }
        declare = declarations(self.prompt.composer, list(by_name), declared)
        new = [by_name[name] for name in declare if name in by_name]
        captions = (
            {region.name: self.view.caption(region) for region in new}
            if self.prompt.composer == "text"
            else {}
        )
        pieces = lay_out(self.prompt, question, declare, first=not remembers, captions=captions)
        made: dict[str, Region | None] = {PICTURE: None, **by_name}
        if UNION in declare:
            union = torch.stack([region.region_mask for region in new]).any(0)
            made[UNION] = new[0] if len(new) == 1 else Region(union, UNION)
        queries = assistant.bridge.config.qformer.num_queries
        heard = sum(map(len, self._heard)) if remembers else 0
        plan = Plan(
            question,
            asked,
            {name: made[name] for name in sources(pieces)},
            pieces,
            instruction,
            remembers,
        )
        return plan, heard + count_tokens(assistant.language, pieces, queries)

    @torch.no_grad()
    def _answer(
        self, question: str, regions: Sequence[Region] | None, decoding: Decoding
    ) -> Iterator[str]:
        if self._answering:
            raise LoupeError("this conversation is still answering: read on or close that answer")
        self._answering = True
        try:
            plan = self.plan(question, regions, decoding)  # again: turns may have come between
            soft_tokens = self.view.soft_tokens(plan.sources, plan.instruction)
            inputs_embeds = assemble(self.view.assistant.language, plan.pieces, soft_tokens)
            pieces = self._write(plan, inputs_embeds, decoding)
            confidence = self.view.assistant.config.confidence
            hedges = confidence is not None and confidence.least > 0
            yield from self._hedged(pieces, cast(Confidence, confidence)) if hedges else pieces
        finally:
            self._answering = False

    def _hedged(self, pieces: Iterator[str], confidence: Confidence) -> Iterator[str]:
        """The same pieces; a short answer waits until it is known how likely it is right."""
        waiting, whole = "", True
        with closing(cast(Any, pieces)):
            for piece in pieces:
                waiting += piece
                if len(waiting.split()) > LONGEST:
                    yield waiting
                    waiting, whole = "", False
        if whole and waiting and self.certainty() < confidence.least:
            waiting = confidence.hedged(waiting)
            self.turns[-1] = replace(self.turns[-1], answer=waiting)
        if waiting:
            yield waiting

    def _write(self, plan: Plan, inputs_embeds: Tensor, decoding: Decoding) -> Iterator[str]:
        language = self.view.assistant.language
        heard = self._heard if plan.remembers else []
        prefix = self._prefix if plan.remembers else None
        if prefix is None:
            prefix = language.new_prefix() if language.keeps_prefix else None
            reads = torch.cat([*heard, inputs_embeds])
        else:
            reads = inputs_embeds
        # Whatever goes wrong from here on, _heard is still true and a prefix can be made of it.
        kept, self._prefix = self._prefix, None
        kept_length = len(kept) if kept is not None else 0
        ids: list[int] = []
        answer = ""
        before = len(prefix) if prefix is not None else 0
        try:
            # The contract names it an iterator; like any generator it can be closed.
            with closing(cast(Any, language.generate(reads, decoding, prefix))) as generated:
                for token in generated:
                    ids.append(token)
                    # A space or half a character may still turn into something else.
                    text = language.decode(ids).strip().rstrip("\ufffd").rstrip()
                    if piece := text[len(answer) :]:
                        answer += piece
                        yield piece
            if piece := language.decode(ids).strip()[len(answer) :]:
                answer += piece
                yield piece
        except BaseException:
            if kept is not None and len(kept) == kept_length:
                self._prefix = kept
            raise
        ended = prefix is not None and len(prefix) > before + len(reads) + len(ids)
        self._keep(plan, inputs_embeds, ids, answer, ended)
        self._prefix = prefix

    @torch.no_grad()
    def recall(self, question: str, answer: str, regions: Sequence[Region] | None = None) -> None:
        """Take over a turn that went so elsewhere: as if asked and answered here, but not written.

        regions: as in `ask`. Raises QuestionError, RegionError.
        """
        if self._answering:
            raise LoupeError("this conversation is still answering: read on or close that answer")
        plan = self.plan(question, regions)
        language = self.view.assistant.language
        soft_tokens = self.view.soft_tokens(plan.sources, plan.instruction)
        inputs_embeds = assemble(language, plan.pieces, soft_tokens)
        ids = language.tokenize(answer.strip()).tolist()
        self._keep(plan, inputs_embeds, ids, answer.strip(), ended=language.keeps_prefix)
        self._prefix = None  # it would have to be read; the next turn does that

    @torch.no_grad()
    def certainty(self) -> float:
        """How sure the model was of its last answer: the geometric mean of the probabilities of its
        tokens, end included, 0 to 1, or, where the assistant's config has a `confidence`, how
        likely it is right; without a turn 0. Costs one reading of the conversation."""
        if not self.turns:
            return 0.0
        language = self.view.assistant.language
        ids = torch.tensor(self._written, device=self._heard[0].device)
        loss = language.loss([torch.cat(self._heard[: self._before])], [ids])
        confidence = self.view.assistant.config.confidence
        likelihood = float(torch.exp(-loss.float()))
        return likelihood if confidence is None else confidence.of(likelihood)

    def _keep(
        self, plan: Plan, inputs_embeds: Tensor, ids: list[int], answer: str, ended: bool
    ) -> None:
        """Add a finished turn. ids: the answer's tokens; ended: by EOS, which was then read too."""
        language = self.view.assistant.language
        self._heard = [*(self._heard if plan.remembers else []), inputs_embeds]
        read, self._before = sum(map(len, self._heard)), len(self._heard)
        self._written = [*ids, language.eos_id]
        if written := [*ids, language.eos_id] if ended else ids:
            self._heard.append(language.embed(torch.tensor(written, device=inputs_embeds.device)))
        self._declared = {**(self._declared if plan.remembers else {}), **self._declares(plan)}
        self._remembered = plan.remembers + 1
        turn = Turn(plan.question, plan.regions, answer, plan.remembers, read, len(ids))
        self.turns.append(turn)

    def _declares(self, plan: Plan) -> dict[str, Region | None]:
        """What later turns need not declare again."""
        whole = {PICTURE: None} if PICTURE in plan.sources else {}
        return {**whole, **{region.name: region for region in plan.regions}}
