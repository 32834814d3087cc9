"""What can be said of the container without building it."""

import json
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from demo.cli import parse

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_the_image_is_given_all_that_the_package_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {
        name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    copied = {word for line in instructions("COPY") for word in line.split()[:-1]}
    assert rooms <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied
    assert all((ROOT / name).exists() for name in copied)
    let_in = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert set(let_in) == copied


def test_the_image_installs_extras_that_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (named,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert "demo" in named.split(",")
    assert set(named.split(",")) <= set(project["optional-dependencies"])


def test_the_image_does_not_run_as_root_and_starts_a_chat_that_others_reach():
    assert instructions("USER") == ["loupe"]
    program, *words = json.loads(instructions("ENTRYPOINT")[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert program in project["scripts"]
    args = parse(words)
    assert (args.command, args.host) == ("chat", "0.0.0.0")
    assert instructions("EXPOSE") == [str(args.port)]


def test_the_image_is_healthy_once_the_model_is_ready():
    (check,) = instructions("HEALTHCHECK")
    program, option, code = json.loads(check.partition(" CMD ")[2])
    assert (program, option) == ("python", "-c")

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"status": "ok", "ready": self.server.ready}).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever).start()
        asks = code.replace("127.0.0.1:7860", f"127.0.0.1:{server.server_port}")
        assert asks != code
        for server.ready, status in ((False, 1), (True, 0)):
            assert subprocess.run([sys.executable, option, asks]).returncode == status
        server.shutdown()


def test_the_compose_file_starts_what_is_built_with_options_that_exist():
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert set(services) == {"cpu", "cuda"}
    for service in services.values():
        args = parse(["chat", "--host", "0.0.0.0", *service.get("command", [])])
        assert args.port == 7860
        assert service["ports"] == ["127.0.0.1:7860:7860"]  # a proxy stands in front
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert "LOUPE_AUTH" in service["environment"]
    assert services["cuda"]["command"][:2] == ["--device", "cuda"]
