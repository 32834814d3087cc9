"""Loupe's bridge: a Q-Former that reads pictures and their regions. Needs torch alone.

A name is imported when it is first used, so that the errors and settings in `contracts` cost no
import of torch: the command line answers, and the chat's page is served, before that is done.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .assistant import Assistant, AssistantConfig
    from .bridge import Bridge, BridgeConfig, PassRows
    from .config import QFormerConfig, from_dict
    from .contracts import (
        Capabilities,
        CheckpointError,
        Decoding,
        ImageError,
        LoupeError,
        QuestionError,
        RegionError,
        Segmentation,
        SegmentPrompt,
        StoppedError,
    )
    from .conversation import Conversation, Turn
    from .prompt import PromptConfig
    from .proposals import Everything, Proposal
    from .qformer import ImageMemory, QFormer, QFormerOutput
    from .regions import Region, RegionConfig, RegionUpgrade
    from .stage1 import Stage1
    from .view import View

__all__ = [
    "Assistant",
    "AssistantConfig",
    "Bridge",
    "BridgeConfig",
    "Capabilities",
    "CheckpointError",
    "Conversation",
    "Decoding",
    "Everything",
    "ImageError",
    "ImageMemory",
    "LoupeError",
    "PassRows",
    "PromptConfig",
    "Proposal",
    "QFormer",
    "QFormerConfig",
    "QFormerOutput",
    "QuestionError",
    "Region",
    "RegionConfig",
    "RegionError",
    "RegionUpgrade",
    "SegmentPrompt",
    "Segmentation",
    "Stage1",
    "StoppedError",
    "Turn",
    "View",
    "from_dict",
]

_HOMES = ("contracts", "config", "prompt", "proposals", "qformer", "regions", "bridge",
          "conversation", "view", "assistant", "stage1")  # fmt: skip


def __getattr__(name: str) -> Any:
    for home in _HOMES if name in __all__ else ():
        if hasattr(module := import_module(f".{home}", __name__), name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
