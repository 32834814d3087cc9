"""Rates and optimizers: AdamW with layer decay, or Muon for the matrices inside blocks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from torch import nn

GROWN = 3.0  # times the rate, for what starts at zero and must first grow to be felt
OUTER = ("embed", "head", "position", "rel_pos", "token", "projection", "upgrade", "lora_")
BLOCK = re.compile(r"^(.*?\b(?:layers?|blocks?|h))\.(\d+)\.")


def optimizers_of(module: nn.Module, config) -> list[torch.optim.Optimizer]:
    """The optimizers of what trains in `module`; each group has a "scale", times the rate."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if config.optimizer == "muon":
        return muon(named, config)
    depths = layer_scales([name for name, _ in named], config.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        decay = config.weight_decay if parameter.ndim > 1 else 0.0  # never norms and biases
        scale = depths[name] * (GROWN if "upgrade" in name else 1.0)
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        torch.optim.AdamW(
            [{"params": p, "scale": s, "weight_decay": d} for (s, d), p in groups.items()],
            lr=config.lr, betas=config.betas,
        )
    ]  # fmt: skip


def muon(named: Sequence[tuple[str, nn.Parameter]], config) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for embeddings, heads, norms and biases."""
    matrices = [p for n, p in named if p.ndim == 2 and not any(word in n for word in OUTER)]
    inside = {id(p) for p in matrices}
    grown = [p for n, p in named if "upgrade" in n]
    rest = [p for n, p in named if id(p) not in inside and "upgrade" not in n]
    groups = [{"params": rest, "scale": 1.0}, {"params": grown, "scale": GROWN}]
    each: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
        )
    ]  # fmt: skip
    if matrices:
        group = {"params": matrices, "scale": config.muon}
        each.append(
            torch.optim.Muon(
                [group], lr=config.lr, weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )  # fmt: skip
    return each


def layer_scales(names: Sequence[str], decay: float) -> dict[str, float]:
    """Times the rate, by parameter: 1 for what stands outside a stack of layers, decay for its
    last layer, decay squared for the one below, and so on. What a stack is built on (its
    embeddings) stands as deep as one layer below its first."""
    stacks: dict[str, int] = {}
    for name in names:
        if found := BLOCK.match(name):
            stack, layer = found[1], int(found[2])
            stacks[stack] = max(stacks.get(stack, 0), layer)
    scales = {}
    for name in names:
        found = BLOCK.match(name)
        if found:
            scales[name] = decay ** (stacks[found[1]] - int(found[2]) + 1)
        elif "embed" in name:
            parents = [s for s in stacks if name.startswith(s.split(".")[0] + ".")]
            scales[name] = decay ** max((stacks[s] + 2 for s in parents), default=0)
        else:
            scales[name] = 1.0
    return scales


def set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]


def restore(optimizers: Sequence[torch.optim.Optimizer], states: Sequence[dict]) -> None:
    """Their saved states; the scales stay the config's."""
    for optimizer, state in zip(optimizers, states, strict=True):
        scales = [group["scale"] for group in optimizer.param_groups]
        optimizer.load_state_dict(state)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["scale"] = scale


def learning_rate(step: int, config) -> float:
    """Linear warm-up, then cosine down to lr * floor; a second round starts at half of lr."""
    peak, steps = config.lr, config.restart or config.steps
    if config.restart and step >= config.restart:
        step, peak, steps = step - config.restart, 0.5 * config.lr, config.steps - config.restart
    if step < config.warmup:
        return peak * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return peak * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Average:
    """An exponential moving average of what trains; `with average:` puts it in place."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.shadow = {name: p.detach().clone() for name, p in self.parameters}

    @torch.no_grad()
    def update(self) -> None:
        for name, parameter in self.parameters:
            self.shadow[name].lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters:
            held = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name] = held

    def __enter__(self) -> Average:
        self._swap()
        return self

    def __exit__(self, *error: object) -> None:
        self._swap()
