"""One loop for every phase: seeded by step, saved whole, resumed bit for bit where it was killed.

A stage is anything with `module` (what is trained), `batch(rng, progress, place)` (data for one
step, drawn from a generator that depends on seed, step and process alone; progress runs from 0 to
1; place: how many pictures were due before, over all processes) and `losses(batch)` (named scalars,
summed). It may have `evaluate(share)` -> named scores over all processes' shares, the first of
which says how good it is, `show(folder, step)`, which writes sample answers, and `keep(folder)`,
which writes a checkpoint.

Devices, precision and processes are accelerate's: start it with torchrun, or with
`accelerate launch` and a config of its own for FSDP2 or DeepSpeed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qformer.contracts import LoupeError
from train import states
from train.engine import (
    Share,
    accelerator_of,
    interrupts,
    memory_used,
    share_of,
    trained_quietly,
)
from train.optimisers import Average, learning_rate, optimizers_of, restore, set_rate
from train.settings import LoopConfig
from train.states import load_trained, trained_state


class _Forward(nn.Module):
    """All losses of a stage from one forward, which is what DDP and FSDP wrap."""

    def __init__(self, stage) -> None:
        super().__init__()
        self.module = stage.module
        self._losses = stage.losses

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return self._losses(batch)


class Stopped(KeyboardInterrupt):
    """Ctrl-C, after the state was saved."""


def fit(stage, config: LoopConfig, folder: Path, say: Callable[[str], None] = print) -> float:
    """Train `stage.module` and return the seconds spent, those of earlier, killed runs included.

    folder receives state/ (the newest whole states) and log.jsonl. A folder that already holds a
    finished state returns at once with its weights loaded. Raises LoupeError if the loss is not a
    number for most_skipped steps in a row, or a state cannot be written; Stopped after Ctrl-C.
    """
    return Run(stage, config, folder, say).go()


class Run:
    """One `fit`: what it counts and keeps between steps."""

    def __init__(self, stage, config: LoopConfig, folder: Path, say: Callable[[str], None]) -> None:
        self.stage, self.config, self.folder = stage, config, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator = accelerator_of(config, folder)
        self.main = self.accelerator.is_main_process
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.say = say if self.main else (lambda line: None)
        stage.module.to(self.accelerator.device)
        self.plain = optimizers_of(stage.module, config)
        self.forward, *self.optimizers = self._prepare(*self.plain)
        self.average = Average(stage.module, config.ema) if config.ema else None
        self.step, self.seconds, self.skipped, self.best, self.worse = 0, 0.0, 0, -math.inf, 0
        self.sums: dict[str, float] = {}
        self.counted: dict[str, int] = {}  # steps that had each loss
        self.stopping = False
        self.maker = ThreadPoolExecutor(1) if config.prefetch else None
        self.ahead: dict[tuple[int, int], Future] = {}

    # ---- accelerate ----------------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        """Whether accelerate, not one process alone, knows the whole state."""
        return str(self.accelerator.distributed_type.value) in ("FSDP", "DEEPSPEED", "MEGATRON_LM")

    def _prepare(self, *optimizers: torch.optim.Optimizer):
        if self.sharded and len(optimizers) > 1:
            raise LoupeError('optimizer="muon" does not go with FSDP or DeepSpeed: use "adamw"')
        forward = _Forward(self.stage)
        if self.world == 1 and not self.sharded:
            return forward, *optimizers
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None:  # which would read it off a data loader
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = self.config.batch
        return self.accelerator.prepare(forward, *optimizers)

    # ---- the loop ------------------------------------------------------------------------------

    def go(self) -> float:
        config, module = self.config, self.stage.module
        self._resume()
        started = time.time() - self.seconds
        module.train()
        with interrupts(self._interrupt), trained_quietly(self.accelerator.device):
            while self.step < config.steps:
                if self.step and self.step == config.restart:
                    self.plain = optimizers_of(module, config)
                    self.forward, *self.optimizers = self._prepare(*self.plain)
                self._one_step()
                self.seconds = time.time() - started
                last = self.step == config.steps
                if self.step % config.log_every == 0 or last:
                    self._log()
                ends = self._evaluate() if self._every(config.evaluate_every) or (
                    last and config.evaluate_every
                ) else False  # fmt: skip
                stopping = self._agreed(self.stopping)
                if self.step % config.save_every == 0 or last or ends or stopping:
                    self._save(finished=ends)
                if ends:
                    break
                if stopping and not last:
                    raise Stopped(self.step)
        if self.average is not None:
            self.average.__enter__()  # what is kept is the average
        module.eval()
        self.accelerator.end_training()
        return self.seconds

    def _every(self, steps: int) -> bool:
        return bool(steps) and self.step % steps == 0

    def _interrupt(self, *_: object) -> None:
        if self.stopping:  # twice: at once
            raise KeyboardInterrupt
        self.stopping = True
        self.say("stopping after this step; once more to stop at once, without saving")

    def _agreed(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.world == 1:
            return flag
        said = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(said, "sum") > 0)

    def _one_step(self) -> None:
        config, parts = self.config, self.config.accumulation
        torch.manual_seed(config.seed * 1_000_003 + self.step + self.rank * 10**12)
        totals: dict[str, Tensor] = {}
        for number in range(parts):
            batch = self._batch(number)
            waits = number + 1 < parts
            with self.accelerator.no_sync(self.forward) if waits else nullcontext():
                with self.accelerator.autocast():
                    losses = self.forward(batch)
                self.accelerator.backward(torch.stack(list(losses.values())).sum() / parts)
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / parts
        rate = learning_rate(self.step, config)
        parameters = [p for p in self.stage.module.parameters() if p.requires_grad]
        norm = float(self.accelerator.clip_grad_norm_(parameters, config.clip or math.inf))
        self.step += 1
        if math.isfinite(norm):  # the same on every process, whose gradients are summed
            set_rate(self.plain, rate)
            for optimizer in self.optimizers:
                optimizer.step()
            if self.average is not None:
                self.average.update()
            self.skipped = 0
            for name, value in totals.items():
                self.sums[name] = self.sums.get(name, 0.0) + float(value)
                self.counted[name] = self.counted.get(name, 0) + 1
        else:
            self._skip(totals)
        for parameter in parameters:
            parameter.grad = None

    def _batch(self, number: int) -> Any:
        """Part `number` of this step; the one after it is made meanwhile."""
        waiting = self.ahead.pop((self.step, number), None)
        batch = self._make(self.step, number) if waiting is None else waiting.result()
        if self.maker is not None:
            last = number + 1 == self.config.accumulation
            after = (self.step + 1, 0) if last else (self.step, number + 1)
            if after[0] < self.config.steps:
                self.ahead = {after: self.maker.submit(self._make, *after)}
        return batch

    def _make(self, step: int, number: int) -> Any:
        config = self.config
        seeds = [config.seed, step]
        if self.world > 1 or config.accumulation > 1:
            seeds += [self.rank, number]
        part = (step * config.accumulation + number) * self.world + self.rank
        rng = np.random.default_rng(seeds)
        return self.stage.batch(rng, step / config.steps, part * config.batch)

    def _skip(self, totals: dict[str, Tensor]) -> None:
        self.skipped += 1
        odd = [name for name, value in totals.items() if not math.isfinite(float(value))]
        what = f"{', '.join(odd)} is not a number" if odd else "the gradient is not a number"
        self.say(f"step {self.step}: {what}; skipped")
        if self.skipped >= self.config.most_skipped:
            raise LoupeError(
                f"{what} for {self.skipped} steps in a row, at step {self.step}: lower lr "
                f"(now {self.config.lr:g}) or set bf16=false, and go on with --resume auto"
            )

    # ---- what is said --------------------------------------------------------------------------

    def _log(self) -> None:
        if not self.counted:
            return
        means = {name: total / self.counted[name] for name, total in self.sums.items()}
        if self.world > 1:
            values = torch.tensor(list(means.values()), device=self.accelerator.device)
            shared = self.accelerator.reduce(values, "mean").tolist()
            means = dict(zip(means, shared, strict=True))
        self.sums, self.counted = {}, {}
        config, rate = self.config, learning_rate(self.step - 1, self.config)
        pictures = config.batch * config.accumulation * self.world * self.step
        speed = pictures / max(1e-9, self.seconds)
        record = {"step": self.step, "seconds": round(self.seconds, 1), "lr": rate, **means}
        self._write(record)
        self.accelerator.log(means | {"lr": rate}, step=self.step)
        parts = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        left = self.seconds / self.step * (config.steps - self.step) / 60
        self.say(
            f"{self.folder.name} {self.step}/{config.steps}  {parts}  {speed:.1f} pictures/s  "
            f"{memory_used(self.accelerator.device):.1f} GB  {left:.0f} min left"
        )

    def _write(self, record: dict) -> None:
        if self.main:
            with (self.folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")

    def _evaluate(self) -> bool:
        """Scores, sample answers and the best checkpoint so far; True if training should end."""
        stage, config = self.stage, self.config
        stage.module.eval()
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng())
            if self.average is not None:
                stack.enter_context(self.average)
            # Where parameters are in shards a forward pass takes every process: all evaluate all.
            scores = stage.evaluate(Share() if self.sharded else share_of(self.accelerator))
            self._write({"step": self.step, "scores": scores})
            self.accelerator.log(scores, step=self.step)
            told = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self.say(f"{self.folder.name} {self.step}/{config.steps}  evaluated: {told}")
            if self.main and hasattr(stage, "show"):
                stage.show(self.folder / "answers", self.step)
            judge = getattr(stage, "judge", lambda told: next(iter(told.values())))
            score = judge(scores)
            better = score > self.best
            if better and hasattr(stage, "keep") and (self.main or self.sharded):
                stage.keep(self.folder / "best")
        self.best, self.worse = (score, 0) if better else (self.best, self.worse + 1)
        stage.module.train()
        self.accelerator.wait_for_everyone()
        ends = bool(config.patience) and self.worse >= config.patience
        if ends:
            self.say(f"no better for {self.worse} evaluations: stopping early")
        return ends

    # ---- states --------------------------------------------------------------------------------

    def _save(self, finished: bool) -> None:
        run = {
            "step": self.step, "seconds": self.seconds, "world": self.world, "sums": self.sums,
            "counted": self.counted, "best": self.best, "worse": self.worse,
            "skipped": self.skipped, "finished": finished,
        }  # fmt: skip
        if self.sharded:  # every process writes its share
            self.accelerator.save_state(str(self.folder / "shards"))
            more = lambda new: (self.folder / "shards").rename(new / "shards")  # noqa: E731
            parts: dict[str, Any] = {"run": run}
        else:
            more = None
            parts = {
                "module": trained_state(self.stage.module),
                "optimizers": [optimizer.state_dict() for optimizer in self.plain],
                "run": run,
            }
            if self.average is not None:
                parts["average"] = self.average.shadow
        if self.main:
            states.save(self.folder, self.step, parts, more)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = states.newest(self.folder, self.say)
        if state is None:
            self._forget(0)
            return
        run = states.part(state, "run")
        if self.sharded:
            self.accelerator.load_state(str(state / "shards"))
        else:
            load_trained(self.stage.module, states.part(state, "module"))
            restore(self.plain, states.part(state, "optimizers"))
            if self.average is not None:
                for name, value in states.part(state, "average").items():
                    self.average.shadow[name].copy_(value)
        self.step, self.seconds, self.sums = run["step"], run["seconds"], run["sums"]
        self.counted, self.best, self.worse = run["counted"], run["best"], run["worse"]
        self.skipped = run["skipped"]
        self._forget(self.step)
        self.say(f"{self.folder.name}: resumed at step {self.step} of {self.config.steps}")
        if run["world"] != self.world:
            self.say(
                f"it was saved by {run['world']} processes and goes on with {self.world}: from "
                "here on it sees other pictures than it would have"
            )
        if run["finished"]:
            self.step = self.config.steps

    def _forget(self, step: int) -> None:
        """Cut the log back to what the state knows: a killed run may have written further."""
        log = self.folder / "log.jsonl"
        if self.main and log.exists():
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
            known = [line for line in lines if json.loads(line)["step"] <= step]
            log.write_text("".join(line + "\n" for line in known))
