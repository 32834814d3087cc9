import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import CONFIG, Toy

from qformer.contracts import LoupeError
from train import states
from train.loop import LoopConfig, Stopped, fit
from train.optimisers import (
    GROWN,
    Average,
    layer_scales,
    learning_rate,
    optimizers_of,
    restore,
    set_rate,
)

ROOT = Path(__file__).resolve().parents[2]


def silent(line):
    pass


def newest(folder, part):
    return states.part(states.newest(folder), part)


def losses(folder):
    """The curve, without what the clock says."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def step_all(module, optimizers, rate, gradient=1.0):
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, gradient) if parameter.requires_grad else None
    set_rate(optimizers, rate)
    for optimizer in optimizers:
        optimizer.step()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped: its folder and stage."""
    folder, stage = tmp_path_factory.mktemp("whole"), Toy()
    fit(stage, CONFIG, folder, silent)
    return folder, stage


def test_a_killed_run_ends_with_the_same_weights(whole, tmp_path):
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("toy.py")), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == -signal.SIGKILL, run.stderr
    stage, said = Toy(), []
    fit(stage, CONFIG, tmp_path, said.append)
    assert said[0].endswith("resumed at step 16 of 30")
    assert len(stage.seen) == 14
    for name, value in whole[1].module.state_dict().items():
        assert torch.equal(value, stage.module.state_dict()[name]), name
    ours, theirs = (newest(f, "optimizers") for f in (tmp_path, whole[0]))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)


def test_a_finished_run_is_only_loaded(whole):
    folder, stage = whole
    before = sorted((path, path.read_bytes()) for path in folder.rglob("*.pt"))
    again = Toy()
    seconds = fit(again, CONFIG, folder, silent)
    assert again.seen == []
    assert seconds == newest(folder, "run")["seconds"]
    assert torch.equal(again.module["embedding"].weight, stage.module["embedding"].weight)
    assert not again.module.training
    assert sorted((path, path.read_bytes()) for path in folder.rglob("*.pt")) == before


def test_the_curve_of_a_broken_off_run_is_the_whole_ones_bit_for_bit(tmp_path):
    class Dies(Toy):
        def batch(self, rng, progress, place=0):
            if len(self.seen) == 21:
                raise RuntimeError("pulled the plug")
            return super().batch(rng, progress)

    config = dataclasses.replace(CONFIG, log_every=3)  # means that span a save
    fit(Toy(), config, tmp_path / "whole", silent)
    with pytest.raises(RuntimeError, match="plug"):
        fit(Dies(), config, tmp_path / "broken", silent)
    assert states.steps_in(tmp_path / "broken") == [16, 8]
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write('{"step": 21, "fi')  # while it wrote
    fit(Toy(), config, tmp_path / "broken", silent)
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_a_damaged_state_falls_back_to_the_one_before(tmp_path):
    fit(Toy(), CONFIG, tmp_path, silent)
    assert states.steps_in(tmp_path) == [30, 24]
    file = tmp_path / "state" / states.name_of(30) / "module.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    again, said = Toy(), []
    fit(again, CONFIG, tmp_path, said.append)
    assert "module.pt has changed" in said[0]
    assert said[1].endswith("resumed at step 24 of 30")
    assert len(again.seen) == 6


def test_what_a_killed_writer_left_is_not_read_and_goes(tmp_path):
    left = tmp_path / "state" / ".new-abc"
    left.mkdir(parents=True)
    (left / "module.pt").write_bytes(b"half")
    stage = Toy()
    fit(stage, dataclasses.replace(CONFIG, steps=2), tmp_path, silent)
    assert len(stage.seen) == 2
    assert not left.exists()


