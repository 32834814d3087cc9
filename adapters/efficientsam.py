"""EfficientSAM's network (Xiong et al. 2023, arXiv 2312.00863), its weights under their own names.

A plain ViT encoder, and SAM's decoder with other details: GELU throughout, GroupNorm, positions
that enter the values and the residual as well, and six slots for points. transformers has no such
model, and SAM's decoder there cannot hold these weights.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qformer.contracts import LoupeError

SLOTS = 6  # points a prompt has; missing ones are embedded as "invalid"
INVALID, NEGATIVE, POINT, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3  # labels


@dataclass(frozen=True)
class EfficientSamConfig:
    """The released shapes: width 192 and 3 heads (Ti), 384 and 6 (S). positions: patches a side
    in pretraining; channels: of the image embedding; upscaling: of the two upscaling steps."""

    image_size: int = 1024
    patch_size: int = 16
    width: int = 192
    depth: int = 12
    heads: int = 3
    positions: int = 14
    channels: int = 256
    decoder_heads: int = 8
    decoder_layers: int = 2
    decoder_mlp: int = 2048
    iou_hidden: int = 256
    upscaling: tuple[int, int] = (64, 32)

    def __post_init__(self) -> None:
        for whole, part in (("image_size", "patch_size"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise LoupeError(
                    f"{whole}={getattr(self, whole)} is not a multiple of"
                    f" {part}={getattr(self, part)}; change one"
                )
        if self.channels % (2 * self.decoder_heads):
            raise LoupeError(
                f"channels={self.channels} is not a multiple of twice"
                f" decoder_heads={self.decoder_heads}; change one"
            )

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ImageEncoder(nn.Module):
    """A ViT with global attention throughout, and SAM's neck."""

    def __init__(self, config: EfficientSamConfig) -> None:
        super().__init__()
        width, channels, patch = config.width, config.channels, config.patch_size
        self.grid = config.grid
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.positions**2, width))
        blocks = [EncoderBlock(width, config.heads) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.neck = nn.Sequential(
            nn.Conv2d(width, channels, 1, bias=False),
            ChannelNorm(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, size, size) -> (B, channels, grid, grid)."""
        x = self.patch_embed["proj"](pixel_values)
        places = self.pos_embed[:, 1:].transpose(1, 2)  # without the class token's
        places = places.unflatten(2, (math.isqrt(places.shape[2]), -1))
        if places.shape[-1] != self.grid:
            size = (self.grid, self.grid)
            places = F.interpolate(places, size, mode="bicubic", align_corners=False)
        x = (x + places).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.neck(x.transpose(1, 2).unflatten(2, (self.grid, self.grid)))


class Positions(nn.Module):
    """Random Fourier features of places in [0, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.positional_encoding_gaussian_matrix: Tensor
        matrix = torch.randn(2, channels // 2)
        self.register_buffer("positional_encoding_gaussian_matrix", matrix)

    def forward(self, places: Tensor) -> Tensor:
        """(..., 2) -> (..., channels)."""
        matrix = self.positional_encoding_gaussian_matrix.float()
        angles = 2 * math.pi * ((2 * places.float() - 1) @ matrix)
        features = torch.cat([angles.sin(), angles.cos()], -1)
        return features.to(self.positional_encoding_gaussian_matrix.dtype)


class PromptEncoder(nn.Module):
    def __init__(self, config: EfficientSamConfig) -> None:
        super().__init__()
        self.size, self.grid = config.image_size, config.grid
        self.pe_layer = Positions(config.channels)
        self.invalid_points = nn.Embedding(1, config.channels)
        self.point_embeddings = nn.Embedding(1, config.channels)
        self.bbox_top_left_embeddings = nn.Embedding(1, config.channels)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, config.channels)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points (n, k, 2) in pixels of the input and labels (n, k) -> (n, SLOTS, channels).

        Further points than SLOTS are cut, as released; a negative click is a place without a kind.
        """
        points, labels = points[:, :SLOTS], labels[:, :SLOTS]
        missing = SLOTS - points.shape[1]
        points = F.pad(points.float(), (0, 0, 0, missing), value=-1.0)
        labels = F.pad(labels, (0, missing), value=INVALID)
        tokens = self.pe_layer((points + 0.5) / self.size)
        for label, kind in (
            (INVALID, self.invalid_points),
            (POINT, self.point_embeddings),
            (TOP_LEFT, self.bbox_top_left_embeddings),
            (BOTTOM_RIGHT, self.bbox_bottom_right_embeddings),
        ):
            tokens = tokens + kind.weight * (labels == label)[..., None]
        return tokens

    def image_positions(self) -> Tensor:
        """(1, grid * grid, channels)."""
        middle = torch.arange(self.grid, device=self.invalid_points.weight.device) + 0.5
        y, x = torch.meshgrid(middle / self.grid, middle / self.grid, indexing="ij")
        return self.pe_layer(torch.stack([x, y], -1)).flatten(0, 1)[None]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, shrink: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(width, width // shrink) for _ in range(3)
        )
        self.out_proj = nn.Linear(width // shrink, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(n, tokens, width) each; q, or k and v, may have n = 1, for all."""
        rows = max(len(q), len(k))
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(rows, -1, -1, -1)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """`layers` hidden layers with GELU, then a linear one."""

    def __init__(self, inward: int, hidden: int, outward: int, layers: int) -> None:
        super().__init__()
        widths = [inward] + [hidden] * layers
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in itertools.pairwise(widths)
        )
        self.fc = nn.Linear(hidden, outward)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.fc(x)


class TwoWayBlock(nn.Module):
    """Prompts read themselves, then the picture; then the picture reads the prompts."""

    def __init__(self, config: EfficientSamConfig, first: bool) -> None:
        super().__init__()
        width, heads = config.channels, config.decoder_heads
        self.first = first
        self.self_attn = Attention(width, heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.cross_attn_token_to_image = Attention(width, heads, shrink=2)
        self.mlp = Perceptron(width, config.decoder_mlp, width, layers=1)
        self.cross_attn_image_to_token = Attention(width, heads, shrink=2)

    def forward(self, tokens: Tensor, image: Tensor, asked: Tensor, places: Tensor):
        """tokens, asked: (n, t, c), the prompts now and as they came; image: (1 or n, hw, c);
        places: (1, hw, c)."""
        if not self.first:
            tokens = tokens + asked
        tokens = self.norm1(tokens + self.self_attn(tokens, tokens, tokens))
        found = self.cross_attn_token_to_image(tokens + asked, image + places, image)
        tokens = self.norm2(tokens + found)
        tokens = self.norm3(tokens + self.mlp(tokens))
        told = self.cross_attn_image_to_token(image + places, tokens + asked, tokens)
        return tokens, self.norm4(image + told)


class TwoWayTransformer(nn.Module):
    def __init__(self, config: EfficientSamConfig) -> None:
        super().__init__()
        layers = range(config.decoder_layers)
        self.layers = nn.ModuleList(TwoWayBlock(config, first=layer == 0) for layer in layers)
        self.final_attn_token_to_image = Attention(config.channels, config.decoder_heads, shrink=2)
        self.norm_final_attn = nn.LayerNorm(config.channels)

    def forward(self, asked: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer projects the picture once for all prompts, not once for each."""
        tokens = asked
        for layer in self.layers:
            tokens, image = layer(tokens, image, asked, places)
        found = self.final_attn_token_to_image(tokens + asked, image + places, image)
        return self.norm_final_attn(tokens + found), image


class MaskDecoder(nn.Module):
    MASKS = 4  # token 0 a single mask, 1-3 the three readings of an ambiguous prompt

    def __init__(self, config: EfficientSamConfig) -> None:
        super().__init__()
        channels, (middle, last) = config.channels, config.upscaling
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(self.MASKS, channels)
        self.transformer = TwoWayTransformer(config)
        self.final_output_upscaling_layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(channels, middle, 2, 2), nn.GroupNorm(1, middle), nn.GELU()
                ),
                nn.Sequential(nn.ConvTranspose2d(middle, last, 2, 2), nn.Identity(), nn.GELU()),
            ]
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(channels, channels, last, layers=2) for _ in range(self.MASKS)
        )
        self.iou_prediction_head = Perceptron(channels, config.iou_hidden, self.MASKS, layers=2)

    def forward(self, image: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """image (1, c, grid, grid), places (1, grid * grid, c), prompts (n, SLOTS, c) -> logits
        (n, MASKS, 4 grid, 4 grid) and predicted IoU (n, MASKS)."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        asked = torch.cat([own.expand(len(prompts), -1, -1), prompts], 1)
        tokens, seen = self.transformer(asked, image.flatten(2).transpose(1, 2), places)
        seen = seen.transpose(1, 2).unflatten(2, image.shape[-2:])
        for layer in self.final_output_upscaling_layers:
            seen = layer(seen)
        readings = zip(self.output_hypernetworks_mlps, tokens[:, 1:].unbind(1), strict=False)
        weights = torch.stack([network(token) for network, token in readings], 1)
        logits = (weights @ seen.flatten(2)).unflatten(2, seen.shape[-2:])
        return logits, self.iou_prediction_head(tokens[:, 0])


class EfficientSam(nn.Module):
    def __init__(self, config: EfficientSamConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config)
