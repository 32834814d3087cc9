"""What all segmenters share: how a picture goes in, how masks come out, what may be asked.

A family (SAM, SAM 2, ...) is a short subclass that says what it can be asked, and decodes.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adapters import everything
from adapters.components import Cleanup, clean, part_at
from adapters.frozen import Frozen
from adapters.grow import Side, inside, side
from adapters.prompts import Prompts
from adapters.vision import Normalisation
from qformer.contracts import Capabilities, RegionError, Segmentation, SegmentPrompt
from qformer.proposals import Everything, Proposal

EMBEDDING_LIMIT = 192 * 2**20  # bytes; in float32 SAM's takes 4 MB, SAM 2's 17, SAM 3's 132


@dataclass(frozen=True)
class Embedding:
    """An encoded picture, of a size that does not depend on the picture's."""

    features: tuple[Tensor, ...]
    size: tuple[int, int]  # (height, width) of the picture
    scaled_size: tuple[int, int]  # of the picture inside the input
    model: str  # the tag of the segmenter that made it
    picture: str  # the fingerprint of the picture

    @property
    def bytes(self) -> int:
        return sum(feature.numel() * feature.element_size() for feature in self.features)

    @property
    def scale(self) -> tuple[float, float]:
        """Factors of x and y from picture to input."""
        (height, width), (rows, columns) = self.size, self.scaled_size
        return columns / width, rows / height


@dataclass(frozen=True, eq=False)
class RegionMasks(Sequence[Tensor]):
    """The masks of low-resolution logits (m, h, w), cleaned of holes and specks: bool (H, W). A
    click shows one of its three, so each is made when it is asked for, and not kept."""

    logits: Tensor
    sides: tuple[Side, Side]
    cleanup: Cleanup

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return dataclasses.replace(self, logits=self.logits[place])
        return clean(inside(self.logits[place], *self.sides), self.cleanup)


