"""Names and passwords. Only hashes are given to the server, and none is ever written down by it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from qformer.contracts import LoupeError

COST = 15  # scrypt's n as a power of two: 32 MB and about 0.1 s for each try
HASH = re.compile(r"scrypt\.(\d+)\.([\w-]{20,})\.([\w-]{40,})")
FORM = "NAME:HASH, where HASH is what `loupe chat --hash-password` prints"
TRIES = 10  # wrong passwords in a row from one address; then one more every PAUSE seconds
PAUSE = 5.0


def hash_password(password: str) -> str:
    """scrypt.COST.SALT.KEY, with nothing in it that a shell or a compose file would read."""
    if len(password) < 8:
        raise LoupeError(f"the password has {len(password)} characters: take at least 8")
    salt = secrets.token_bytes(16)
    return f"scrypt.{COST}.{_text(salt)}.{_text(_scrypt(password, salt, COST))}"


def _scrypt(password: str, salt: bytes, cost: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=1 << cost, r=8, p=1, maxmem=2**27, dklen=32
    )


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Logins:
    """Who may come in. Tells the name behind an Authorization header."""

    def __init__(self, entries: Iterable[str]):
        """entries: NAME:HASH each. Raises LoupeError for what is not."""
        self._hashes: dict[str, tuple[int, bytes, bytes]] = {}
        for entry in entries:
            name, _, written = entry.partition(":")
            found = HASH.fullmatch(written)
            if not name or not found or not 10 <= int(found[1]) <= 17:
                raise LoupeError(f"--auth is {FORM}")
            self._hashes[name] = (int(found[1]), _bytes(found[2]), _bytes(found[3]))
        self._pepper = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, str] = OrderedDict()  # headers that were right -> name
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> tries, when
        self._lock = threading.Lock()  # one scrypt at a time: guessing costs one core at most

    def remembered(self, header: str) -> str | None:
        """The name, where this header was right before; costs next to nothing."""
        return self._known.get(self._digest(header))

    def must_wait(self, address: str) -> int:
        """Seconds until this address may try another password; 0: now."""
        tries, last = self._wrong.get(address, (0, 0.0))
        left = PAUSE - (time.monotonic() - last)
        return int(left) + 1 if tries >= TRIES and left > 0 else 0

    def check(self, header: str, address: str) -> str | None:
        """The name a header "Basic ..." or "Bearer NAME:PASSWORD" proves, or None. Takes 0.1 s."""
        name, password = credentials(header)
        known = name in self._hashes
        # A wrong name takes as long as a wrong password.
        cost, salt, key = self._hashes.get(name) or (COST, b"nobody's salt...", b"")
        with self._lock:
            right = hmac.compare_digest(_scrypt(password, salt, cost), key) and known
            if right:
                self._known[self._digest(header)] = name
                self._wrong.pop(address, None)
                while len(self._known) > 1000:
                    self._known.popitem(last=False)
            elif header:
                tries, _ = self._wrong.pop(address, (0, 0.0))
                self._wrong[address] = (tries + 1, time.monotonic())
                while len(self._wrong) > 10_000:
                    self._wrong.popitem(last=False)
        return name if right else None

    def _digest(self, header: str) -> bytes:
        return hmac.digest(self._pepper, header.encode(), "sha256")


def credentials(header: str) -> tuple[str, str]:
    """(name, password) of an Authorization header; empty ones where it has none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
    elif scheme.lower() != "bearer":
        return "", ""
    name, _, password = value.strip().partition(":")
    return name, password[:1000]
