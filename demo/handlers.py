"""What the page's events do. No gradio here: app.py wires these to the page.

Every handler is public, whoever finds its address may call it: payloads are checked by
`demo.events`, and keys that are not ours get an empty session of their own.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from adapters.images import load_image
from demo import events, export, gallery, page
from demo.corrections import Corrections
from demo.models import Loader
from demo.picture import Settings
from demo.regions import Mark
from demo.session import Session, failure
from demo.visitors import Sessions
from qformer.contracts import LoupeError, QuestionError, RegionError

KEY = re.compile(r"[\w-]{16,64}")
WHOLE = ("example", "upload", "switch", "close", "import")  # operations that show anew

Changed = tuple[Collection[Mark], dict[str, Any]]  # regions to send, and what else to show


class Chat:
    """The handlers, over the sessions. saves: where corrections may be kept. visitors: as many are
    remembered."""

    def __init__(self, loader: Loader, saves: Path | None = None, visitors: int = 64):
        self.loader = loader
        self.sessions = Sessions(loader.wait, visitors, self._model)
        loader.on_change(self.sessions.read_by)
        self.examples = gallery.examples()
        self.corrections = None if saves is None else Corrections(saves)

    def _model(self) -> str:
        return self.loader.model

    def enter(
        self, held: Any = "", owner: str = "", page_id: str = "", opened: Collection[str] = ()
    ) -> tuple[str, dict, dict]:
        """A page was opened, or opened again by who holds the key of its session; see Sessions."""
        held = held if isinstance(held, str) and KEY.fullmatch(held) else ""
        key = self.sessions.enter(held, owner, page_id, opened)
        session = self.sessions.get(key)
        if not session.pictures:
            return key, page.scene(session, key=key), self._talk(session)
        with session.lock:
            session.picture()  # the model that reads it may be another by now
            return key, page.scene(session, whole=True, key=key), self._talk(session)

    def status(self, **more: Any) -> Iterator[dict]:
        """The header's value, now and until nothing is being read any more."""
        while not self.loader.settled(0 if self.loader.loading is None else 1):
            yield page.header(self.loader, **more)
        yield page.header(self.loader, **more)

    def model(self, data: Any) -> Iterator[dict]:
        """The list of models was opened, or another model chosen -> header, again and again."""
        chooser = self.loader.chooser
        try:
            name, fields = events.read(data, events.MODELS)
            if chooser is None:
                raise LoupeError("models are not chosen here: start with `loupe chat --model`")
            if name == "choose":
                self.loader.choose(**fields)
                yield from self.status()
            if name == "list" or self.loader.error:
                yield page.header(self.loader, choices=chooser.choices())
        except LoupeError as error:
            told = {} if chooser is None else {"choices": chooser.choices()}
            yield page.header(self.loader, note=str(error), **told)

    def drop(self, key: str) -> None:
        self.sessions.drop(key)

    def _session(self, key: Any) -> Session:
        # A key of another form was never given out.
        known = isinstance(key, str) and KEY.fullmatch(key)
        return self.sessions.get(key) if known else Session(self.loader.wait, self._model)

    def _talk(self, session: Session, **told: Any) -> dict:
        saves = self.corrections is not None
        return page.talk(session, self.loader.ready(), saves=saves, **told)

    # Quick operations

    def operate(self, key: str, data: Any) -> tuple[dict, dict]:
        """One operation -> canvas, talk. Never raises."""
        session, ack = self._session(key), events.acknowledged(data)
        changed: Collection[Mark] = ()
        extra: dict[str, Any] = {}
        error, name = "", ""
        try:
            if not session.bucket.take():
                raise RegionError("that was too fast: wait a second and try again")
            name, fields = events.read(data, events.OPERATIONS)
            changed, extra = self._operate(session, name, fields)
        except Exception as problem:
            error = str(problem) if isinstance(problem, LoupeError) else failure(problem)
        whole = name in WHOLE and not error
        with session.lock:
            canvas = page.scene(session, ack, error, changed, whole, **extra)
            since = None if whole else events.MAX_ID
            return canvas, self._talk(session, since=since)

    def _operate(self, session: Session, name: str, fields: dict[str, Any]) -> Changed:
        handler = getattr(self, f"_{name}", None)
        if handler is not None:
            return handler(session, **fields) or ((), {})
        with session.lock:
            return self._pointed(session, name, fields), {}

    def _pointed(self, session: Session, name: str, fields: dict[str, Any]) -> Collection[Mark]:
        """What changes regions. Returns those whose area is to be sent."""
        picture = session.picture()
        regions, size = picture.regions, picture.size

        def pixels(x: float, y: float) -> tuple[float, float]:
            # The last pixel's far edge still belongs to it.
            return min(x * size[0], size[0] - 1e-3), min(y * size[1], size[1] - 1e-3)

        match name:
            case "point":
                spot = pixels(fields["x"], fields["y"])
                return [regions.click(*spot, fields["positive"], fields["region"])]
            case "box":
                x0, y0, x1, y1 = fields["box"]
                return [regions.box(*pixels(x0, y0), *pixels(x1, y1))]
            case "stroke":
                points = [pixels(x, y) for x, y in fields["points"]]
                radius = fields["radius"] * max(size)
                return [regions.paint(points, radius, fields["positive"], fields["region"])]
            case "pick":
                return [regions.pick(fields["candidate"])]
            case "cycle":
                return [regions.cycle(fields["region"])]
            case "rename":
                regions.rename(fields["region"], fields["label"])
            case "choose":
                regions.choose(fields["region"], fields["asked"])
            case "delete":
                regions.delete(fields["region"])
            case "clear":
                regions.clear()
            case "forget":
                regions.candidates = []
            case "undo" | "redo":
                before = dict(regions.marks)
                getattr(regions, name)()
                return [m for n, m in regions.marks.items() if before.get(n) is not m]
        return ()

    def _example(self, session: Session, name: str) -> None:
        if name not in self.examples:
            raise events.unknown()
        source = self.examples[name].read_bytes()
        session.open(load_image(source), gallery.titled(self.examples)[name], source)

    def _upload(self, session: Session, file: Path, title: str | None) -> None:
        source = file.read_bytes()
        session.open(load_image(source), Path(title or "").stem[:60], source)

    def _switch(self, session: Session, picture: int) -> None:
        session.switch(picture)

    def _close(self, session: Session, picture: int) -> None:
        session.close(picture)

    def _sync(self, session: Session) -> Changed:
        """All areas are sent again."""
        with session.lock:
            picture = session.picture()
            marks = list(picture.regions.marks.values())
            return marks, {"candidates": page.candidates(picture)}

    def _restart(self, session: Session) -> None:
        session.restart()

    def _settings(self, session: Session, **values: Any) -> None:
        if values["save"] and self.corrections is None:
            raise LoupeError("nothing is kept here: start with `loupe chat --corrections FOLDER`")
        session.set(Settings(**values))

    def _rate(self, session: Session, entry: int, rating: int) -> None:
        with session.lock:
            picture = session.picture()
            question, answer = picture.talk.turn(entry)
            if answer is None or answer.state == "writing":
                raise QuestionError("there is no answer to rate yet")
            answer.rating = rating
        self._keep(session, question, answer)

    def _correct(self, session: Session, entry: int, answer: str) -> None:
        with session.lock:
            picture = session.picture()
            question, corrected = picture.talk.turn(entry)
            if corrected is None or corrected.state == "writing" or corrected.rows:
                raise QuestionError("there is no answer to put right yet")
            if not answer.strip():
                raise QuestionError("the answer is empty: type the right one")
            corrected.text, corrected.corrected = answer.strip(), True
            corrected.state, corrected.rating = "done", 1
            picture.talk.forget()
        self._keep(session, question, corrected)

    def _keep(self, session: Session, question: Any, answer: Any) -> None:
        if self.corrections is None or not session.settings.save or answer.rows:
            return
        picture = session.picture()
        is_right = answer.rating > 0
        self.corrections.keep_answer(picture, question, answer.text if is_right else None)
        if is_right:
            marks = [m for n, m in picture.regions.marks.items() if n in question.numbers]
            self.corrections.keep_regions(picture, marks)

    def _evidence(self, session: Session, entry: int) -> Changed:
        return (), {"evidence": page.evidence(session, session.evidence(entry))}

    def _export(self, session: Session, form: str) -> Changed:
        if form == "png":
            content = base64.b64encode(export.overlay_png(session)).decode()
            return (), {"file": {"name": "loupe.png", "type": "image/png", "base64": content}}
        written = export.to_json if form == "json" else export.to_html
        kind = "application/json" if form == "json" else "text/html"
        content = written(session, self.loader.title)
        return (), {"file": {"name": f"loupe.{form}", "type": kind, "text": content}}

    def _import(self, session: Session, file: Path) -> None:
        export.replay(session, file.read_bytes())

    # What takes a while

    def work(self, key: str, data: Any) -> Iterator[dict]:
        """A question, or another long task -> the talk, again and again. Never raises."""
        session, note, kept, since = self._session(key), "", None, events.MAX_ID
        asked = data.get("question") if isinstance(data, dict) else None
        try:
            if not session.bucket.take():
                raise LoupeError("that was too fast: wait a second and ask again")
            name, fields = events.read(data, events.WORK)
            steps = self._work(session, name, fields)
            for _ in steps:
                if since == events.MAX_ID:
                    since = self._newest(session)
                yield self._talk(session, since=since)
        except Exception as problem:
            note = str(problem) if isinstance(problem, LoupeError) else failure(problem)
            kept = asked[: events.MAX_QUESTION] if isinstance(asked, str) else None
        yield self._talk(session, since=since, note=note, kept=kept)

    @staticmethod
    def _newest(session: Session) -> int:
        """The entry from which on all is new: the last question."""
        with session.lock:
            entries = session.picture().talk.entries
            return entries[-2].id if len(entries) > 1 else 0

    @staticmethod
    def _work(session: Session, name: str, fields: dict[str, Any]) -> Iterator[Any]:
        start: dict[str, Callable[..., Iterator[Any]]] = {
            "ask": session.ask,
            "retry": session.retry,
            "edit": session.retry,
            "describe": session.describe,
            "everything": session.everything,
            "find": session.find,
        }
        return start[name](**fields)

    def stop(self, key: str) -> dict:
        """Stop was pressed: the answer so far stays, marked as stopped."""
        session = self._session(key)
        session.stop(wait=2)
        return self._talk(session, since=events.MAX_ID)
