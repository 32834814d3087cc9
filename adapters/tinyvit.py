"""TinyViT as MobileSAM's image encoder (Wu et al. 2022, arXiv 2207.10666; 2306.14289).

Weights under the release's own names. Convolutions first, then attention in windows with a learned
bias for each offset; the last stage keeps its resolution, so that the grid is SAM's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.efficientsam import ChannelNorm
from qformer.contracts import LoupeError


@dataclass(frozen=True)
class TinyVitConfig:
    """The shape released with MobileSAM (5M). strides: of the steps between stages."""

    image_size: int = 1024
    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    strides: tuple[int, ...] = (2, 2, 1)
    channels: int = 256

    def __post_init__(self) -> None:
        lengths = {len(one) for one in (self.widths, self.depths, self.heads, self.windows)}
        if lengths != {len(self.strides) + 1}:
            raise LoupeError(
                f"widths={self.widths}, depths, heads and windows need one entry a stage, strides"
                f"={self.strides} one less"
            )
        if self.image_size % self.patch:
            raise LoupeError(f"image_size={self.image_size} is not a multiple of {self.patch}")

    @property
    def patch(self) -> int:
        """Pixels a side of what becomes one place of the grid."""
        patch = 4
        for stride in self.strides:
            patch *= stride
        return patch


class ConvolutionNorm(nn.Sequential):
    def __init__(self, inward: int, outward: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        padding = kernel // 2
        conv = nn.Conv2d(inward, outward, kernel, stride, padding, groups=groups, bias=False)
        self.add_module("c", conv)
        self.add_module("bn", nn.BatchNorm2d(outward))


class ConvolutionBlock(nn.Module):
    """Widen, look around, narrow; residual (MobileNetV2's)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = 4 * width
        self.conv1 = ConvolutionNorm(width, wide, 1)
        self.conv2 = ConvolutionNorm(wide, wide, 3, groups=wide)
        self.conv3 = ConvolutionNorm(wide, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Merging(nn.Module):
    """The step between two stages: other channels and, where stride is 2, half the places."""

    def __init__(self, width: int, outward: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvolutionNorm(width, outward, 1)
        self.conv2 = ConvolutionNorm(outward, outward, 3, stride, groups=outward)
        self.conv3 = ConvolutionNorm(outward, outward, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class WindowAttention(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        # Offsets are numbered as they first occur, row by row, which is row by row of (dy, dx).
        places = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offsets = (places[:, None] - places[None]).abs()
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.offsets: Tensor
        index = offsets[..., 0] * window + offsets[..., 1]
        self.register_buffer("offsets", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(windows, places, width)."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (self.heads, 3, -1)).unbind(3)
        q, k, v = (one.transpose(1, 2) for one in (q, k, v))
        bias = self.attention_biases[:, self.offsets]
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(read.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class AttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvolutionNorm(width, width, 3, groups=width)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w)."""
        batch, _, height, width = x.shape
        side = self.window
        down, across = -height % side, -width % side
        tiles = F.pad(x, (0, across, 0, down)).permute(0, 2, 3, 1)
        rows, columns = (height + down) // side, (width + across) // side
        tiles = tiles.unflatten(1, (rows, side)).unflatten(3, (columns, side))
        tiles = tiles.transpose(2, 3).flatten(3, 4).flatten(0, 2)  # (windows, places, width)
        read = self.attn(tiles).unflatten(0, (batch, rows, columns)).unflatten(3, (side, side))
        read = read.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        x = self.local_conv(x + read.permute(0, 3, 1, 2))
        return x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    def __init__(self, config: TinyVitConfig, index: int) -> None:
        super().__init__()
        width, heads, window = (
            each[index] for each in (config.widths, config.heads, config.windows)
        )
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, window) if index else ConvolutionBlock(width)
            for _ in range(config.depths[index])
        )
        self.downsample: nn.Module | None = None
        if index < len(config.strides):
            self.downsample = Merging(width, config.widths[index + 1], config.strides[index])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvolutionNorm(3, width // 2, 3, 2),
            nn.GELU(),
            ConvolutionNorm(width // 2, width, 3, 2),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.seq(pixel_values)


class TinyVit(nn.Module):
    """(B, 3, size, size) -> (B, channels, grid, grid)."""

    def __init__(self, config: TinyVitConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbedding(config.widths[0])
        self.layers = nn.ModuleList(Stage(config, index) for index in range(len(config.widths)))
        channels = config.channels
        self.neck = nn.Sequential(
            nn.Conv2d(config.widths[-1], channels, 1, bias=False),
            ChannelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patch_embed(pixel_values)
        for layer in self.layers:
            x = layer(x)
        return self.neck(x)
