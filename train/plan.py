"""What a recipe will take, before it does: counted on the meta device, without data or weights.

Every part is built by its shape alone and run once, forward and backward, while what it would keep
for the backward pass and what it would compute are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adapters import lora
from adapters.defaults import default_named
from adapters.memory import DTYPES, QUANTIZED, gigabytes, is_quantized
from adapters.shapes import BareVision, bare_language, bare_vision
from qformer.bridge import Bridge
from qformer.config import Over
from qformer.contracts import LoupeError
from qformer.stage1 import Stage1
from train.config import CONFIGS
from train.parts import planned_bridge, planned_parts
from train.recipe import LoraConfig, Recipe, read_recipe

# name -> (GB, bf16 TFLOP/s as its maker gives them)
GPUS = {
    "T4": (16, 65), "L4": (24, 121), "RTX-4090": (24, 165), "A100-40GB": (40, 312),
    "A100-80GB": (80, 312), "H100-80GB": (80, 989), "H200": (141, 989),
}  # fmt: skip
USED = 0.35  # of a GPU's arithmetic that training reaches
SPARE = 1.0e9  # bytes for the device's own needs and for fragments
BACKWARD = {"trained": 2.0, "passed": 1.0, "none": 0.0}  # times the forward's arithmetic


@dataclass
class Cost:
    """One part in one step, on one device. saved: bytes kept for the backward pass."""

    trained: int = 0
    frozen: int = 0
    weights: float = 0.0
    saved: float = 0.0
    flops: float = 0.0


@dataclass
class Plan:
    parts: dict[str, Cost]
    gradients: float
    optimizer: float
    transient: float
    steps: int
    samples: int
    cache: float
    devices: int
    notes: list[str] = field(default_factory=list)

    @property
    def memory(self) -> float:
        """Bytes each device needs at the peak of a step."""
        held = sum(part.weights + part.saved for part in self.parts.values())
        return held + self.gradients + self.optimizer + self.transient

    @property
    def flops(self) -> float:
        return sum(part.flops for part in self.parts.values())

    def hours(self, gpu: str) -> float:
        return self.flops * self.steps / (GPUS[gpu][1] * 1e12 * USED) / 3600

    def fits(self, gpu: str) -> bool:
        return self.memory + SPARE <= GPUS[gpu][0] * 1e9

    def lines(self) -> list[str]:
        trained = sum(part.trained for part in self.parts.values())
        frozen = sum(part.frozen for part in self.parts.values())
        rows = [f"parameters   {number(trained)} train, {number(frozen)} are frozen"]
        for name, part in self.parts.items():
            share = part.flops / max(1.0, self.flops)
            rows.append(
                f"  {name:<10} {number(part.trained):>7} / {number(part.frozen):<7} weights "
                f"{gigabytes(part.weights):>8}  activations {gigabytes(part.saved):>8}  "
                f"{share:4.0%} of the arithmetic"
            )
        rows += [
            f"memory       {gigabytes(self.memory)} a device: with gradients "
            f"{gigabytes(self.gradients)}, optimizer {gigabytes(self.optimizer)}, passing "
            f"{gigabytes(self.transient)}",
            f"work         {self.steps} steps, {self.samples} pictures, "
            f"{self.flops / 1e12:.2f} TFLOP a step and device",
            f"cache        up to {gigabytes(self.cache)} on disk"
            if self.cache
            else "cache        none: the encoder runs at every step",
        ]
        for name in GPUS:
            if self.fits(name):
                rows.append(f"  {name:<11} fits; about {self.hours(name):.1f} h on {self.devices}")
            else:
                rows.append(f"  {name:<11} does not fit")
        return rows + [f"note: {note}" for note in self.notes]

    def record(self) -> dict[str, Any]:
        """Give the plan as one JSON object, for scripts."""
        return {
            "parts": {name: vars(part) for name, part in self.parts.items()},
            "memory": self.memory, "gradients": self.gradients, "optimizer": self.optimizer,
            "transient": self.transient, "steps": self.steps, "samples": self.samples,
            "flops_a_step": self.flops, "cache": self.cache,
            "hours": {name: self.hours(name) for name in GPUS if self.fits(name)},
        }  # fmt: skip


def biggest() -> str:
    return max(GPUS, key=lambda name: GPUS[name][0])


def number(count: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(int(count))


def measured(module: nn.Module, run: Callable[[], Any], attention: int = 0) -> tuple[float, float]:
    """(bytes saved for backward, arithmetic of the forward pass) of `run()` on the meta device.

    Weights are not counted as saved. attention: of a fused kernel, which keeps no attention maps:
    tensors that are this long in both of their last sides are left out; 0 keeps them.
    """
    own = {tensor.untyped_storage()._cdata for tensor in module.state_dict(keep_vars=True).values()}
    seen: dict[int, tuple[float, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        square = attention and tensor.dim() > 2 and set(tensor.shape[-2:]) == {attention}
        if storage._cdata not in own and not square:
            seen[storage._cdata] = (storage.nbytes(), tensor)  # the tensor keeps its storage alive
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, FlopCounterMode(display=False) as counter:
        run()
    return sum(size for size, _ in seen.values()), counter.get_total_flops()


@dataclass(frozen=True)
class Lengths:
    """Tokens of a typical question and answer, and regions asked about at once."""

    question: int = 24
    answer: int = 8
    regions: int = 0


def plan(recipe: Recipe, devices: int = 1, lengths: Lengths = Lengths(), gpu: bool = True) -> Plan:
    """gpu: attention by a fused kernel, as on a GPU; a CPU keeps its maps."""
    recipe = following(recipe)
    named = planned_parts(recipe)
    vision = bare_vision(named["vision"])
    language, count = None, recipe.loop.batch
    dtype = DTYPES[recipe.dtype]
    if recipe.stage != "stage1":
        language = bare_language(named["language"], dtype)
    bridge = planned_bridge(recipe, named, vision.width, language)
    rows = count * recipe.turns
    parts = {
        "vision": vision_cost(recipe, vision, count),
        "bridge": bridge_cost(recipe, bridge, vision, count, lengths, gpu),
    }
    transient = 0.0
    if language is not None:
        parts["language"], transient = language_cost(recipe, bridge, language, rows, lengths, gpu)
    trained = sum(part.trained for part in parts.values())
    pictures = recipe.loop.steps * recipe.loop.batch * recipe.loop.accumulation * devices
    known = sum(config.limit for config in recipe.data) if all(
        config.limit for config in recipe.data
    ) else pictures  # fmt: skip
    keeps = bool(recipe.cache.folder) and not recipe.vision_trains and not recipe.augment.any
    each = vision.tokens * vision.width * (2 if recipe.cache.dtype == "bf16" else 1)
    result = Plan(
        parts,
        gradients=4.0 * trained,
        optimizer=(8.0 + (4.0 if recipe.loop.ema else 0.0)) * trained,
        transient=transient,
        steps=recipe.loop.steps,
        samples=pictures,
        cache=min(float(each) * min(known, pictures), recipe.cache.gigabytes * 1e9) if keeps else 0,
        devices=devices,
    )
    for part in result.parts.values():
        part.flops *= recipe.loop.accumulation
    if keeps:
        result.notes.append("the vision encoder's share is that of a first visit of each picture")
    if recipe.notes and recipe.notes.alone:
        share = f"{100 * recipe.notes.alone:.0f} % of the steps"
        result.notes.append(f"in the first {share} notes alone are learned, and no language model")
    return result


def following(recipe: Recipe) -> Recipe:
    """A recipe that starts from what another shipped one will leave, with that one's parts."""
    start = recipe.start
    if not start.checkpoint or default_named(start.checkpoint) or Path(start.checkpoint).exists():
        return recipe
    for file in CONFIGS.glob("*.toml"):
        if file.stem != "embedded":
            before = read_recipe(file)
            if Path(start.checkpoint) == Path(before.output) / "checkpoint":
                before = following(before)
                given = {
                    name: both(getattr(before.start, name), getattr(start, name))
                    for name in ("vision", "language", "tokenizer")
                }
                start = replace(start, checkpoint=before.start.checkpoint, **given)
                return replace(recipe, start=start, bridge=both(before.bridge, recipe.bridge))
    return recipe


