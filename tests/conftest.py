"""What all tests share: tiny random models, one folder of each kind a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import tiny_segmenters
import torch

# Before anything imports the hub's library: no test waits for a network, or needs one.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny models are fastest so, and give the same numbers everywhere."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Callable[[str], Path]:
    """tiny_folder("llama"): the folder of one builder of tests/tiny.py or tiny_segmenters.py, made
    once, not to be changed."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            build = getattr(tiny, name, None) or getattr(tiny_segmenters, name)
            made[name] = build(tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="session")
def tiny_assistant(tiny_folder):
    """A whole assistant of random weights: ViT, Llama, SAM and an instruct bridge."""
    from adapters.build import build

    return build(tiny_folder("loupe"))


@pytest.fixture
def image() -> torch.Tensor:
    """A picture of noise, 60 wide and 40 high."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=generator)
