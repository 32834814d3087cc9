"""SAM over a Hugging Face SamModel folder: encode a picture once, segment it at each click.

Follows the release (arXiv 2304.02643): longest side to the model's size, zero padding right and
bottom, mask token 0 for a single mask, tokens 1-3 for the three readings of one ambiguous click,
logits upsampled before the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adapters.folder import Source, open_model, read_settings
from adapters.frozen import Frozen
from adapters.vision import Normalisation
from qformer.contracts import CheckpointError, RegionError, Segmentation, SegmentPrompt


@dataclass
class SamEmbedding:
    """An encoded picture."""

    embedding: Tensor  # (1, channels, rows, columns)
    size: tuple[int, int]  # (height, width) of the picture
    scaled_size: tuple[int, int]  # of the picture inside the padded input

    @property
    def scale(self) -> tuple[float, float]:
        """Factors of x and y from picture to input."""
        (height, width), (rows, columns) = self.size, self.scaled_size
        return columns / width, rows / height


class SamSegmenter(Frozen):
    """qformer's Segmenter over a SamModel."""

    def __init__(self, model: Any, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.input_size: int = model.config.vision_config.image_size
        self.mean: Tensor
        self.std: Tensor
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)
        # SAM was released with torch's default; transformers' configs say 1e-6.
        for module in model.mask_decoder.transformer.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-5
        self.freeze()

    @classmethod
    def open(
        cls, source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        model_type = read_settings(source, "config.json", revision).get("model_type")
        if model_type != "sam":
            raise CheckpointError(f"{source} is a {model_type!r} model, not 'sam': choose another")
        model = open_model(source, dtype, revision, "SamModel")
        return cls(model, Normalisation.open(source, revision))

    def preprocess(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(H, W, 3) uint8 -> pixel_values (3, size, size) and the picture's (h, w) inside."""
        from PIL import Image

        height, width = image.shape[:2]
        scale = self.input_size / max(height, width)
        rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        # Pillow rather than torch: equal to the release to the last bit.
        picture = Image.fromarray(image.cpu().numpy())
        scaled = picture.resize((columns, rows), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8)
        values = pixels.view(rows, columns, 3).permute(2, 0, 1).to(self.mean.device).float() / 255
        values = (values - self.mean) / self.std
        right, bottom = self.input_size - columns, self.input_size - rows
        return F.pad(values, (0, right, 0, bottom)), (rows, columns)

    @torch.no_grad()
    def encode(self, image: Tensor) -> SamEmbedding:
        pixel_values, scaled_size = self.preprocess(image)
        embedding = self.model.get_image_embeddings(pixel_values[None].to(self.dtype))
        return SamEmbedding(embedding, (image.shape[0], image.shape[1]), scaled_size)

    def segment(self, embedding: SamEmbedding, prompt: SegmentPrompt) -> Segmentation:
        """Three proposals for a lone click, which may mean a part or the whole; else one.

        Raises RegionError for a prompt that names nothing.
        """
        if not prompt.points and prompt.box is None and prompt.logits is None:
            raise RegionError("nothing is pointed at: give a point, a box or earlier logits")
        lone_click = len(prompt.points) == 1 and prompt.box is None and prompt.logits is None
        logits, scores = self.decode(embedding, prompt, multimask=lone_click)
        order = scores.argsort(descending=True)
        logits, scores = logits[order], scores[order]
        region_masks = torch.stack([self.upsample(one, embedding) > 0 for one in logits])
        return Segmentation(region_masks, scores.clamp(0, 1), logits)

    @torch.no_grad()
    def decode(
        self, embedding: SamEmbedding, prompt: SegmentPrompt, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (m, h, w) and predicted IoU (m,), in the model's order."""
        x_scale, y_scale = embedding.scale
        scale = torch.tensor([x_scale, y_scale], device=self.device)
        arguments: dict[str, Tensor] = {}
        if prompt.points:
            points = torch.tensor(prompt.points, dtype=torch.float32, device=self.device)
            arguments["input_points"] = (points[:, :2] * scale)[None, None]
            arguments["input_labels"] = points[None, None, :, 2].long()
        if prompt.box is not None:
            box = torch.tensor(prompt.box, dtype=torch.float32, device=self.device)
            arguments["input_boxes"] = (box * scale.repeat(2))[None, None]
        if prompt.logits is not None:
            arguments["input_masks"] = prompt.logits[None, None].to(self.device, self.dtype)
        output = self.model(
            image_embeddings=embedding.embedding, multimask_output=multimask, **arguments
        )
        return output.pred_masks[0, 0].float(), output.iou_scores[0, 0].float()

    def upsample(self, logits: Tensor, embedding: SamEmbedding) -> Tensor:
        """(h, w) -> logits (H, W) of the picture, the padding cut away."""
        rows, columns = embedding.scaled_size
        size = (self.input_size, self.input_size)
        full = F.interpolate(logits[None, None], size, mode="bilinear", align_corners=False)
        full = full[..., :rows, :columns]
        full = F.interpolate(full, embedding.size, mode="bilinear", align_corners=False)
        return full[0, 0]
