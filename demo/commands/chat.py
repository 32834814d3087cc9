"""`loupe chat`: the page in a browser."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from demo.arguments import decoding_of, models_of
from demo.commands import common

SAYS = "open the chat in a browser"
EXAMPLES = """examples:
  loupe chat
  loupe chat --model FOLDER --port 8000
  loupe chat --host 0.0.0.0 --auth NAME:PASSWORD"""


def arguments(command: argparse.ArgumentParser) -> None:
    models_of(command)
    decoding_of(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    command.add_argument("--port", type=int, default=7860, help="port to listen on (%(default)s)")
    command.add_argument("--auth", metavar="NAME:PASSWORD", help="ask visitors for these")
    command.add_argument("--open", action="store_true", help="open a browser window")


def run(args: argparse.Namespace) -> int:
    from qformer.contracts import LoupeError

    auth = tuple(args.auth.split(":", 1)) if args.auth else None
    if auth is not None and (len(auth) != 2 or not all(auth)):
        raise LoupeError("--auth is NAME:PASSWORD")
    if args.host not in ("127.0.0.1", "localhost", "::1") and auth is None:
        raise LoupeError(f"on {args.host} others can reach the chat: add --auth NAME:PASSWORD")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from demo.app import launch
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise LoupeError('the chat needs gradio: pip install "loupe-assistant[demo]"') from None
    title = "embedded default" if args.model == "embedded" else Path(args.model).name
    blocks = launch(
        lambda: common.assistant_of(args), title, args.host, args.port, auth, open_browser=args.open
    )
    print(f"Loupe is at {blocks.local_url} (Ctrl-C ends it)", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        print()
    blocks.close(verbose=False)
    sys.stdout.flush()
    os._exit(0)  # a model that is still being loaded cannot be waited for, nor stopped cleanly
