"""The visitors' sessions, by key, as many as there is room for."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection

from demo.session import Session
from qformer.assistant import Assistant


class Sessions:
    """The one longest unseen makes room for a new one."""

    def __init__(
        self,
        assistant: Callable[[], Assistant],
        capacity: int = 64,
        model: Callable[[], str] = lambda: "",
    ):
        self._assistant, self._model, self.capacity = assistant, model, capacity
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._pages: dict[str, list[str]] = {}  # those that show each, the oldest first
        self._owners: dict[str, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def enter(
        self, held: str = "", owner: str = "", page: str = "", opened: Collection[str] = ()
    ) -> str:
        """A page was opened: its session's key. held: the key of the page before, if this is one
        that was reloaded; it is good for the browser (owner) that it was given to. opened: the
        pages that are open now. Where one of them shows the session already, its tab was
        duplicated: this page goes on with a copy."""
        with self._lock:
            known = held in self._sessions and bool(owner) and self._owners[held] == owner
            session = self._sessions[held] if known else Session(self._assistant, self._model)
            shown = known and any(one != page and one in opened for one in self._pages[held])
        if shown:
            session = session.copy()
        key = held if known and not shown else secrets.token_urlsafe(16)
        with self._lock:
            self._keep(key, session)
            self._owners[key] = owner
            self._pages.setdefault(key, []).append(page)
            return key

    def get(self, key: str) -> Session:
        """The visitor's session; an empty one, that says so, where the key is unknown by now."""
        with self._lock:
            session = self._sessions.pop(key, None)
            if session is None:
                session = Session(self._assistant, self._model)
                session.lost = True
            self._keep(key, session)
            return session

    def read_by(self, assistant: Assistant) -> None:
        """Another model reads everybody's pictures from now on."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.read_by(assistant)

    def drop(self, key: str) -> None:
        """A page has gone, and its session with the last that showed it."""
        with self._lock:
            pages = self._pages.get(key, [])
            del pages[:1]
            session = None if pages else self._let_go(key)
        if session is not None:
            session.stop()

    def _keep(self, key: str, session: Session) -> None:
        self._sessions[key] = session
        self._sessions.move_to_end(key)
        self._owners.setdefault(key, "")
        while len(self._sessions) > self.capacity:
            gone = self._let_go(next(iter(self._sessions)))
            if gone is not None:
                gone.stop()

    def _let_go(self, key: str) -> Session | None:
        self._pages.pop(key, None)
        self._owners.pop(key, None)
        return self._sessions.pop(key, None)
