import asyncio
import socket
import subprocess
import sys

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from demo.models import Loader
from demo.serve.limits import Limits
from demo.serve.metrics import Metrics
from demo.serve.server import Late, listen, routes
from demo.serve.starting import Later


def test_a_module_that_is_put_off_is_imported_when_something_of_it_is_asked_for(
    tmp_path, monkeypatch
):
    (tmp_path / "put_off.py").write_text("__version__ = '3'\nvalue = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, held in (("__version__", "3"), ("value", 7)):
        later = Later("put_off")
        monkeypatch.setitem(sys.modules, "put_off", later)
        with pytest.raises(AttributeError):  # as those find that look through sys.modules
            later.__wrapped__  # noqa: B018
        assert sys.modules["put_off"] is later
        assert getattr(later, name) == held
        assert sys.modules["put_off"] is not later


def test_who_asks_whether_the_model_is_ready_need_not_wait_for_the_pages_head_start():
    made = object()
    loader = Loader(lambda: made).start(after=600)
    metrics = Metrics()
    app = Starlette(routes=routes(loader, Late(loader, Limits(), metrics), metrics))
    with TestClient(app) as client:
        client.get("/health")
        assert loader.settled(10)
        assert client.get("/health").json() == {"status": "ok", "ready": True}


def test_a_chat_that_is_told_to_end_ends_in_order(port):
    """As by `docker stop`: a status of -15 would mean that it was cut down, or, as a container's
    first process, that it had not heard."""
    command = [sys.executable, "-m", "demo.cli", "chat", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as chat:
        assert chat.stdout.readline().startswith("Loupe is at")
        chat.terminate()
        assert chat.wait(60) == 0


def test_answers_leave_at_once_and_wait_for_no_earlier_one():
    async def accepted() -> int:
        arrived: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def meet(_, writer: asyncio.StreamWriter) -> None:
            opened = writer.get_extra_info("socket")
            arrived.set_result(opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen("127.0.0.1", 0) as listening:
            async with await asyncio.start_server(meet, sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname())
                writer.close()
                return await arrived

    assert asyncio.run(accepted())


def test_what_is_left_out_while_gradio_is_imported_is_there_afterwards():
    code = """
import sys
from demo.serve.starting import lean_import
with lean_import():
    import gradio
import gradio.cli, gradio.events, jinja2
print(jinja2.Template("{{ a }}").render(a=1), gradio.events.Template("{{ a }}").render(a=2))
print(callable(gradio.cli.deploy), sys.modules.get("mcp", 3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["1 2", "True 3"], done.stderr


def test_a_chat_loads_its_model_without_what_compiles_and_what_shares_models():
    """In a process of its own: nothing else has imported them there."""
    code = """
import sys, torch
from demo.serve.starting import lean_models
with lean_models():
    from adapters.build import build
    assistant = build("embedded")
view = assistant.encode(torch.zeros(64, 64, 3, dtype=torch.uint8))
view.ask("what is in the picture?", [view.region(torch.ones(64, 64, dtype=torch.bool))])
spared = "torch._dynamo.symbolic_convert", "torch._inductor", "torch.distributed.tensor"
print([name for name in spared if name in sys.modules], torch.distributed.is_available())
from torch._dynamo import explain
print(spared[0] in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["[] True", "True"], done.stderr
