"""What was said about one picture: the transcript, and the conversation that the model remembers.

The transcript is ours, a front only shows it; the conversation is made again from it whenever it
was edited, taken back, put right, or another model reads the picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qformer.contracts import LoupeError, QuestionError
from qformer.conversation import Conversation
from qformer.prompt import Composer
from qformer.regions import Region
from qformer.view import View

MAX_ENTRIES = 400  # the oldest go first
REMEMBERED = ("done", "withheld")  # answers the model is told of later


@dataclass
class Entry:
    """One side of a turn, or a notice.

    text: as typed, or as the model wrote it, or as it was put right. said: a question as the model
    read it. numbers, regions: what a question is about, as it was then, and its snapshot as a data
    URI. state of an answer: "writing" | "done" | "stopped" | "failed" | "withheld" (the model was
    less certain than the user asks for). rows: (region's number, caption) of dense captions.
    """

    id: int
    role: str  # "question" | "answer" | "notice"
    text: str
    said: str = ""
    numbers: tuple[int, ...] = ()
    regions: tuple[Region, ...] = ()
    snapshot: str = ""
    state: str = "done"
    certainty: float | None = None
    rating: int = 0  # of an answer: -1 | 0 | 1
    corrected: bool = False
    sampled: bool = False  # another try, drawn by chance
    rows: tuple[tuple[int, str], ...] = ()
    model: str = ""  # who wrote it
    offers: str | None = None  # of advice about the model: the default that suits better, or ""


class Talk:
    """The questions and answers about one view. ids: gives each entry its number."""

    def __init__(self, view: View, ids: Callable[[], int], composer: Composer | None = None):
        self.view, self.composer = view, composer
        self.entries: list[Entry] = []
        self._ids = ids
        self._conversation: Conversation | None = None

    def add(self, role: str, text: str, **details) -> Entry:
        entry = Entry(self._ids(), role, text, **details)
        self.entries.append(entry)
        del self.entries[:-MAX_ENTRIES]
        return entry

    def entry(self, number: int) -> Entry:
        found = next((entry for entry in self.entries if entry.id == number), None)
        if found is None:
            raise QuestionError("this turn is gone: ask again")
        return found

    def turn(self, number: int) -> tuple[Entry, Entry | None]:
        """The question and the answer (if any) of the turn that an entry belongs to."""
        place = self.entries.index(self.entry(number))
        if self.entries[place].role == "answer":
            place -= 1
        question = self.entries[place] if place >= 0 else None
        if question is None or question.role != "question":
            raise QuestionError("this is no question that was asked: type one")
        after = self.entries[place + 1 : place + 2]
        answer = after[0] if after and after[0].role == "answer" else None
        return question, answer

    def turns(self, until: Entry | None = None) -> Iterator[tuple[Entry, Entry]]:
        """The turns that the model is to remember, those before `until`."""
        for question, answer in zip(self.entries, self.entries[1:], strict=False):
            if question is until:
                return
            is_turn = (question.role, answer.role) == ("question", "answer") and not answer.rows
            if is_turn and answer.state in REMEMBERED:
                yield question, answer

    def conversation(self) -> Conversation:
        """Give the conversation as the model remembers the transcript."""
        if self._conversation is None:
            self._conversation = self.remembering(None)
        return self._conversation

    def remembering(self, until: Entry | None) -> Conversation:
        """A new conversation, told all turns before an entry. What does not fit is left out."""
        prompt = self.view.assistant.config.prompt
        if self.composer is not None:
            prompt = dataclasses.replace(prompt, composer=self.composer)
        made = Conversation(self.view, prompt)
        for question, answer in self.turns(until):
            try:
                made.recall(question.said or question.text, answer.text, question.regions)
            except LoupeError:  # another model may read less
                continue
        return made

    def go_back(self, until: Entry, conversation: Conversation) -> None:
        """Take back an entry and all that followed."""
        del self.entries[self.entries.index(until) :]
        self._conversation = conversation

    def drop_caches(self) -> None:
        """Forget what can be computed again without changing an answer."""
        if self._conversation is not None:
            self._conversation.drop_caches()

    def forget(self) -> None:
        """The conversation is made again at the next question."""
        self._conversation = None

    def copy(self, view: View, ids: Callable[[], int]) -> Talk:
        """The same talk, to go on apart; an answer that is being written stays as far as it is."""
        made = Talk(view, ids, self.composer)
        made.entries = [dataclasses.replace(entry) for entry in self.entries]
        for entry in made.entries:
            entry.state = "stopped" if entry.state == "writing" else entry.state
        return made

    def read_by(self, view: View, composer: Composer | None) -> None:
        self.view, self.composer = view, composer
        self.forget()

    def advise(self, advice: tuple[str, str] | None) -> None:
        """Put (text, the default that suits better, or "") in the place of what was said of another
        model; None: there is nothing to say."""
        self.entries = [entry for entry in self.entries if entry.offers is None]
        if advice is not None:
            self.add("notice", advice[0], offers=advice[1])

    def restart(self) -> None:
        """A new talk; a notice that opened the old one stays."""
        kept = self.entries[:1]
        self.entries = [entry for entry in kept if entry.role == "notice"]
        self.forget()

    def previous(self, question: Entry) -> str | None:
        """The question before this one, as the model read it."""
        before = [asked.said or asked.text for asked, _ in self.turns(until=question)]
        return before[-1] if before else None
