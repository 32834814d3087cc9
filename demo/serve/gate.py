"""The gate before the page and the doors: who comes in, where to, with how much.

gradio serves many more paths than the page needs (files, proxies, direct calls). What is not in
PATHS does not exist here, whatever gradio offers, now or in a later version.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from demo.serve import form
from demo.serve.auth import Logins
from demo.serve.limits import Limits
from demo.serve.metrics import Metrics

NAMED = ("ask", "segment", "describe")  # what the gradio client may call by name
EVENT_ID = re.compile(r"[0-9a-f]{32}")
RESET = "/gradio_api/reset"
HEARTBEAT = "/gradio_api/heartbeat/"  # a stream for as long as a page is open
EVENTS = ("/gradio_api/queue/join", "/gradio_api/cancel", RESET)
_CALLS = "|".join(NAMED)
# (method, path, door): the whole of what is served.
PATHS = tuple(
    (method, re.compile(path), door)
    for method, path, door in (
        ("GET", r"/health", "health"),
        ("GET", r"/metrics", "metrics"),
        ("GET", r"/v1/models(/[^/]{1,200})?", "api"),
        ("POST", r"/v1/chat/completions", "api"),
        ("POST", r"/mcp", "mcp"),
        ("GET", r"/", "page"),
        ("GET", r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)/?", "page"),
        ("GET", r"/(assets|static|svelte)(/[\w@+~-][\w@+~. -]{0,200}){1,8}", "page"),
        ("GET", r"/gradio_api/(info|startup-events|theme\.css|app_id|upload_progress)/?", "page"),
        ("GET", r"/gradio_api/(queue/data|heartbeat/[\w-]{1,64})", "stream"),
        ("POST", r"/gradio_api/(queue/join|cancel|reset|upload)/?", "page"),
        ("POST", rf"/gradio_api/call/({_CALLS})", "client"),
        ("GET", rf"/gradio_api/call/({_CALLS})/[\w-]{{1,64}}", "client"),
    )
)
PATIENCE = 60  # seconds for a request to come in whole
COOKIE = "loupe_visitor"
KEY = re.compile(r"[\w-]{1,64}", re.ASCII)
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline';"
    " script-src 'self' 'unsafe-inline' 'unsafe-eval'; font-src 'self' data:;"
    " worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none';"
    " frame-ancestors 'self'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]


class RefusedError(Exception):
    """The gate stays shut."""

    def __init__(self, status: int, text: str, code: str, headers: dict[str, str] | None = None):
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers or {}


class Visitors:
    """Which browser each of gradio's session keys belongs to: a key works for its owner alone."""

    def __init__(self, capacity: int = 10_000):
        self._owner: OrderedDict[str, str] = OrderedDict()
        self._capacity = capacity

    def claim(self, key: str, visitor: str) -> None:
        """Raises RefusedError where the key is another visitor's. The first to use it owns it."""
        owner = self._owner.setdefault(key, visitor)
        self._owner.move_to_end(key)
        while len(self._owner) > self._capacity:
            self._owner.popitem(last=False)
        if not secrets.compare_digest(owner, visitor):
            raise RefusedError(
                403, "this session belongs to somebody else: reload the page", "session"
            )


class Body:
    """A request's body on its way in; read here first where `whole` is set."""

    def __init__(self, receive: Receive):
        self.receive, self.whole, self.content = receive, False, b""

    async def __call__(self) -> dict:
        if not self.whole:
            return await self.receive()
        self.whole = False
        return {"type": "http.request", "body": self.content, "more_body": False}


