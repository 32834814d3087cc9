"""`loupe chat`: the page in a browser, and beside it the doors for programs."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from demo.arguments import decoding_of, models_of
from demo.commands import common
from demo.models import PAINTINGS, PHOTOS, Chooser

SAYS = "open the chat in a browser, and serve programs beside it"
EXAMPLES = """examples:
  loupe chat
  loupe chat --model paintings --port 8000
  loupe chat --hash-password
  loupe chat --host 0.0.0.0 --auth NAME:HASH
  curl localhost:7860/v1/models

Programs: OpenAI's API at /v1, figures at /metrics; see docs/api.md and docs/serving.md."""


def arguments(command: argparse.ArgumentParser) -> None:
    models_of(command)
    decoding_of(command)
    group = command.add_argument_group("server")
    group.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    group.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    group.add_argument("--auth", metavar="NAME:HASH", action="append", default=[],
                       help="let in who knows the password; may be repeated, or stand in"
                       " LOUPE_AUTH, with spaces between")  # fmt: skip
    group.add_argument("--hash-password", action="store_true",
                       help="ask for a password, print its HASH, and end")  # fmt: skip
    group.add_argument("--queue", metavar="N", type=int, default=64,
                       help="requests that may wait; more are told "
                       "to come later (%(default)s)")  # fmt: skip
    group.add_argument("--max-sessions", metavar="N", type=int, default=64,
                       help="visitors at once (%(default)s)")  # fmt: skip
    group.add_argument("--public-url", metavar="URL", help="where visitors find the chat, if it"
                       " stands behind a proxy")  # fmt: skip
    group.add_argument("--corrections", metavar="FOLDER", type=Path, help="let visitors have their"
                       " corrections kept here, as training data")  # fmt: skip
    group.add_argument("--open", action="store_true", help="open a browser window")


def run(args: argparse.Namespace) -> int:
    from qformer.contracts import LoupeError

    if args.hash_password:
        return hash_password()
    # Ended like Ctrl-C. Process 1 of a container would not even hear it otherwise.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    from demo.serve.auth import Logins
    from demo.serve.limits import Limits

    entries = [*args.auth, *os.environ.get("LOUPE_AUTH", "").split()]
    logins = Logins(entries) if entries else None
    if args.host not in ("127.0.0.1", "localhost", "::1") and logins is None:
        raise LoupeError(
            f"on {args.host} others can reach the chat: add --auth NAME:HASH (loupe chat"
            " --hash-password makes a HASH)"
        )
    limits = Limits(queue=args.queue, sessions=args.max_sessions)
    server = launcher()(
        lambda: common.assistant_of(args), Path(args.model or "the model").name, args.host,
        args.port, logins, limits, args.public_url, args.open, args.corrections,
        chooser_of(args) if logins is None else None, lambda: settled(args),
    )  # fmt: skip
    try:
        print(f"Loupe is at {server.local_url} (Ctrl-C ends it)", flush=True)
        while not threading.Event().wait(1):  # a signal that met another thread is seen on waking
            pass
    except KeyboardInterrupt:
        print()
    with suppress(KeyboardInterrupt):  # asked twice, it ends at once
        server.close()
    sys.stdout.flush()
    os._exit(0)  # a model that is still being loaded cannot be waited for, nor stopped cleanly


def settled(args: argparse.Namespace) -> tuple[str, str]:
    """The model that runs first, a default by its name of today; and why it is not the photos'."""
    from adapters.defaults import default_model, default_named

    why = "" if args.model else default_model()[1]
    model = common.model_of(args)
    return default_named(model) or model, why


def chooser_of(args: argparse.Namespace) -> Chooser:
    """Other models with the options of this one; offered to whoever sits at this machine."""

    def build(model: str, segmenter: str | None, precision: str) -> Any:
        named = {"model": model, "segmenter": segmenter, "vision": None, "language": None}
        return common.assistant_of(
            argparse.Namespace(**{**vars(args), **named, **options_of(model, precision)})
        )

    half = "fp32" if args.dtype == "fp32" else "bf16"
    device = None if args.device_map else args.device
    return Chooser(build, args.model or "", args.segmenter, args.quantize or half, device)


def options_of(model: str, precision: str) -> dict[str, str | None]:
    """The options that ask for one of adapters.memory.PRECISIONS; a default is small enough as it
    is."""
    if model in (PHOTOS, PAINTINGS) or precision == "fp32":
        return {"dtype": "fp32", "quantize": None}
    return {"dtype": "bf16", "quantize": None if precision == "bf16" else precision}


def launcher():
    """demo.serve.server.launch. Raises LoupeError where gradio is not installed."""
    try:
        from demo.serve.server import launch
    except ModuleNotFoundError as error:
        from qformer.contracts import LoupeError

        if error.name != "gradio":
            raise
        raise LoupeError('the chat needs gradio: pip install "loupe-assistant[demo]"') from None
    return launch


def hash_password() -> int:
    from getpass import getpass

    from demo.serve.auth import hash_password as hashed
    from qformer.contracts import LoupeError

    if sys.stdin.isatty():
        password = getpass("password: ")
        if getpass("once more: ") != password:
            raise LoupeError("the two are not the same: try again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    print(hashed(password))
    return 0