def both(before: Over | None, after: Over | None) -> Over | None:
    """What two recipes name of one table, the later one where they differ."""
    return after if before is None else before.under(after)


def refuse(recipe: Recipe, found: Plan, gpu: str, lengths: Lengths) -> None:
    """Raises LoupeError where it does not fit, naming the first change that would."""
    if gpu not in GPUS:
        raise LoupeError(f"gpu {gpu!r} is not known; known: {', '.join(GPUS)}")
    if found.fits(gpu):
        return
    loop = recipe.loop
    half = replace(loop, batch=max(1, loop.batch // 2), accumulation=2 * loop.accumulation)
    small = replace(loop, batch=1, accumulation=loop.batch * loop.accumulation)
    checkpointed = replace(loop, checkpointing=True)
    changes = {
        "dtype=bf16": replace(recipe, dtype="bf16"),
        "loop.checkpointing=true": replace(recipe, loop=checkpointed),
        f"loop.batch={half.batch} loop.accumulation={half.accumulation}": replace(
            recipe, loop=half
        ),
        f"loop.batch=1 loop.accumulation={small.accumulation}": replace(recipe, loop=small),
    }
    if recipe.lora_on("language"):
        changes["quantize=nf4"] = replace(recipe, quantize="nf4", dtype="bf16")
        least = replace(small, checkpointing=True)
        changes["quantize=nf4 loop.batch=1 loop.checkpointing=true"] = replace(
            recipe, quantize="nf4", dtype="bf16", loop=least
        )
    needs = gigabytes(found.memory + SPARE)
    for change, other in changes.items():
        if other != recipe and plan(other, found.devices, lengths).fits(gpu):
            raise LoupeError(f"it needs {needs} and a {gpu} has {GPUS[gpu][0]} GB: --set {change}")
    fitting = [name for name in GPUS if found.fits(name)]
    where = f"fits on {', '.join(fitting)}" if fitting else "choose smaller parts"
    raise LoupeError(f"it needs {needs} and a {gpu} has {GPUS[gpu][0]} GB: {where}")


def vision_cost(recipe: Recipe, vision: BareVision, count: int) -> Cost:
    trained = recipe.vision_trains
    vision.model.requires_grad_(trained)
    if trunk := getattr(vision.model, "trunk", None):
        trunk.requires_grad_(False)  # it never trains
    dtype = torch.float32 if trained else DTYPES[recipe.dtype]
    vision.model.to(dtype)
    put_inside(vision.model, recipe.lora_on("vision"))
    size, learned = sizes(vision.model)
    pixels = torch.empty(count, 3, *vision.image_size, device="meta", dtype=dtype)
    saved, flops = measured(vision.model, lambda: vision.model(pixel_values=pixels))
    times = 1 + BACKWARD["trained" if trained else "none"]
    return Cost(
        trained=learned,
        frozen=size - learned,
        weights=float(size * dtype.itemsize),
        saved=saved if trained else 0.0,
        flops=flops * times,
    )


def bridge_cost(
    recipe: Recipe, bridge: Bridge, vision: BareVision, count: int, lengths: Lengths, gpu: bool
) -> Cost:
    stage1 = Stage1(bridge.qformer) if recipe.stage == "stage1" else None
    module: nn.Module = nn.ModuleDict({"bridge": bridge} | ({"stage1": stage1} if stage1 else {}))
    module.to("meta").requires_grad_(recipe.trains.bridge)
    if chosen := recipe.lora_on("qformer"):
        put_inside(bridge.qformer, chosen)
        lora.train_alone(bridge.qformer)
    size, learned = sizes(module)
    autocast = recipe.loop.autocast and gpu
    image_embeds = torch.empty(count, vision.tokens, vision.width, device="meta")
    rows, qformer = count * recipe.turns, bridge.qformer
    module.train()

    def texts(times: int, length: int) -> Tensor:
        return torch.zeros(times * rows, length, dtype=torch.long, device="meta")

    def queries(times: int = 1) -> Tensor:
        return qformer.query_tokens.expand(times * rows, -1, -1)

    def run() -> None:
        memory = bridge.remember(image_embeds)
        if stage1 is None:
            asked = lengths.question if bridge.config.instruct else 0
            many = 1 + lengths.regions if bridge.config.instruct else 1
            ids = {"input_ids": texts(many, asked)} if asked else {}
            read = qformer(memory, query_embeds=queries(many), **ids).query_embeds
            bridge.project(read)
            return
        length = recipe.text_tokens
        seen = qformer(memory, query_embeds=queries())
        stage1.vision_projection(seen.query_embeds)
        stage1.text_features(texts(1, length))
        stage1.match(memory, texts(2, length), query_embeds=queries(2))
        wrong = memory.select(torch.zeros(rows, dtype=torch.long, device="meta"))
        stage1.match(wrong, texts(1, length), query_embeds=queries())
        said = qformer(input_ids=texts(1, length), prefix=seen.prefix, pattern="causal")
        logits = stage1.generation_head(said.text_embeds, qformer.word_embeddings.weight)
        logits.float().log_softmax(-1)

    saved, flops = measured(module, run, 0)
    times = 1 + BACKWARD["trained" if learned else "passed"]
    return Cost(
        trained=learned,
        frozen=size - learned,
        weights=4.0 * size + (2.0 * size if autocast else 0.0),  # autocast keeps a half copy
        saved=saved * (0.5 if autocast else 1.0),
        flops=flops * times,
    )


def sizes(module: nn.Module) -> tuple[int, int]:
    """Parameters of a module: all, and those that learn."""
    own = [*module.parameters()]
    return sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)


def put_inside(module: nn.Module, chosen: LoraConfig | None) -> None:
    if chosen is not None:
        lora.attach_inside(module, chosen.rank, chosen.alpha or None, chosen.targets)
        module.to("meta")


def with_lora(language: Any, recipe: Recipe) -> Any:
    chosen = recipe.lora_on("language")
    if chosen is None:
        return language
    holder = nn.Module()
    holder.model = language
    lora.attach(holder, chosen.rank, chosen.alpha or None, chosen.targets)
    return holder.model


def language_cost(
    recipe: Recipe, bridge: Bridge, language: Any, rows: int, lengths: Lengths, gpu: bool
) -> tuple[Cost, float]:
    """The language model's cost, and the logits that pass through at the end."""
    model = with_lora(language, recipe)
    dtype = DTYPES[recipe.dtype]
    width = language.get_input_embeddings().embedding_dim
    soft = bridge.config.qformer.num_queries * (1 + lengths.regions)
    asked = 4 if recipe.stage == "stage2" else lengths.question
    said = recipe.text_tokens if recipe.stage == "stage2" else lengths.answer
    encodes = getattr(language.config, "is_encoder_decoder", False)
    length = soft + asked + (0 if encodes else said)
    embeds = torch.empty(rows, length, width, device="meta", dtype=dtype, requires_grad=True)

    def run() -> None:
        if encodes:
            ids = torch.zeros(rows, said, dtype=torch.long, device="meta")
            model(inputs_embeds=embeds, decoder_input_ids=ids, use_cache=False)
        else:
            kept: dict[str, Any] = {"use_cache": False, "logits_to_keep": said + 1}
            if language.config.model_type != "opt":  # which counts its positions from the mask
                # a mask of four dimensions is taken as it is; others are looked into
                kept["attention_mask"] = torch.zeros(
                    rows, 1, length, length, device="meta", dtype=dtype
                )
            model(inputs_embeds=embeds, **kept)

    saved, flops = measured(model, run, length if gpu else 0)
    own = [(n, p) for n, p in model.named_parameters()]
    trained = sum(p.numel() for _, p in own if p.requires_grad)
    frozen = sum(p.numel() for _, p in own if not p.requires_grad)
    weights = 0.0
    for name, parameter in own:
        plain = f"language_model.{name}"
        if parameter.requires_grad:
            weights += 4.0 * parameter.numel()
        elif recipe.quantize and parameter.dim() == 2 and is_quantized(plain):
            each, row = QUANTIZED[recipe.quantize]
            weights += each * parameter.numel() + row * parameter.shape[0]
        else:
            weights += dtype.itemsize * parameter.numel()
    layers = max(1, getattr(language.config, "num_hidden_layers", 1))
    if recipe.loop.checkpointing:
        saved = layers * rows * length * width * dtype.itemsize + saved / layers
        flops *= 4 / 3  # the forward pass, again
    logits = rows * (said + 1) * language.config.vocab_size
    # in the model's dtype, in float32 for the loss, and their gradient in both
    transient = float(logits * (2 * dtype.itemsize + 8))
    return Cost(trained, frozen, weights, saved, flops * (1 + BACKWARD["passed"])), transient
