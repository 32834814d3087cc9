"""SAM 3 over Hugging Face folders: all that fits a text or resembles exemplars; clicks through its
tracker, which works as SAM 2 does.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from adapters.folder import open_model
from adapters.grow import grow
from adapters.prompts import Prompts
from adapters.roi import roi_align
from adapters.segmenter import Embedding
from adapters.segmenter_folder import FolderSegmenter
from adapters.segmenter_sam2 import Sam2Segmenter
from adapters.source import ModelSource, Source
from adapters.vision import Normalisation
from qformer.contracts import Capabilities, CheckpointError, RegionError
from qformer.proposals import Proposal

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
TEXT_LENGTH = 32  # tokens of a text, padding included, as released
NO_TEXT = "visual"  # stands for a text where exemplars speak alone, as released
LICENCE = "SAM License"


class Sam3TrackerSegmenter(Sam2Segmenter):
    """Clicks, boxes and masks: SAM 3's tracker on one picture."""

    family = "sam3_tracker"
    kinds = ("sam3_tracker", "sam3_tracker_video")
    architecture = "Sam3TrackerModel"
    capabilities = Capabilities(resize="stretched", licence=LICENCE)
    normal = HALF


class Sam3Segmenter(Sam3TrackerSegmenter):
    """The detector, and the tracker where the folder holds both ("sam3_video", as published)."""

    family = "sam3"
    kinds = ("sam3", "sam3_video")

    def __init__(
        self, detector: Any, tracker: Any | None, normalisation: Normalisation, words: Any
    ) -> None:
        if tracker is not None:
            super().__init__(tracker, normalisation)
        else:  # what takes clicks is missing
            super(FolderSegmenter, self).__init__(detector, image_size(detector), normalisation)
        self.clicks = tracker is not None
        self.capabilities = Capabilities(
            points=self.clicks, negatives=self.clicks, boxes=self.clicks,
            box_and_points=self.clicks, logits=self.clicks, several=self.clicks,
            text=True, exemplars=True, resize="stretched", licence=LICENCE,
        )  # fmt: skip
        self.detector = detector
        self.words = words
        if tracker is not None:  # both were published with one backbone: keep it, and run it, once
            backbone = Once(detector.vision_encoder.backbone)
            detector.vision_encoder.backbone = tracker.vision_encoder.backbone = backbone
        stand_in_for_torchvision()
        self.freeze()

    @classmethod
    def open(cls, source: Source, dtype: torch.dtype = torch.float32) -> Self:
        from transformers import AutoTokenizer

        source = ModelSource.of(source)
        kind = source.model_type
        if kind not in cls.kinds:
            raise CheckpointError(f"{source} is a {kind!r} model, not 'sam3': choose another")
        detector = open_model(source, dtype, "Sam3Model")
        tracker = open_model(source, dtype, cls.architecture) if kind == "sam3_video" else None
        try:
            words = AutoTokenizer.from_pretrained(**source.pinned)
        except Exception as error:
            raise CheckpointError(
                f"{source} has no tokenizer that opens ({type(error).__name__}): copy the whole"
                " folder again"
            ) from error
        return cls(detector, tracker, cls.normalisation(source), words)

    @property
    def low_size(self) -> int:
        return super().low_size if self.clicks else self.input_size // 4

    def features(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The tracker's three feature maps, if any, then the detector's."""
        seen = self.detector.vision_encoder(pixel_values)
        clicked: tuple[Tensor, ...] = ()
        if self.clicks:
            clicked = super().features(pixel_values)
            self.detector.vision_encoder.backbone.forget()
        return (*clicked, *seen.fpn_hidden_states[:-1])

    def decode(self, embedding: Embedding, prompts: Prompts) -> tuple[Tensor, Tensor]:
        if not self.clicks:
            raise RegionError("this SAM 3 folder holds no tracker and reads no clicks: give a text")
        return super().decode(embedding, prompts)

    @torch.no_grad()
    def find(
        self,
        embedding: Embedding,
        text: str,
        exemplars: Sequence[tuple[tuple[float, float, float, float], int]] = (),
        threshold: float = 0.3,
    ) -> list[Proposal]:
        """All that fits a text, or is like (label 1) or unlike (0) the exemplars' boxes."""
        self.check(embedding)
        if not text.strip() and not exemplars:
            raise RegionError("there is nothing to find: give a text, or a box around an example")
        read = self.words(
            text.strip() or NO_TEXT, padding="max_length", max_length=TEXT_LENGTH,
            truncation=True, return_tensors="pt",
        ).to(self.device)  # fmt: skip
        maps = embedding.features[-(len(embedding.features) - 3 * self.clicks) :]
        place = self.detector.vision_encoder.neck.position_encoding
        places = tuple(place(one.shape, one.device, one.dtype) for one in maps)
        # The model leaves out the coarsest map and its positions: any last one will do.
        seen = types.SimpleNamespace(
            fpn_hidden_states=(*maps, maps[-1]), fpn_position_encoding=(*places, places[-1]),
            hidden_states=None, attentions=None,
        )  # fmt: skip
        boxes, labels = self._exemplars(exemplars, embedding)
        output = self.detector(
            vision_embeds=seen,
            text_embeds=self.detector.get_text_features(**read, return_dict=True),
            attention_mask=read["attention_mask"],
            input_boxes=boxes,
            input_boxes_labels=labels,
        )
        scores = (output.pred_logits[0].sigmoid() * output.presence_logits[0].sigmoid()).float()
        order = scores.argsort(descending=True)
        found = []
        for index in order[scores[order] > threshold].tolist():
            chance = output.pred_masks[0, index].float().sigmoid()
            region_mask = grow(chance, *self.sides(embedding, chance)) > 0.5
            if region_mask.any():
                found.append(Proposal.of(region_mask, float(scores[index])))
        return found

    def _exemplars(
        self,
        exemplars: Sequence[tuple[tuple[float, float, float, float], int]],
        embedding: Embedding,
    ) -> tuple[Tensor | None, Tensor | None]:
        """(1, n, 4) boxes as centre and size, relative to the picture; (1, n) labels."""
        if not exemplars:
            return None, None
        height, width = embedding.size
        corners = torch.tensor([box for box, _ in exemplars], dtype=torch.float32)
        corners = corners / torch.tensor([width, height, width, height])
        low, high = corners[:, :2], corners[:, 2:]
        boxes = torch.cat([(low + high) / 2, high - low], 1)[None].to(self.device, self.dtype)
        labels = torch.tensor([[label for _, label in exemplars]], device=self.device)
        return boxes, labels


class Once(nn.Module):
    """A backbone that two readers of the same pixels share: it runs for the first of them."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.forget()

    def forget(self) -> None:
        self.pixel_values: Tensor | None = None
        self.output: Any = None

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        if self.pixel_values is not pixel_values:
            self.pixel_values, self.output = pixel_values, self.backbone(pixel_values, **kwargs)
        return self.output


def image_size(detector: Any) -> int:
    size = detector.vision_encoder.config.backbone_config.image_size
    return size if isinstance(size, int) else size[0]


def stand_in_for_torchvision() -> None:
    """transformers' SAM 3 calls one function of torchvision, for exemplars: give it ours where
    torchvision is not to be had."""
    from transformers.models.sam3 import modeling_sam3

    if not hasattr(modeling_sam3, "torchvision"):
        ops = types.SimpleNamespace(roi_align=roi_align)
        modeling_sam3.torchvision = types.SimpleNamespace(ops=ops)
