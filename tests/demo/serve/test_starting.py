import asyncio
import socket
import subprocess
import sys

from starlette.applications import Starlette
from starlette.testclient import TestClient

from demo.models import Loader
from demo.serve.limits import Limits
from demo.serve.metrics import Metrics
from demo.serve.server import Late, listen, routes


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
