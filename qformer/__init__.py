"""Loupe's bridge: a Q-Former that reads pictures and their regions. Needs torch alone."""

from .bridge import Bridge, BridgeConfig, PassRows
from .config import QFormerConfig, from_dict
from .contracts import (
    CheckpointError,
    Decoding,
    ImageError,
    LoupeError,
    QuestionError,
    RegionError,
    Segmentation,
    SegmentPrompt,
)
from .qformer import ImageMemory, QFormer, QFormerOutput
from .regions import Region, RegionConfig, RegionUpgrade
from .stage1 import Stage1

__all__ = [
    "Bridge",
    "BridgeConfig",
    "CheckpointError",
    "Decoding",
    "ImageError",
    "ImageMemory",
    "LoupeError",
    "PassRows",
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
    "from_dict",
]
