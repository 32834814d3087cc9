"""EfficientNet-Lite (arXiv 1905.11946, without squeeze-and-excitation): a convolutional trunk.

Its released weights are a plain state dict, from which the widths and the depth are read; only the
strides of the seven stages are fixed. Batch norms are folded into the convolutions before them, so
that the module computes less than it was trained as, and has convolutions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.packages import PREFIX, locate_package
from adapters.release import read_weights, weight_file
from adapters.source import Source
from adapters.weights import SINGLE
from qformer.contracts import CheckpointError

STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each stage; a stage has one output width
LITE0 = (  # of each stage: blocks, kernel, widening inside a block, output width
    (1, 3, 1, 16), (2, 3, 6, 24), (2, 5, 6, 40), (3, 3, 6, 80), (3, 5, 6, 112), (4, 5, 6, 192),
    (1, 3, 6, 320),
)  # fmt: skip
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
        self.head_width = head.shape[0]
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


def open_trunk(source: Source) -> EfficientNetLite:
    """A trunk from a state dict under the released names: a file, a folder with model.safetensors,
    or "package:" and a part's name (adapters/packages.py). Raises CheckpointError."""
    if str(source).startswith(PREFIX):
        source = locate_package(str(source).removeprefix(PREFIX))
    return EfficientNetLite(read_weights(weight_file(source, (SINGLE,))))


def locate_trunk(path: str, beside: Path) -> str:
    """A trunk's source as it holds wherever one stands: a package's name as it is, a path from the
    folder on that names it."""
    return path if path.startswith(PREFIX) else str((beside / path).resolve())


def lite0_state(device: str = "meta") -> dict[str, Tensor]:
    """The names and shapes of Lite0's released weights, empty; to count and to plan."""
    state: dict[str, Tensor] = {}

    def conv(name: str, norm: str, out: int, width: int, kernel: int) -> None:
        state[f"{name}.weight"] = torch.empty(out, width, kernel, kernel, device=device)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{part}"] = torch.empty(out, device=device)

    conv("_conv_stem", "_bn0", 32, 3, 3)
    width, number = 32, 0
    for blocks, kernel, widening, out in LITE0:
        for _ in range(blocks):
            block, inner = f"_blocks.{number}", width * widening
            if widening > 1:
                conv(f"{block}._expand_conv", f"{block}._bn0", inner, width, 1)
            conv(f"{block}._depthwise_conv", f"{block}._bn1", inner, 1, kernel)
            conv(f"{block}._project_conv", f"{block}._bn2", out, inner, 1)
            width, number = out, number + 1
    conv("_conv_head", "_bn1", 1280, width, 1)
    state["_fc.weight"] = torch.empty(1000, 1280, device=device)
    state["_fc.bias"] = torch.empty(1000, device=device)
    return state