def test_a_full_disk_leaves_the_last_whole_state(tmp_path, monkeypatch):
    fit(Toy(), dataclasses.replace(CONFIG, steps=8), tmp_path, silent)

    def no_room(value, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(states.torch, "save", no_room)
        with pytest.raises(LoupeError, match=r"No space left .* step 8 is whole.*--resume auto"):
            fit(Toy(), CONFIG, tmp_path, silent)
    said = []
    fit(Toy(), CONFIG, tmp_path, said.append)
    assert said[0].endswith("resumed at step 8 of 30")


def test_ctrl_c_saves_and_stops(tmp_path):
    class Interrupted(Toy):
        def batch(self, rng, progress, place=0):
            if len(self.seen) == 4:
                os.kill(os.getpid(), signal.SIGINT)
            return super().batch(rng, progress)

    with pytest.raises(Stopped) as stopped:
        fit(Interrupted(), CONFIG, tmp_path, silent)
    assert states.steps_in(tmp_path) == [stopped.value.args[0]] == [5]
    fit(Toy(), CONFIG, tmp_path, silent)
    plain = Toy()
    fit(plain, CONFIG, tmp_path / "plain", silent)
    assert losses(tmp_path) == losses(tmp_path / "plain")


def test_a_loss_that_is_no_number_is_skipped_said_and_in_the_end_refused(tmp_path):
    class Odd(Toy):
        def losses(self, batch):
            bad = len(self.seen) in (3, 4) or len(self.seen) > 20
            return {name: value * (float("nan") if bad else 1)
                    for name, value in super().losses(batch).items()}  # fmt: skip

    stage, said = Odd(), []
    with pytest.raises(LoupeError, match=r"not a number for 5 steps in a row, at step 25: lower"):
        fit(stage, dataclasses.replace(CONFIG, most_skipped=5), tmp_path, said.append)
    assert said[0] == "step 3: fit, size is not a number; skipped"
    assert all(torch.isfinite(p).all() for p in stage.module.parameters())


def test_parts_of_a_step_add_up_to_it(tmp_path):
    class Halves(Toy):
        """The same rows, at once or in two parts."""

        def __init__(self, parts):
            super().__init__()
            self.module["inner"][1].p = 0.0
            self.parts = parts

        def batch(self, rng, progress, place=0):
            rows = torch.arange(16) % 8
            number = place // CONFIG.batch % self.parts
            return rows.chunk(self.parts)[number]

    ends = []
    for parts in (1, 2):
        stage = Halves(parts)
        config = dataclasses.replace(CONFIG, steps=5, accumulation=parts)
        fit(stage, config, tmp_path / str(parts), silent)
        ends.append(stage.module["embedding"].weight)
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_batches_made_ahead_are_the_same(tmp_path):
    for ahead in (False, True):
        fit(Toy(), dataclasses.replace(CONFIG, prefetch=ahead), tmp_path / str(ahead), silent)
    assert losses(tmp_path / "False") == losses(tmp_path / "True")


def test_evaluations_keep_the_best_and_end_a_run_that_gets_no_better(tmp_path):
    class Scored(Toy):
        def __init__(self):
            super().__init__()
            self.scores, self.kept = iter([0.1, 0.5, 0.4, 0.3, 0.9]), []

        def evaluate(self, share):
            assert not self.module.training
            return {"right": next(self.scores)}

        def keep(self, folder):
            self.kept.append(folder.name)

    stage, said = Scored(), []
    config = dataclasses.replace(CONFIG, evaluate_every=5, patience=2)
    fit(stage, config, tmp_path, said.append)
    assert len(stage.seen) == 20
    assert stage.kept == ["best", "best"]
    assert "no better for 2 evaluations: stopping early" in said
    again = Scored()
    fit(again, config, tmp_path, silent)
    assert again.seen == []


def test_the_average_is_what_is_kept(tmp_path):
    plain, averaged = Toy(), Toy()
    fit(plain, CONFIG, tmp_path / "plain", silent)
    fit(averaged, dataclasses.replace(CONFIG, ema=0.9), tmp_path / "ema", silent)
    start = Toy().module["embedding"].weight
    last, mean = (
        plain.module["embedding"].weight.detach().clone(),
        averaged.module["embedding"].weight,
    )
    assert 0 < (mean - start).norm() < (last - start).norm()
    average = Average(plain.module, 0.5)
    with torch.no_grad():
        plain.module["embedding"].weight += 1
    average.update()
    with average:
        torch.testing.assert_close(plain.module["embedding"].weight, last + 0.5)
    assert losses(tmp_path / "plain") == losses(tmp_path / "ema")


def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LoupeError, match="2 processes were started"):
        fit(Toy(), CONFIG, tmp_path, silent)


def test_another_number_of_processes_is_said(tmp_path):
    fit(Toy(), dataclasses.replace(CONFIG, steps=8), tmp_path, silent)
    state = tmp_path / "state" / states.name_of(8)
    parts = {name: states.part(state, name) for name in ("module", "optimizers", "run")}
    parts["run"]["world"] = 2
    states.save(tmp_path, 8, parts)
    said = []
    fit(Toy(), CONFIG, tmp_path, said.append)
    assert said[1].startswith("it was saved by 2 processes and goes on with 1")