class Gate:
    """ASGI middleware around everything that is served."""

    def __init__(
        self,
        app: Any,
        limits: Limits,
        metrics: Metrics,
        logins: Logins | None = None,
        hosts: tuple[str, ...] | None = LOOPBACK,
        left: Callable[[str], Awaitable[None]] | None = None,
    ):
        """hosts: names the server answers to; None: any, which is for servers with logins. left:
        told the key of a page that was closed."""
        self.app, self.limits, self.metrics, self.logins = app, limits, metrics, logins
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.left = left
        self.visitors = Visitors()
        self.pages: Counter[str] = Counter()  # those that are open, by gradio's key
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no part of the page uses websockets
            await send({"type": "websocket.close", "code": 1008})
            return
        start, door = time.perf_counter(), "none"
        seen = {"status": 500}
        headers = Headers(scope=scope)
        visitor, new = _visitor(headers)
        scope["loupe.visitor"], scope["loupe.pages"] = "" if new else visitor, self.pages

        async def answer(message: dict) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                extra = list(HEADERS)
                if new and scope["path"] == "/":
                    extra.append((b"set-cookie", _cookie(visitor, scope)))
                own = message.get("headers", [])
                if message["status"] in (429, 503) and not _has(own, b"retry-after"):
                    extra.append((b"retry-after", b"2"))
                if door != "page" and not _has(own, b"cache-control"):
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*own, *extra]}
            await send(message)

        try:
            door = _door(scope)
            self._check_host(headers)
            if door != "health":
                scope["loupe.user"] = await self._user(scope, headers)
            body = await self._bounded(scope, headers, receive, "" if new else visitor)
            try:
                if scope["path"].startswith(HEARTBEAT):
                    await self._follow(scope, body, answer)
                else:
                    await self.app(scope, body, answer)
            finally:
                self._held -= len(body.content)
        except RefusedError as refused:
            await _refuse(scope, receive, answer, refused)
        finally:
            self.metrics.requests.add(door=door, status=str(seen["status"]))
            if door in ("api", "page", "mcp", "client"):
                self.metrics.seconds.observe(time.perf_counter() - start, door=door)

    async def _follow(self, scope: dict, body: Body, answer: Send) -> None:
        """A stream that lasts as long as its page is open."""
        page = scope["path"].removeprefix(HEARTBEAT)
        self.pages[page] += 1
        try:
            await self.app(scope, body, answer)
        finally:
            self.pages[page] -= 1
            self.pages += Counter()  # those at none go
            if self.left is not None:
                await self.left(page)

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        name = re.sub(r":\d+$", "", host)
        if self.hosts is not None and name not in self.hosts:
            raise RefusedError(
                403, f"the server is not known as {name[:60]!r}: start it with --public-url", "host"
            )
        origin = headers.get("origin")
        if origin is not None and re.sub(r"^https?://", "", origin.lower()) != host:
            raise RefusedError(403, "requests from other sites' pages are not answered", "origin")

    async def _user(self, scope: dict, headers: Headers) -> str:
        """The name of who asks; "" where no names are needed."""
        if self.logins is None:
            return ""
        header = headers.get("authorization", "")[:2000]
        name = self.logins.remembered(header)
        if name is not None:
            return name
        address = (scope.get("client") or ("",))[0]
        wait = self.logins.must_wait(address)
        if wait:
            raise RefusedError(429, "too many wrong passwords: wait a little", "login",
                          {"retry-after": str(wait)})  # fmt: skip
        if header:
            name = await run_in_threadpool(self.logins.check, header, address)
        if name is None:
            raise RefusedError(401, "name and password, please", "invalid_api_key",
                          {"www-authenticate": 'Basic realm="Loupe", charset="UTF-8"'})  # fmt: skip
        return name

    async def _bounded(self, scope: dict, headers: Headers, receive: Receive, owner: str) -> Body:
        """The request's body, of bounded size; an event's only where its session is one's own."""
        body, path = Body(receive), scope["path"].rstrip("/")
        if scope["method"] != "POST":
            self._claim_stream(scope, owner)
            return body
        upload = path == "/gradio_api/upload"
        limit = self.limits.event if path in EVENTS else self.limits.body
        if upload:
            limit = self.limits.session + 2**16  # the form around the file
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or int(length) > limit):
            raise _too_large(limit)
        if upload:  # goes to the disk piece by piece, so its length must be known before
            if length is None:
                raise RefusedError(411, "the upload does not say how long it is", "length")
            return body
        try:
            async with asyncio.timeout(PATIENCE):
                await self._read(body, limit)
            if path in EVENTS:
                key = _session_of(body.content, path == RESET)
                if key is not None:
                    self.visitors.claim(key, owner)
        except TimeoutError:
            self._held -= len(body.content)
            raise RefusedError(408, "the request never came to its end", "slow") from None
        except RefusedError:
            self._held -= len(body.content)
            raise
        return body

    async def _read(self, body: Body, limit: int) -> None:
        """All of the body into memory, of which all requests together hold a bounded share."""
        body.whole, more = True, True
        while more:
            message = await body.receive()
            piece, more = message.get("body", b""), message.get("more_body", False)
            if self._held + len(piece) > self.limits.kept:
                raise RefusedError(503, "busy: too much is being sent at once", "busy")
            body.content += piece
            self._held += len(piece)
            if len(body.content) > limit:
                raise _too_large(limit)

    def _claim_stream(self, scope: dict, owner: str) -> None:
        """A stream of answers, too, is its owner's alone."""
        path = scope["path"]
        if path.startswith(HEARTBEAT):
            self.visitors.claim(path.removeprefix(HEARTBEAT), owner)
        elif path == "/gradio_api/queue/data":
            query = scope.get("query_string", b"").decode("latin-1")
            keys = re.findall(r"(?:^|&)session_hash=([^&]*)", query)
            if len(keys) != 1 or not KEY.fullmatch(keys[0]):
                raise RefusedError(400, "the stream needs one session_hash", "session")
            self.visitors.claim(keys[0], owner)


