"""A picture as the assistant has read it, and its regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .bridge import Focal, PassRows, covered, focal_slots
from .cache import Bounded
from .contracts import Decoding, RegionError, Segmentation, Segmenter, SegmentPrompt
from .conversation import Conversation
from .prompt import RESERVED_NAMES, assemble, instruction
from .proposals import Everything, Proposal
from .qformer import ImageMemory
from .regions import (
    Box,
    Region,
    check_pointed,
    focal_box,
    focal_crop,
    geometry,
    patch_coverage,
    placed,
)

if TYPE_CHECKING:
    from .assistant import Assistant

Source = Region | None  # what soft tokens are made of; None: the whole picture


@dataclass(frozen=True)
class Instruction:
    """The question as an instruct Q-Former reads it, one for all rows."""

    input_ids: Tensor  # (T,)
    has_geometry: Tensor  # bool (T,), the token names a region
    geometry: Tensor  # (T, 5)


class View:
    """One encoded picture. Made by `Assistant.encode`.

    All that is computed once is kept here, bounded, and may be dropped at any time
    (`drop_caches`) without changing an answer.
    """

    def __init__(self, assistant: Assistant, image: Tensor) -> None:
        self.assistant = assistant
        self.image = image  # uint8 (height, width, 3)
        self._names: set[str] = set()
        self._number = 0
        self.drop_caches()

    def drop_caches(self) -> None:
        """Forget all that can be computed again."""
        self._image_embeds: Tensor | None = None
        self._memory: ImageMemory | None = None
        self._segmenter_embedding: Any = None
        self._coverage: Bounded[Source, Tensor] = Bounded()
        self._crops: Bounded[Region, tuple[ImageMemory, Tensor]] = Bounded()
        self._tokens: Bounded[Source, Tensor] = Bounded()
        self._captions: Bounded[Source, str] = Bounded()

    def apart(self) -> View:
        """The same picture, read once for both, with regions and names of its own."""
        twin = View(self.assistant, self.image)
        twin._image_embeds, twin._memory = self._image_embeds, self.memory
        return twin

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def image_embeds(self) -> Tensor:
        """What the vision encoder says, (1, leading + patches, width)."""
        if self._image_embeds is None:
            self._image_embeds = self._encode([self.image])
        return self._image_embeds

    @property
    def memory(self) -> ImageMemory:
        """The Q-Former's cross-attention keys and values of the picture."""
        if self._memory is None:
            with torch.no_grad():
                self._memory = self.assistant.bridge.remember(self.image_embeds)
        return self._memory

    @property
    def encoded(self) -> bool:
        """Whether the picture was read and is not forgotten."""
        return self._memory is not None

    @property
    def familiar(self) -> bool:
        """Whether it looks like the training pictures; True where the bridge does not know."""
        familiarity = self.assistant.bridge.familiarity
        return familiarity is None or bool(familiarity.distance(self.image_embeds) <= 1)

    @staticmethod
    @torch.no_grad()
    def encode_together(views: Sequence[View]) -> None:
        """Encode the pictures of several Views of one Assistant in one step."""
        if not views:
            return
        image_embeds = views[0]._encode([view.image for view in views])
        memory = views[0].assistant.bridge.remember(image_embeds)
        index = torch.arange(len(views), device=image_embeds.device)
        for view, one, place in zip(views, image_embeds.split(1), index.split(1), strict=True):
            view._image_embeds = one
            view._memory = memory.select(place)

    @torch.no_grad()
    def _encode(self, images: Sequence[Tensor]) -> Tensor:
        vision, device = self.assistant.vision, self.assistant.device
        return vision.encode(torch.stack([vision.preprocess(i.to(device)) for i in images]))

    # Regions

    @torch.no_grad()
    def segment(
        self,
        points: Sequence[tuple[float, float, int]] = (),
        box: Box | None = None,
        logits: Tensor | None = None,
    ) -> Segmentation:
        """What the user points at: the segmenter's proposals, best first.

        points: (x, y, 1 add | 0 exclude) in pixels. logits: (h, w) of an earlier Segmentation,
        to refine it. Raises RegionError for a prompt outside the picture or without an area.
        """
        segmenter = self._segmenter
        check_pointed(self.size, points, box, logits)
        return segmenter.segment(self._segmented, SegmentPrompt(tuple(points), box, logits))

    def refine(
        self, found: Segmentation, index: int, points: Sequence[tuple[float, float, int]]
    ) -> Segmentation:
        """Proposal `index` of an earlier Segmentation with further clicks, (x, y, 1 | 0) each.

        Its logits are fed back where the segmenter reads them. Raises RegionError as `segment`.
        """
        if not 0 <= index < len(found.logits):
            raise RegionError(
                f"there is no proposal {index}: there are {len(found.logits)}, counted from 0"
            )
        asked = found.prompt
        logits = found.logits[index] if self._segmenter.capabilities.logits else None
        return self.segment((*asked.points, *points), asked.box, logits)

    @torch.no_grad()
    def everything(
        self,
        settings: Everything | None = None,
        progress: Callable[[int, int], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> list[Proposal]:
        """All that the segmenter finds by itself, best first; `region` makes a Region of one.

        progress: told (clicks done, clicks in all). cancel: asked now and then; True ends the work
        with StoppedError.
        """
        image = self.image.to(self.assistant.device)
        return self._segmenter.everything(image, settings, progress, cancel, self._segmented)

    @torch.no_grad()
    def find(
        self,
        text: str,
        exemplars: Sequence[tuple[Box, int]] = (),
        threshold: float = 0.3,
    ) -> list[Proposal]:
        """All that fits a text, best first; see `Segmenter.find`. Raises RegionError where the
        segmenter reads no text."""
        return self._segmenter.find(self._segmented, text, exemplars, threshold)

    @property
    def _segmenter(self) -> Segmenter:
        if self.assistant.segmenter is None:
            raise RegionError(
                "there is no segmenter: give a region_mask, or start Loupe with one (--segmenter)"
            )
        return self.assistant.segmenter

    @property
    def _segmented(self) -> Any:
        """The picture as the segmenter has read it."""
        if self._segmenter_embedding is None:
            self._segmenter_embedding = self._segmenter.encode(self.image.to(self.assistant.device))
        return self._segmenter_embedding

    def region(
        self, region_mask: Tensor, name: str | None = None, score: float | None = None
    ) -> Region:
        """Name an area of this picture; "region 1", "region 2", ... if no name is given.

        region_mask: bool (height, width). A number is never given twice. Raises RegionError for
        a region_mask that is empty or of another size.
        """
        if tuple(region_mask.shape) != self.size:
            raise RegionError(_other_size("the region_mask", region_mask, self.size))
        region_mask = region_mask.cpu()  # like the image; only small tensors go to the device
        if name is None:
            chosen, number = "", self._number
            while not chosen or chosen in self._names:
                number += 1
                chosen = f"region {number}"
            region = Region(region_mask, chosen, score)
            self._number = number
        else:
            if not name.strip() or name in RESERVED_NAMES:
                raise RegionError(f"a region cannot be called {name!r}: choose another name")
            region = Region(region_mask, name, score)
        self._names.add(region.name)
        return region

    def click(self, x: float, y: float, name: str | None = None) -> Region:
        """The region at pixel (x, y)."""
        return self._best(self.segment(points=[(x, y, 1)]), name)

    def box(self, x0: float, y0: float, x1: float, y1: float, name: str | None = None) -> Region:
        """The region inside a box, in pixels; x1 and y1 lie just outside."""
        return self._best(self.segment(box=(x0, y0, x1, y1)), name)

    def _best(self, segmentation: Segmentation, name: str | None) -> Region:
        return self.region(segmentation.region_masks[0], name, float(segmentation.scores[0]))

    def check(self, regions: Sequence[Region]) -> tuple[Region, ...]:
        """The regions, each once. RegionError if one is of another picture size or two share a
        name."""
        regions = tuple(dict.fromkeys(regions))
        for region in regions:
            if tuple(region.region_mask.shape) != self.size:
                raise RegionError(_other_size(region.name, region.region_mask, self.size))
        names = [region.name for region in regions]
        for name in names:
            if names.count(name) > 1:
                raise RegionError(f"two regions are called {name!r}: rename one")
        return regions

    def close_up(self, region: Region) -> tuple[int, int, int, int] | None:
        """Where a focal crop is read beside the picture, (x0, y0, x1, y1) in pixels; None where the
        region is large enough without."""
        (coverage,) = self._coverage.of([region], self._cover)
        few = bool(covered(coverage[None]) < self.assistant.bridge.config.region.focal_patches)
        return self._focal_box(region) if few else None

    def _focal_box(self, region: Region) -> tuple[int, int, int, int]:
        return focal_box(region.box, self.size, self.assistant.bridge.config.region.focal_crop)

    # Questions

    def converse(self) -> Conversation:
        """A new conversation about this picture."""
        return Conversation(self)

    def ask(
        self, question: str, regions: Sequence[Region] = (), decoding: Decoding | None = None
    ) -> str:
        """The answer to one question, about the picture or some of its regions."""
        return "".join(self.converse().ask(question, regions, decoding))

    def caption(self, region: Region | None = None, decoding: Decoding | None = None) -> str:
        """The model's own words for the picture or a region."""

        def write(_: list[Source]) -> list[str]:
            prompt = self.assistant.config.prompt
            conversation = Conversation(self, prompt.for_captions())
            regions = () if region is None else (region,)
            return ["".join(conversation.ask(prompt.caption, regions, decoding))]

        return write([])[0] if decoding else self._captions.of([region], write)[0]

    @torch.no_grad()
    def evidence(
        self, question: str, regions: Sequence[Region] = (), previous: str | None = None
    ) -> dict[str, Tensor]:
        """Where the Q-Former looks for a question: source ("picture", a region's name) -> map.

        A map is float (rows, columns) on the patch grid: cross-attention averaged over heads,
        queries and layers. It adds up to 1, less what went to the encoder's leading tokens; what
        was read in a focal crop is laid back to where the crop was cut. previous: the question
        before this one, in a conversation.
        """
        plan = self.converse().plan(question, regions, previous=previous)
        read = list(plan.sources.values())
        rows = self.rows(read, plan.instruction)
        maps = self.assistant.bridge.read(self.memory, rows, return_maps=True).maps or []
        tokens = torch.stack([one.float().mean((1, 2)) for one in maps]).mean(0)  # (N, tokens)
        leading, grid = self.assistant.vision.leading_tokens, self.assistant.vision.grid
        each = leading + grid[0] * grid[1]  # tokens of the picture, or of one focal crop
        shown = tokens[:, leading:each].unflatten(1, grid)
        if rows.focal is not None:
            _, slots, _ = focal_slots(rows.focal.rows, len(rows), pictures=1)
            for row, slot in zip(rows.focal.rows.tolist(), slots.tolist(), strict=True):
                region = read[row]
                assert region is not None  # only regions have focal crops
                start = each * (slot + 1) + leading
                crop = tokens[row, start : start + grid[0] * grid[1]].unflatten(0, grid)
                x0, y0, x1, y1 = self._focal_box(region)
                down = placed(y0, y1, self.size[0], grid[0]).to(crop)
                across = placed(x0, x1, self.size[1], grid[1]).to(crop)
                shown[row] += down @ crop @ across.T
        return dict(zip(plan.sources, shown, strict=True))

    @torch.no_grad()
    def grounding(self, question: str, regions: Sequence[Region], answer: str) -> float:
        """How much the regions speak for an answer: its mean log-likelihood a token, in nats, with
        their tokens less that with the picture's alone. Near 0 the answer would have been the same
        without them. An earlier dialogue is left out of both. Raises RegionError without regions.
        """
        if not regions:
            raise RegionError("there is no region: grounding compares an answer with and without")
        told = self.log_likelihood(question, regions, answer)
        return told - self.log_likelihood(question, (), answer)

    @torch.no_grad()
    def log_likelihood(self, question: str, regions: Sequence[Region], answer: str) -> float:
        """How likely the model finds an answer, its end included: nats a token, 0 at most. An
        earlier dialogue is left out."""
        language = self.assistant.language
        ids = torch.cat([language.tokenize(answer).cpu(), torch.tensor([language.eos_id])])
        prompt = self.prompt_embeds(question, self.check(regions))
        return -float(language.loss([prompt], [ids.to(self.assistant.device)]))

    # What the Q-Former and the language model are given

    @torch.no_grad()
    def prompt_embeds(self, question: str, regions: Sequence[Region] = ()) -> Tensor:
        """What the language model reads of one question, (n, language width)."""
        plan = self.converse().plan(question, regions)
        soft_tokens = self.soft_tokens(plan.sources, plan.instruction)
        return assemble(self.assistant.language, plan.pieces, soft_tokens)

    def instruction(
        self, question: str, regions: Sequence[Region], previous: str | None
    ) -> Instruction | None:
        """The question for the Q-Former; None for a bridge that does not read it."""
        bridge, tokenizer = self.assistant.bridge, self.assistant.tokenizer
        if not bridge.config.instruct or tokenizer is None:
            return None
        names = [region.name for region in regions]
        ids, spans = instruction(tokenizer, bridge.config, previous, names, question)
        read = Instruction(
            torch.tensor(ids), torch.zeros(len(ids), dtype=torch.bool), torch.zeros(len(ids), 5)
        )
        for (start, end), region in zip(spans, regions, strict=True):
            read.has_geometry[start:end] = True
            read.geometry[start:end] = geometry(region)
        return read

    @torch.no_grad()
    def soft_tokens(
        self, sources: Mapping[str, Source], instruction: Instruction | None = None
    ) -> dict[str, Tensor]:
        """Source name -> (queries, language width), all in one pass of the Q-Former.

        Kept for later questions where the question does not enter the Q-Former.
        """
        bridge = self.assistant.bridge

        def make(read: list[Source]) -> Sequence[Tensor]:
            return bridge.project(bridge.query(self.memory, self.rows(read, instruction))).unbind()

        read = list(sources.values())
        made = self._tokens.of(read, make) if instruction is None else make(read)
        return dict(zip(sources, made, strict=True))

    def rows(self, read: Sequence[Source], instruction: Instruction | None) -> PassRows:
        """One pass over this picture for each source."""
        device = self.assistant.device
        rows = PassRows(
            patch_coverage=torch.stack(self._coverage.of(read, self._cover)),
            is_region=torch.tensor([region is not None for region in read], device=device),
            geometry=torch.stack(
                [torch.zeros(5) if region is None else geometry(region) for region in read]
            ).to(device),
        )
        if instruction is not None:
            rows.input_ids = instruction.input_ids.to(device).expand(len(read), -1)
            rows.attention_mask = torch.ones_like(rows.input_ids)
            rows.text_has_geometry = instruction.has_geometry.to(device).expand(len(read), -1)
            rows.text_geometry = instruction.geometry.to(device).expand(len(read), -1, -1)
        rows.focal = self._focal(read, rows.patch_coverage)
        return rows

    def _cover(self, read: Sequence[Source]) -> list[Tensor]:
        grid = self.assistant.vision.grid
        whole = torch.ones(grid[0] * grid[1])
        return [
            (whole if region is None else patch_coverage(region.region_mask, grid)).to(
                self.assistant.device
            )
            for region in read
        ]

    def _focal(self, read: Sequence[Source], coverage: Tensor) -> Focal | None:
        """Focal crops of those sources that cover too few patches."""
        few = covered(coverage) < self.assistant.bridge.config.region.focal_patches
        small = {
            row: region for row, region in enumerate(read) if region is not None and bool(few[row])
        }
        if not small:
            return None
        crops = self._crops.of(list(small.values()), self._crop)
        memories = [memory for memory, _ in crops]
        layers = range(len(memories[0].keys))
        return Focal(
            ImageMemory(
                [torch.cat([memory.keys[layer] for memory in memories]) for layer in layers],
                [torch.cat([memory.values[layer] for memory in memories]) for layer in layers],
            ),
            torch.tensor(list(small), device=coverage.device),
            torch.stack([crop_coverage for _, crop_coverage in crops]),
        )

    def _crop(self, regions: Sequence[Region]) -> list[tuple[ImageMemory, Tensor]]:
        bridge, grid = self.assistant.bridge, self.assistant.vision.grid
        margin = bridge.config.region.focal_crop
        crops = [
            focal_crop(self.image, region.region_mask.to(self.image.device), region.box, margin)
            for region in regions
        ]
        memory = bridge.remember(self._encode([crop for crop, _ in crops]))
        memory = dataclasses.replace(memory, image_embeds=None)  # not needed again
        return [
            (
                memory.select(torch.tensor([index], device=self.assistant.device)),
                patch_coverage(inside, grid).to(self.assistant.device),
            )
            for index, (_, inside) in enumerate(crops)
        ]


def _other_size(what: str, region_mask: Tensor, size: tuple[int, int]) -> str:
    theirs = " x ".join(str(side) for side in reversed(region_mask.shape))
    return (
        f"{what} is {theirs} pixels and the picture {size[1]} x {size[0]}:"
        " make the region on this picture"
    )
