"""What can be said of the container without building it."""

import re
import tomllib
from pathlib import Path

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


def test_the_image_does_not_run_as_root_and_says_how_it_is():
    assert instructions("USER") == ["loupe"]
    (check,) = instructions("HEALTHCHECK")
    assert "/health" in check
    assert instructions("ENTRYPOINT")[0].startswith('["loupe", "chat"')


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
