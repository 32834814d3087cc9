"""Loupe's tools for language models: the Model Context Protocol, streamable HTTP, without state.

https://modelcontextprotocol.io/specification/2025-06-18. Each request is answered whole, as JSON;
there is nothing to subscribe to, so a GET is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from demo.serve.api import Desk, body_of, worded
from demo.serve.doors import Doors
from qformer.contracts import LoupeError

VERSIONS = ("2025-06-18", "2025-03-26", "2024-11-05")  # spoken here, newest first
PICTURE = {
    "type": "string",
    "description": "the picture as a data URL, data:image/png;base64,...; addresses and paths"
    " are not opened",
}
POINTED = {
    "type": "object",
    "description": '{"points": [[x, y, 1 add or 0 exclude], ...]}, {"box": [x0, y0, x1, y1]}, both,'
    ' or {"mask": data URL or COCO run lengths}; in pixels',
    "properties": {
        "points": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "box": {"type": "array", "items": {"type": "number"}},
        "mask": {},
    },
}
REGIONS = {"type": "array", "items": POINTED}
TOOLS: dict[str, tuple[str, dict, tuple[str, ...]]] = {
    "segment": (
        "Cut out what is pointed at. Gives each region's box, area, score and run lengths.",
        {"picture": PICTURE, "regions": REGIONS},
        ("picture", "regions"),
    ),
    "ask": (
        'Answer a question about a picture, or about regions of it ("region 1", in the order'
        " given).",
        {"picture": PICTURE, "question": {"type": "string"}, "regions": REGIONS},
        ("picture", "question"),
    ),
    "describe": (
        "Describe a picture, and each region of it.",
        {"picture": PICTURE, "regions": REGIONS},
        ("picture",),
    ),
}  # name -> what it does, its arguments, those that must be given


class ProtocolError(LoupeError):
    """A message that is not one of the protocol's. code: JSON-RPC's."""

    def __init__(self, text: str, code: int = -32600):
        super().__init__(text)
        self.code = code


class Tools:
    """The endpoint, over the doors."""

    def __init__(self, doors: Doors, desk: Desk):
        self.doors, self.desk = doors, desk

    async def answer(self, request: Request) -> Response:
        """POST /mcp: one JSON-RPC message."""
        key: Any = None
        try:
            message = await body_of(request)
            if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
                raise ProtocolError("send one JSON-RPC 2.0 message at a time")
            key, method = message.get("id"), message.get("method")
            if key is None or method is None:  # a notification, or an answer to nothing asked here
                return Response(status_code=202)
            if not isinstance(key, str | int) or not isinstance(method, str):
                key = None
                raise ProtocolError('"id" is a text or a number and "method" a text')
            result = await self._result(method, message.get("params") or {}, request)
        except ClientDisconnect:
            return Response(status_code=499)
        except ProtocolError as error:
            return failure(key, error.code, str(error))
        except Exception as problem:
            status, says, headers = worded(problem)
            return failure(key, -32603, says["error"]["message"], status, headers)
        return JSONResponse({"jsonrpc": "2.0", "id": key, "result": result})

    async def _result(self, method: str, params: Any, request: Request) -> dict:
        if not isinstance(params, dict):
            raise ProtocolError('"params" is an object', -32602)
        if method == "initialize":
            asked = params.get("protocolVersion")
            return {
                "protocolVersion": asked if asked in VERSIONS else VERSIONS[0],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "loupe", "version": loupe_version()},
            }
        if method == "ping":
            return {}
        if method == "tools/list":
            return {"tools": [described(name) for name in TOOLS]}
        if method == "tools/call":
            return await self._call(params, request)
        raise ProtocolError(f"there is no method {method[:60]!r} here", -32601)

    async def _call(self, params: dict, request: Request) -> dict:
        name, given = params.get("name"), params.get("arguments") or {}
        if not isinstance(name, str) or name not in TOOLS or not isinstance(given, dict):
            raise ProtocolError(f"the tools are {', '.join(TOOLS)}", -32602)
        _, known, needed = TOOLS[name]
        for argument in given.keys() - known.keys():
            raise ProtocolError(f"{name} takes {', '.join(known)}, not {argument[:40]!r}", -32602)
        for argument in needed:
            if argument not in given:
                raise ProtocolError(f"{name} needs {argument!r}", -32602)
        owner = request.scope.get("loupe.user", "")
        work = getattr(self.doors, name)

        def run() -> Iterator[dict]:
            yield work(owner, **given)

        try:
            (told,) = await self.desk.result(run, request)
        except LoupeError as error:  # for the language model to read and put right
            return {"content": [{"type": "text", "text": str(error)}], "isError": True}
        text = json.dumps(told, ensure_ascii=False)
        return {
            "content": [{"type": "text", "text": text}],
            "structuredContent": told,
            "isError": False,
        }


def described(name: str) -> dict:
    says, arguments, needed = TOOLS[name]
    schema = {"type": "object", "properties": arguments, "required": list(needed)}
    return {"name": name, "description": says, "inputSchema": schema,
            "annotations": {"readOnlyHint": True, "openWorldHint": False}}  # fmt: skip


def failure(
    key: Any, code: int, text: str, status: int = 200, headers: dict[str, str] | None = None
) -> JSONResponse:
    says = {"jsonrpc": "2.0", "id": key, "error": {"code": code, "message": text}}
    return JSONResponse(says, 400 if key is None else status, headers)


def loupe_version() -> str:
    try:
        return version("loupe-assistant")
    except PackageNotFoundError:  # run from a checkout
        return "0"
