"""The only door to foreign models: encoders, language models, segmenters, checkpoints, pictures."""

from adapters.build import build
from adapters.images import load_image

__all__ = ["build", "load_image"]