def _door(scope: dict) -> str:
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    found = [(wanted, door) for wanted, path, door in PATHS if path.fullmatch(scope["path"])]
    if not found or ".." in scope["path"]:
        raise RefusedError(404, "there is nothing here", "not_found")
    for wanted, door in found:
        if wanted == method:
            return door
    allowed = ", ".join(wanted for wanted, _ in found)
    raise RefusedError(405, f"only {allowed} is answered here", "method", {"allow": allowed})


def _session_of(body: bytes, reset: bool = False) -> str | None:
    """The session key of one of the page's events. Refused where the event is not one. reset: the
    page then names its event alone, by an id that only it was told; None."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the event is not JSON", "event") from None
    named = event.get("event_id") if reset and isinstance(event, dict) else None
    if isinstance(named, str) and "session_hash" not in event and EVENT_ID.fullmatch(named):
        return None
    key = event.get("session_hash") if isinstance(event, dict) else None
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise RefusedError(400, "the event has no session_hash", "event")
    return key


def _visitor(headers: Headers) -> tuple[str, bool]:
    """(the browser's cookie, whether it is a new one)."""
    try:
        found = SimpleCookie(headers.get("cookie", "")[:4000]).get(COOKIE)
    except CookieError:
        found = None
    if found is not None and KEY.fullmatch(found.value):
        return found.value, False
    return secrets.token_urlsafe(24), True


def _cookie(visitor: str, scope: dict) -> bytes:
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{COOKIE}={visitor}; Path=/; HttpOnly; SameSite=Strict{secure}".encode()


def _has(headers: list, name: bytes) -> bool:
    return any(key.lower() == name for key, _ in headers)


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"more than {limit >> 20} MB: send less", "too_large")


async def _refuse(scope: dict, receive: Receive, send: Send, refused: RefusedError) -> None:
    """Programs hear it in OpenAI's form, the page in gradio's."""
    text = str(refused)
    if scope["path"].startswith("/v1/"):
        problem = form.RequestError(text, None, refused.code, refused.status)
        says: Any = form.error(problem)[1]
    else:
        says = {"detail": text}
    await JSONResponse(says, refused.status, refused.headers)(scope, receive, send)
