"""One loop for every phase: seeded by step, saved atomically, resumed where it was killed.

A stage is anything with `module` (what is trained), `batch(rng, progress)` (data for one step,
drawn from a generator that depends on seed and step alone; progress runs from 0 to 1) and
`losses(batch)` (named scalars, summed).
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from qformer.contracts import LoupeError

GROWN = 3.0  # times the rate, for what starts at zero and must first grow to be felt


@dataclass(frozen=True)
class LoopConfig:
    """steps: optimizer steps; lr: peak rate, after `warmup` steps, then cosine to lr * floor;
    restart: the step at which a second round begins, with new optimizers and half the peak, 0 for
    none; muon: times the rate, for the matrices inside blocks; save_every and log_every: steps;
    bf16: autocast on the forward pass, by default where the processor has units for it (elsewhere
    it is slower than float32)."""

    steps: int
    batch: int
    lr: float = 2e-3
    warmup: int = 100
    restart: int = 0
    muon: float = 1.0
    floor: float = 0.02
    weight_decay: float = 0.02
    clip: float = 1.0
    seed: int = 0
    bf16: bool | None = None
    log_every: int = 50
    save_every: int = 400

    def __post_init__(self):
        if self.steps < 1 or self.batch < 1:
            raise LoupeError(f"steps={self.steps} and batch={self.batch} must be at least 1")
        if self.lr <= 0:
            raise LoupeError(f"lr={self.lr} must be above 0")
        if not 0 <= self.restart < self.steps:
            raise LoupeError(f"restart={self.restart} must lie before the last of {self.steps}")

    @property
    def autocast(self) -> bool:
        return torch.cpu._is_amx_tile_supported() if self.bf16 is None else self.bf16


class Optimizers:
    """Muon for the matrices inside blocks, AdamW for embeddings, heads, norms and biases."""

    def __init__(self, module: nn.Module, config: LoopConfig):
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        outer = ("embed", "head", "position", "rel_pos", "token", "projection", "upgrade", "lora_")
        matrices = [p for n, p in named if p.ndim == 2 and not any(word in n for word in outer)]
        inside = {id(p) for p in matrices}
        decay = config.weight_decay
        grown = [p for n, p in named if "upgrade" in n]
        rest = [p for n, p in named if id(p) not in inside and "upgrade" not in n]
        groups = [{"params": rest, "scale": 1.0}, {"params": grown, "scale": GROWN}]
        self.each: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.lr, betas=(0.9, 0.98), weight_decay=decay,
            )
        ]  # fmt: skip
        if matrices:
            group = {"params": matrices, "scale": config.muon}
            self.each.append(
                torch.optim.Muon(
                    [group], lr=config.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
                )
            )
        self.parameters = [p for _, p in named]

    def step(self, lr: float, clip: float) -> float:
        norm = float(nn.utils.clip_grad_norm_(self.parameters, clip))
        if math.isfinite(norm):
            for optimizer in self.each:
                for group in optimizer.param_groups:
                    group["lr"] = lr * group["scale"]
                optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return norm

    def state_dict(self):
        return [optimizer.state_dict() for optimizer in self.each]

    def load_state_dict(self, states):
        for optimizer, state in zip(self.each, states, strict=True):
            scales = [group["scale"] for group in optimizer.param_groups]  # the config's, always
            optimizer.load_state_dict(state)
            for group, scale in zip(optimizer.param_groups, scales, strict=True):
                group["scale"] = scale


def learning_rate(step: int, config: LoopConfig) -> float:
    """Linear warm-up, then cosine down to lr * floor; a second round starts at half of lr."""
    peak, steps = config.lr, config.restart or config.steps
    if config.restart and step >= config.restart:
        step, peak, steps = step - config.restart, 0.5 * config.lr, config.steps - config.restart
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return peak * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done)))


def fit(stage, config: LoopConfig, folder: Path, say: Callable[[str], None] = print) -> float:
    """Train `stage.module` and return the seconds spent, those of earlier, killed runs included.

    folder receives trainer.pt (the newest whole state, replaced atomically) and log.jsonl. A folder
    that already holds a finished state returns at once with its weights loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module, optimizers = stage.module, Optimizers(stage.module, config)
    step, seconds = 0, 0.0
    state_file = folder / "trainer.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        load_trained(module, state["module"])
        optimizers.load_state_dict(state["optimizers"])
        step, seconds = state["step"], state["seconds"]
        say(f"{folder.name}: resumed at step {step} of {config.steps}")
    started, sums, counted = time.time() - seconds, {}, 0
    module.train()
    while step < config.steps:
        if step and step == config.restart:
            optimizers = Optimizers(module, config)
        torch.manual_seed(config.seed * 1_000_003 + step)
        batch = stage.batch(np.random.default_rng((config.seed, step)), step / config.steps)
        # On a CPU the fused attention's backward pass costs several times the plain one.
        with sdpa_kernel(SDPBackend.MATH):
            with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
                losses: dict[str, Tensor] = stage.losses(batch)
            torch.stack(list(losses.values())).sum().backward()
        rate = learning_rate(step, config)
        optimizers.step(rate, config.clip)
        step += 1
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
        counted += 1
        if step % config.log_every == 0 or step == config.steps:
            seconds = time.time() - started
            means = {name: round(total / counted, 4) for name, total in sums.items()}
            record = {"step": step, "seconds": round(seconds, 1), "lr": rate, **means}
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            left = seconds / step * (config.steps - step) / 60
            parts = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
            say(f"{folder.name} {step}/{config.steps}  {parts}  {left:.0f} min left")
            sums, counted = {}, 0
        if step % config.save_every == 0 or step == config.steps:
            seconds = time.time() - started
            save_atomically(
                state_file,
                {
                    "module": trained_state(module),
                    "optimizers": optimizers.state_dict(),
                    "step": step,
                    "seconds": seconds,
                },
            )
    module.eval()
    return seconds


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of a module without its frozen parameters."""
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def load_trained(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a `trained_state` back. Raises LoupeError if it is of another model."""
    ours = {name: value.shape for name, value in trained_state(module).items()}
    theirs = {name: value.shape for name, value in state.items()}
    odd = sorted(name for name, _ in ours.items() ^ theirs.items())
    if odd:
        raise LoupeError(
            f"the saved state is of another model ({odd[0]} differs): remove its folder"
        )
    module.load_state_dict(state, strict=False)


def save_atomically(path: Path, state: dict) -> None:
    """Write beside, flush to disk, then rename: a kill leaves the old file or the new one."""
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