def test_lower_layers_learn_more_slowly():
    names = ["q.embed.w", "q.layers.0.w", "q.layers.1.w", "head.w", "v.blocks.3.w"]
    assert layer_scales(names, 0.5) == {
        "q.embed.w": 0.125, "q.layers.0.w": 0.25, "q.layers.1.w": 0.5, "head.w": 1.0,
        "v.blocks.3.w": 0.5,
    }  # fmt: skip
    module = torch.nn.ModuleDict(
        {"layers": torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in "ab")}
    )
    config = dataclasses.replace(CONFIG, optimizer="adamw", layer_decay=0.5, weight_decay=0.0)
    before = [layer.weight.item() for layer in module["layers"]]
    step_all(module, optimizers_of(module, config), 1e-3)
    low, high = (one.weight.item() - b for one, b in zip(module["layers"], before, strict=True))
    assert low == pytest.approx(0.5 * high, rel=1e-3)


def test_a_state_of_another_model_is_refused(whole):
    other = Toy()
    other.module["more"] = torch.nn.Linear(2, 2)
    with pytest.raises(LoupeError, match=r"of another model \(more\.bias differs\)"):
        fit(other, CONFIG, whole[0], silent)
    with pytest.raises(LoupeError, match=r"another model \(embedding\.weight differs\)"):
        fit(Toy(width=8), CONFIG, whole[0], silent)


def test_frozen_weights_are_neither_trained_nor_saved(whole):
    folder, stage = whole
    assert torch.equal(stage.module["frozen"].weight, Toy().module["frozen"].weight)
    saved = newest(folder, "module")
    assert not [name for name in saved if name.startswith("frozen")]


def test_the_log_tells_means_that_fall(whole):
    records = [json.loads(line) for line in (whole[0] / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records[-1]["fit"] < records[0]["fit"]


def test_progress_runs_from_0_to_1(whole):
    assert whole[1].seen == [step / 30 for step in range(30)]


def test_the_rate_warms_up_and_falls_to_its_floor():
    config = LoopConfig(steps=100, batch=1, lr=1.0, warmup=10, floor=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.1 <= rates[-1] < 0.102


def test_a_second_round_starts_anew_at_half_the_rate(tmp_path):
    config = LoopConfig(steps=100, batch=1, lr=1.0, warmup=10, restart=60, floor=0.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[10] == 1.0 == max(rates)
    assert rates[59] < 0.01
    assert rates[60] == 0.05
    assert rates[70] == 0.5 == max(rates[60:])
    halves = dataclasses.replace(CONFIG, steps=4, restart=2)
    fit(Toy(), halves, tmp_path, silent)
    first, _ = newest(tmp_path, "optimizers")
    assert {state["step"].item() for state in first["state"].values()} == {2}


def test_what_grows_from_zero_moves_faster():
    module = torch.nn.ModuleDict({"upgrade": torch.nn.Linear(1, 1), "norm": torch.nn.LayerNorm(1)})
    torch.nn.init.zeros_(module["upgrade"].bias)
    step_all(module, optimizers_of(module, CONFIG), 1e-3)
    moved = module["upgrade"].bias.item() / module["norm"].bias.item()
    assert moved == pytest.approx(GROWN, rel=1e-3)


def test_matrices_move_as_much_faster_as_the_config_says_after_a_resume_too():
    start, moved = Toy().module.state_dict(), {}
    for muon in (1.0, 3.0):
        toy = Toy()
        optimizers = optimizers_of(toy.module, dataclasses.replace(CONFIG, muon=muon))
        restore(optimizers, [o.state_dict() for o in optimizers_of(toy.module, CONFIG)])
        step_all(toy.module, optimizers, 1e-3)
        name = "inner.0.weight"
        moved[muon] = (toy.module.state_dict()[name] - start[name]).norm().item()
    assert moved[3.0] == pytest.approx(3 * moved[1.0], rel=1e-2)


@pytest.mark.parametrize(
    "values",
    [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"restart": 1}, {"ema": 1.0}, {"trackers": ("x",)}],
)
def test_settings_that_cannot_train_are_refused(values):
    with pytest.raises(LoupeError, match=next(iter(values))):
        LoopConfig(**{"steps": 1, "batch": 1} | values)


def test_a_loss_that_only_some_steps_have_is_logged_as_the_mean_of_those(tmp_path):
    class Late(Toy):
        def batch(self, rng, progress, place=0):
            self.late = progress >= 0.5
            return super().batch(rng, progress)

        def losses(self, batch):
            found = super().losses(batch)
            return {**found, "late": 0 * found["fit"] + 3.0} if self.late else found

    fit(Late(), dataclasses.replace(CONFIG, steps=4, log_every=4), tmp_path, silent)
    (record,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert record["late"] == 3.0
