import dataclasses
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
from train.loop import GROWN, LoopConfig, Optimizers, fit, learning_rate

ROOT = Path(__file__).resolve().parents[2]


def silent(line):
    pass


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
    ours, theirs = (torch.load(f / "trainer.pt")["optimizers"] for f in (tmp_path, whole[0]))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one["state"], other["state"], rtol=0, atol=0)


def test_a_finished_run_is_only_loaded(whole):
    folder, stage = whole
    before = (folder / "trainer.pt").read_bytes()
    again = Toy()
    seconds = fit(again, CONFIG, folder, silent)
    assert again.seen == []
    assert seconds == torch.load(folder / "trainer.pt")["seconds"]
    assert torch.equal(again.module["embedding"].weight, stage.module["embedding"].weight)
    assert not again.module.training
    assert (folder / "trainer.pt").read_bytes() == before


def test_a_state_half_written_is_not_read(whole, tmp_path):
    (tmp_path / "trainer.part").write_bytes(b"half")
    stage = Toy()
    fit(stage, dataclasses.replace(CONFIG, steps=2), tmp_path, silent)
    assert len(stage.seen) == 2
    assert not (tmp_path / "trainer.part").exists()


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
    saved = torch.load(folder / "trainer.pt")["module"]
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
    first, _ = torch.load(tmp_path / "trainer.pt")["optimizers"]
    assert {state["step"].item() for state in first["state"].values()} == {2}


def test_what_grows_from_zero_moves_faster():
    module = torch.nn.ModuleDict({"upgrade": torch.nn.Linear(1, 1), "norm": torch.nn.LayerNorm(1)})
    torch.nn.init.zeros_(module["upgrade"].bias)
    optimizers = Optimizers(module, CONFIG)
    for parameter in optimizers.parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizers.step(1e-3, 1e9)
    moved = module["upgrade"].bias.item() / module["norm"].bias.item()
    assert moved == pytest.approx(GROWN, rel=1e-3)


def test_matrices_move_as_much_faster_as_the_config_says_after_a_resume_too():
    start, moved = Toy().module.state_dict(), {}
    for muon in (1.0, 3.0):
        toy = Toy()
        optimizers = Optimizers(toy.module, dataclasses.replace(CONFIG, muon=muon))
        optimizers.load_state_dict(Optimizers(toy.module, CONFIG).state_dict())
        for parameter in optimizers.parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizers.step(1e-3, 1e9)
        name = "inner.0.weight"
        moved[muon] = (toy.module.state_dict()[name] - start[name]).norm().item()
    assert moved[3.0] == pytest.approx(3 * moved[1.0], rel=1e-2)


def test_a_step_that_is_not_finite_changes_nothing():
    module = Toy().module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizers = Optimizers(module, CONFIG)
    for parameter in optimizers.parameters:
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizers.step(0.1, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in optimizers.parameters)


@pytest.mark.parametrize("values", [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"restart": 1}])
def test_settings_that_cannot_train_are_refused(values):
    with pytest.raises(LoupeError, match=next(iter(values))):
        LoopConfig(**{"steps": 1, "batch": 1} | values)