class PromptableSegmenter(Frozen):
    """qformer's Segmenter. A family sets `capabilities` and gives `features` and `decode`."""

    family: ClassVar[str]
    capabilities: Capabilities
    pads: ClassVar[bool] = True  # longest side to the input, then zeros; else stretched
    grows: ClassVar[str] = "bilinear"  # how logits reach the picture's size
    usual = Everything(  # of everything mode; SAM's
        pred_iou_thresh=0.88, stability_score_thresh=0.95, stability_score_offset=1.0
    )
    # How near a reading must come to a lone click, in pixels of the low resolution; what of it is
    # not connected with that part goes. None: readings stay as they are, as SAM's do.
    click_reach: float | None = None

    def __init__(self, model: Any, input_size: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.model = model
        self.input_size = input_size
        self.cleanup = Cleanup()
        self.mean: Tensor
        self.std: Tensor
        mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    # What a family gives

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, size, size) -> what the frozen encoder says of pictures."""
        raise NotImplementedError

    def merge(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """That -> what the decoder reads. A family whose neck is trained does it here, for
        training keeps the features and comes here with gradients."""
        return features

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        """Low-resolution logits (n, m, h, w) and predicted IoU (n, m), in the model's own order.
        Gradients reach the decoder: training calls it."""
        raise NotImplementedError

    # What all do alike

    @cached_property
    def tag(self) -> str:
        """Tells one model's embeddings from another's: a few numbers of every weight."""
        digest = hashlib.blake2b(self.family.encode(), digest_size=12)
        for name, value in self.state_dict().items():
            few = value.flatten()[:16].float().cpu().numpy()
            digest.update(f"{name}{tuple(value.shape)}".encode() + few.tobytes())
        return f"{self.family}-{digest.hexdigest()}"

    @property
    def licence(self) -> str:
        return self.capabilities.licence

    def preprocess(self, image: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(H, W, 3) uint8 -> pixel_values (3, size, size) and the picture's (h, w) inside."""
        height, width = image.shape[:2]
        rows = columns = self.input_size
        if self.pads:
            scale = self.input_size / max(height, width)
            rows, columns = (max(1, int(side * scale + 0.5)) for side in (height, width))
        values = self.resize(image, (rows, columns)).to(self.mean.device)
        values = (values - self.mean) / self.std
        right, bottom = self.input_size - columns, self.input_size - rows
        return F.pad(values, (0, right, 0, bottom)), (rows, columns)

    def resize(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """(H, W, 3) uint8 -> (3, h, w) in [0, 1]; Pillow's bilinear filter, as SAM's release."""
        from PIL import Image

        picture = Image.fromarray(image.cpu().numpy())
        scaled = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = torch.frombuffer(bytearray(scaled.tobytes()), dtype=torch.uint8)
        return pixels.view(*size, 3).permute(2, 0, 1).float() / 255

    @torch.no_grad()
    def encode(self, image: Tensor) -> Embedding:
        """Image (H, W, 3) uint8 -> what `segment` reads."""
        pixel_values, scaled_size = self.preprocess(image)
        features = self.merge(self.features(pixel_values[None].to(self.dtype)))
        size = image.shape[0], image.shape[1]
        embedding = Embedding(features, size, scaled_size, self.tag, fingerprint(image))
        if embedding.bytes > EMBEDDING_LIMIT:
            raise RegionError(
                f"the segmenter's embedding takes {embedding.bytes / 2**20:.0f} MB and the limit is"
                f" {EMBEDDING_LIMIT // 2**20}: choose a smaller one"
            )
        return embedding

    def segment(self, embedding: Embedding, prompt: SegmentPrompt) -> Segmentation:
        """Up to three proposals for a lone click, which may mean a part or the whole; else one.

        Raises RegionError for a prompt that names nothing or that the model cannot read, and for
        an embedding of another model.
        """
        self.check(embedding)
        prompt, warnings = self.admit(prompt)
        lone_click = len(prompt.points) == 1 and prompt.box is None and prompt.logits is None
        several = lone_click and self.capabilities.several
        logits, scores = self.asked(embedding, prompt, several)
        order = scores.argsort(descending=True)
        if not several:
            order = order[:1]
        logits, scores = logits[order], scores[order]
        if lone_click and prompt.points[0][2] and self.click_reach is not None:
            logits, scores = self.at_click(embedding, prompt, logits, scores)
        region_masks = RegionMasks(logits, self.sides(embedding, logits), self.cleanup)
        return Segmentation(region_masks, scores.clamp(0, 1), logits, prompt, warnings)

    @torch.no_grad()
    def asked(
        self, embedding: Embedding, prompt: SegmentPrompt, several: bool
    ) -> tuple[Tensor, Tensor]:
        """A prompt in pixels of the picture, decoded: (m, h, w) and (m,), the model's order."""
        prompts = Prompts.of(prompt, embedding.scale, self.device, self.dtype, several)
        found, scores = self.decode(embedding, prompts)
        return found[0].float(), scores[0].float()

    def at_click(
        self, embedding: Embedding, prompt: SegmentPrompt, logits: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The readings (m, h, w) that have a part at the click, each without its other parts.
        Raises RegionError where none has."""
        x, y, _ = prompt.points[0]
        across, down = (scale * self.low_size / self.input_size for scale in embedding.scale)
        kept, places = [], []
        for place, values in enumerate(logits.cpu().numpy()):
            part = part_at(values > 0, x * across, y * down, self.click_reach or 0)
            if part is not None:
                kept.append(torch.from_numpy(np.where(part, values, -np.abs(values))))
                places.append(place)
        if not kept:
            raise RegionError(
                f"nothing stands out at ({x:.0f}, {y:.0f}): click on a thing, or draw a box around"
                " what you mean"
            )
        return torch.stack(kept).to(logits.device), scores[places]

    def admit(self, prompt: SegmentPrompt) -> tuple[SegmentPrompt, tuple[str, ...]]:
        """The prompt as this model reads it, and what the user should know of it."""
        able, warnings = self.capabilities, []
        if not prompt.points and prompt.box is None and prompt.logits is None:
            raise RegionError("nothing is pointed at: give a point, a box or earlier logits")
        if prompt.box is not None and not able.boxes:
            raise RegionError(f"{self.family} reads no boxes: click on the thing instead")
        if prompt.points and not able.points:
            raise RegionError(f"{self.family} reads no clicks: draw a box instead")
        if prompt.box is not None and prompt.points and not able.box_and_points:
            raise RegionError(f"{self.family} reads a box or clicks, not both: give one of them")
        slots = len(prompt.points) + 2 * (prompt.box is not None)
        if able.max_points is not None and slots > able.max_points:
            raise RegionError(
                f"{self.family} reads at most {able.max_points} points (a box is two), not {slots}:"
                " start the region anew with fewer clicks"
            )
        if not able.negatives and any(label == 0 for _, _, label in prompt.points):
            warnings.append(
                f"{self.family} was never trained on clicks that exclude: the result may ignore"
                " them"
            )
        logits, side = prompt.logits, self.low_size
        if logits is not None and not able.logits:
            if not prompt.points and prompt.box is None:
                raise RegionError(f"{self.family} reads no earlier mask: click, or draw a box")
            warnings.append(f"{self.family} reads no earlier mask: only the clicks count")
            prompt = SegmentPrompt(prompt.points, prompt.box)
        elif logits is not None and tuple(logits.shape) != (side, side):
            raise RegionError(
                f"the earlier logits are {tuple(logits.shape)} and {self.family} reads"
                f" {(side, side)}: use those of its own Segmentation"
            )
        return prompt, tuple(warnings)

    @property
    def low_size(self) -> int:
        """The side of low-resolution logits."""
        return self.input_size // 4

    def check(self, embedding: Embedding, image: Tensor | None = None) -> None:
        """Raises RegionError for an embedding of another model or, with image, of another one."""
        if embedding.model != self.tag:
            raise RegionError(
                f"the embedding was made by another model ({embedding.model}, this is {self.tag}):"
                " encode the picture again"
            )
        if image is not None and embedding.picture != fingerprint(image):
            raise RegionError("the embedding is of another picture: encode this one")

    # Low resolution -> picture

    def sides(self, embedding: Embedding, low: Tensor) -> tuple[Side, Side]:
        """The way of low-resolution logits (..., h, w) to the picture, down and across."""

        def one(axis: int) -> Side:
            small, full = low.shape[axis - 2], embedding.size[axis]
            kept = embedding.scaled_size[axis] if self.pads else small
            padded = self.input_size if self.pads else small
            return side(small, padded, kept, full, self.grows, low.device)

        return one(0), one(1)

    @torch.no_grad()
    def everything(
        self,
        image: Tensor,
        settings: Everything | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
        embedding: Embedding | None = None,
    ) -> list[Proposal]:
        """All that a grid of clicks finds; see qformer's Segmenter."""
        if embedding is not None:
            self.check(embedding, image)
        return everything.generate(
            self, image, self.settings(settings), progress, cancel, embedding
        )

    def settings(self, asked: Everything | None = None) -> Everything:
        """What `everything` goes by: as asked, the rest as it suits this model and device."""
        on_gpu = self.device.type != "cpu"
        grid = Everything(32, 64) if on_gpu else Everything(16, 8)
        return (asked or Everything()).over(self.usual).over(grid)

    def find(
        self,
        embedding: Embedding,
        text: str,
        exemplars: Sequence[tuple[tuple[float, float, float, float], int]] = (),
        threshold: float = 0.3,
    ) -> list[Proposal]:
        """All that fits a text; most families read none."""
        raise RegionError(
            f"{self.family} reads no text: choose a segmenter that does (--segmenter sam3)"
        )


def fingerprint(image: Tensor) -> str:
    """Tells one picture (H, W, 3) uint8 from another."""
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=12)
    digest.update(image.cpu().contiguous().numpy().data)
    return digest.hexdigest()
