"""The foreign models Loupe knows, by the name a checkpoint's config.json gives them.

Each entry is called with (source, dtype) and returns a finished, frozen part. A new kind
is one function and one line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from adapters.hybrid import open_hybrid
from adapters.language_decoder import DecoderLanguageModel
from adapters.language_encoder_decoder import EncoderDecoderLanguageModel
from adapters.segmenter_efficientsam import EfficientSamSegmenter
from adapters.segmenter_lite import LiteSegmenter
from adapters.segmenter_mobilesam import MobileSamSegmenter
from adapters.segmenter_sam import SamHqSegmenter, SamSegmenter
from adapters.segmenter_sam2 import EdgeTamSegmenter, Sam2Segmenter
from adapters.segmenter_sam3 import Sam3Segmenter, Sam3TrackerSegmenter
from adapters.vision import open_clip, open_eva, open_vision_encoder

VISION_ENCODERS: dict[str, Callable[..., Any]] = {
    "hf": open_vision_encoder,
    "clip": open_clip,
    "eva": open_eva,
    "hybrid": open_hybrid,  # transformer blocks over a frozen EfficientNet-Lite
    "clip-trimmed": open_eva,  # CLIP without its last block, as LAVIS stores it
}
LANGUAGE_MODELS: dict[str, Callable[..., Any]] = {
    "decoder": DecoderLanguageModel.open,
    "encoder-decoder": EncoderDecoderLanguageModel.open,
}
SEGMENTERS: dict[str, Callable[..., Any]] = {  # by the model_type of their config.json
    "sam": SamSegmenter.open,
    "sam_hq": SamHqSegmenter.open,
    "sam2": Sam2Segmenter.open,
    "sam2_video": Sam2Segmenter.open,
    "sam3": Sam3Segmenter.open,
    "sam3_video": Sam3Segmenter.open,
    "sam3_tracker": Sam3TrackerSegmenter.open,
    "sam3_tracker_video": Sam3TrackerSegmenter.open,
    "efficientsam": EfficientSamSegmenter.open,
    "mobilesam": MobileSamSegmenter.open,
    "lite_sam": LiteSegmenter.open,
    "edgetam": EdgeTamSegmenter.open,
    "edgetam_video": EdgeTamSegmenter.open,
}
