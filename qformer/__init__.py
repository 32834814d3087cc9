"""Loupe's bridge: a Q-Former that reads pictures and their regions. Needs torch alone."""

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
from .stage1 import Stage1

__all__ = [
    "CheckpointError",
    "Decoding",
    "ImageError",
    "ImageMemory",
    "LoupeError",
    "QFormer",
    "QFormerConfig",
    "QFormerOutput",
    "QuestionError",
    "RegionError",
    "SegmentPrompt",
    "Segmentation",
    "Stage1",
    "from_dict",
]
