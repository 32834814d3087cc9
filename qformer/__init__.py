"""Loupe's bridge: a Q-Former that reads pictures and their regions. Needs torch alone."""

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
