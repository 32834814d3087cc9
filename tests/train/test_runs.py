"""`loupe train CONFIG` from a TOML file to a checkpoint that answers."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adapters import lora
from adapters.build import build
from qformer.contracts import LoupeError
from train.cli import main
from train.data.sample import Tally
from train.engine import Share
from train.loop import fit
from train.runs import Training
from train.stages import plain, same_targets


def silent(line):
    pass


def train(recipe):
    training = Training(recipe, silent)
    fit(training, recipe.loop, recipe_folder(recipe), silent)
    training.keep(recipe_folder(recipe) / "checkpoint")
    return training


def recipe_folder(recipe):
    return Path(recipe.output)


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["lora.rank=4"],
        ["trains.vision=true", "trains.bridge=false"],
        ['lora.where=["language", "qformer", "vision"]', "lora.rank=4"],
        ['lora.where=["vision"]', "trains.bridge=false"],
    ],
)
def test_an_instruct_run_ends_in_a_checkpoint_that_answers_as_the_run_did(
    recipe_of, image, changes
):
    recipe = recipe_of("instruct", *changes)
    training = train(recipe)
    assistant = build(recipe_folder(recipe) / "checkpoint")
    theirs, ours = training.assistant().encode(image), assistant.encode(image)
    torch.testing.assert_close(ours.image_embeds, theirs.image_embeds, atol=1e-4, rtol=1e-4)
    region = ours.region(torch.ones(40, 60, dtype=torch.bool))
    assert ours.ask("what colour?", [region]) == theirs.ask("what colour?", [region])


def test_what_is_not_trained_does_not_move(recipe_of, tiny_folder):
    before = build(tiny_folder("loupe"))
    recipe = recipe_of("instruct", "lora.rank=4", "trains.bridge=false", "loop.steps=2")
    training = train(recipe)
    after = build(recipe_folder(recipe) / "checkpoint")
    for name, value in before.bridge.state_dict().items():
        assert torch.equal(value, after.bridge.state_dict()[name]), name
    moved = [
        n for n, v in before.language.state_dict().items()
        if not torch.equal(v, after.language.state_dict()[n])
    ]  # fmt: skip
    assert moved
    assert all("proj" in name for name in moved)
    trained = {name for name, p in training.module.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)


def test_a_lora_inside_the_qformer_moves_its_linear_layers_alone(recipe_of, tiny_folder):
    before = build(tiny_folder("loupe")).bridge.state_dict()
    recipe = recipe_of("instruct", 'lora.where=["qformer"]', "lora.rank=4")
    training = train(recipe)
    trained = {name for name, p in training.module.named_parameters() if p.requires_grad}
    assert not any("lora_" in name for name in trained if "language" in name.split("."))
    after = build(recipe_folder(recipe) / "checkpoint").bridge.state_dict()
    moved = {n for n in before if not torch.equal(before[n], after[n])}
    inside = {n for n in moved if n.startswith("qformer.")}
    assert inside
    assert all(n.endswith(".weight") and "norm" not in n for n in inside)
    assert "language_projection.weight" in moved


def test_stage_1_takes_a_lora_on_the_qformer(recipe_of):
    recipe = recipe_of("stage1", 'lora.where=["qformer"]', "lora.rank=4")
    training = train(recipe)
    saved = load_file(recipe_folder(recipe) / "checkpoint" / "model.safetensors")
    plain = lora.merged(training.parts.bridge).state_dict()
    assert not any("lora_" in name for name in saved)
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["lora.where=[]"], "names no part"),
        (['lora.where=["vision"]', "trains.vision=true"], "leave it out of lora.where"),
        (['lora.where=["bridge"]'], "lora.where"),
        (['lora.where=["qformer"]', 'lora.targets=["nothing"]'], "it has expand, key"),
    ],
)
def test_a_lora_that_fits_nowhere_is_refused(recipe_of, changes, says):
    with pytest.raises(LoupeError, match=says):
        Training(recipe_of("instruct", *changes), silent)


def test_training_learns_what_it_is_shown(recipe_of):
    recipe = recipe_of("instruct", "loop.steps=60", "loop.evaluate_every=60", "lora.rank=8")
    train(recipe)
    lines = (recipe_folder(recipe) / "log.jsonl").read_text().splitlines()
    curve = [json.loads(line)["answer"] for line in lines if "answer" in line]
    assert curve[-1] < 0.5 * curve[0]
    page = next((recipe_folder(recipe) / "answers").glob("*.html")).read_text()
    assert "what colour?" in page
    assert "data:image" in page


def test_stage_1_then_stage_2_then_instruct(recipe_of, tiny_folder, tmp_path, image):
    first = recipe_of("stage1", f"output={tmp_path / 'one'}")
    training = train(first)
    assert set(training.evaluate()) == {"score", "itc", "itm", "itg"}
    start = f"start.checkpoint={tmp_path / 'one' / 'checkpoint'}"
    folder = tiny_folder("loupe").parent / "language"
    language = f'start.language={{kind="decoder", path="{folder}"}}'
    second = recipe_of("stage2", start, language, f"output={tmp_path / 'two'}")
    bridge = Training(second, silent).parts.bridge
    theirs = training.parts.bridge.qformer.state_dict()
    for name, value in bridge.qformer.state_dict().items():
        assert torch.equal(value, theirs[name]), name
    train(second)
    last = f"start.checkpoint={tmp_path / 'two' / 'checkpoint'}"
    train(recipe_of("instruct", last, f"output={tmp_path / 'three'}"))
    view = build(tmp_path / "three" / "checkpoint").encode(image)
    assert isinstance(view.caption(), str)


def test_a_momentum_teacher_is_saved_and_resumed_with_the_rest(recipe_of, tmp_path):
    extra = ["momentum.queue=32", "loop.evaluate_every=0", "momentum.decay=0.9"]
    curves = []
    for name, steps in (("whole", [4]), ("parts", [2, 4])):
        for count in steps:
            recipe = recipe_of("stage1", f"output={tmp_path / name}", *extra)
            training = Training(recipe, silent)
            loop = dataclasses.replace(recipe.loop, steps=4)
            if count < 4:
                batch, left = training.batch, iter(range(count))
                training.batch = lambda *a, b=batch, n=left: (b(*a), next(n))[0]
                with pytest.raises(StopIteration):
                    fit(training, loop, tmp_path / name, silent)
            else:
                fit(training, loop, tmp_path / name, silent)
        assert training.module["momentum"].filled == 32
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["itc"] for line in lines])
    assert curves[0] == curves[1]
    assert len(curves[0]) == 4


def test_a_lora_is_trained_on_or_kept(recipe_of, tmp_path):
    train(recipe_of("instruct", "lora.rank=4", f"output={tmp_path / 'one'}"))
    start = f"start.checkpoint={tmp_path / 'one' / 'checkpoint'}"
    lora = tmp_path / "one" / "checkpoint" / "lora" / "adapter_model.safetensors"
    with pytest.raises(LoupeError, match=r"lora\.rank=8.*has rank 4"):
        Training(recipe_of("instruct", start, "lora.rank=8"), silent)
    train(recipe_of("instruct", start, f"output={tmp_path / 'two'}"))
    kept = tmp_path / "two" / "checkpoint" / "lora" / lora.name
    assert kept.read_bytes() == lora.read_bytes()
    train(recipe_of("instruct", start, "lora.rank=4", f"output={tmp_path / 'three'}"))
    on = tmp_path / "three" / "checkpoint" / "lora" / lora.name
    assert on.read_bytes() != lora.read_bytes()
    build(tmp_path / "three" / "checkpoint")


def test_a_run_killed_anywhere_has_the_same_curve_with_and_without_features(recipe_of, tmp_path):
    """Features that a killed run left, or that it lost, change nothing."""

    def run(name):
        recipe = recipe_of("instruct", f"output={tmp_path / name}", "loop.evaluate_every=0")
        return Training(recipe, silent), recipe.loop, tmp_path / name, silent

    def curve(name):
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["answer"] for line in lines]

    fit(*run("whole"))
    shutil.rmtree(tmp_path / "features")
    broken = run("broken")
    batch, left = broken[0].batch, iter(range(3))

    def dies(*arguments):
        if next(left, None) is None:
            raise RuntimeError("pulled the plug")
        return batch(*arguments)

    broken[0].batch = dies
    with pytest.raises(RuntimeError, match="plug"):
        fit(*broken)
    fit(*run("broken"))
    assert curve("broken") == curve("whole")
    assert len(curve("whole")) == 4


def test_recomputed_activations_give_the_same_gradients_from_less_memory(recipe_of):
    found = []
    for again in ("false", "true"):
        recipe = recipe_of("instruct", "lora.rank=4", f"loop.checkpointing={again}")
        training = Training(recipe, silent)
        training.module.train()
        batch = training.batch(np.random.default_rng(0), 0.0, 0)
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: (kept.append(t.numel()), t)[1], lambda t: t
        )
        torch.manual_seed(0)
        with hooks:
            loss = sum(training.losses(batch).values())
        loss.backward()
        lora = [p.grad for n, p in training.module.named_parameters() if "lora_B" in n]
        found.append((sum(kept), loss.item(), torch.cat([g.flatten() for g in lora])))
    (much, loss, gradients), (little, again, same) = found
    assert little < 0.9 * much
    assert loss == pytest.approx(again, rel=1e-5)
    torch.testing.assert_close(gradients, same, rtol=1e-3, atol=1e-6)


def test_bad_samples_are_counted_and_replaced(recipe_of, little_data, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(little_data, folder)
    (folder / "images" / "0.png").unlink()
    (folder / "images" / "1.png").write_bytes(b"not a picture")
    row = {"image": "2.png", "text": "nowhere", "regions": [{"box": [90, 90, 99, 99]}]}
    with (folder / "data.jsonl").open("a") as file:
        file.write("\n" + json.dumps(row))
    recipe = recipe_of("instruct", f"data.0.path={folder}", "bad_share=0.9", "turns=9")
    training = train(recipe)
    reasons = " / ".join(training.tally.reasons)
    assert "there is no file" in reasons
    assert "not a picture that Loupe reads" in reasons
    assert "outside its picture" in reasons
    recipe = recipe_of("instruct", f"data.0.path={folder}")
    training = Training(recipe, silent)
    training.stage.tally = training.stage.tally.__class__(0.1, least=5)
    with pytest.raises(LoupeError, match="samples are bad, more than bad_share"):
        fit(training, recipe.loop, tmp_path / "stops", silent)


def test_a_picture_that_is_validated_on_is_never_learned(recipe_of, tmp_path):
    valid = tmp_path / "valid.jsonl"  # its content is that of 3.png too
    valid.write_text('{"image": "0.png", "question": "what colour?", "answer": "red"}')
    apart = [f"validate.0.path={valid}", "learn_validated=false"]
    recipe = recipe_of(
        "instruct", *apart, f"validate.0.images={recipe_of('instruct').data[0].path}/images"
    )
    training = train(recipe)
    assert {Path(key).name for key in training.stage.both} == {"0.png", "3.png"}
    (line,) = training.report()
    assert line == "2 pictures are validated on too: not learned"
    nothing_left = recipe_of("instruct", "learn_validated=false")
    with pytest.raises(LoupeError, match=r"validated on too: give \[\[data\]\] others"):
        fit(Training(nothing_left, silent), nothing_left.loop, tmp_path / "stops", silent)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["loop.stepz=3"], "did you mean 'steps'"),
        (["start.checkpoint=nowhere"], "holds no config.json"),
        (['start.checkpoint=""', "stage=stage3"], "stage"),
        (["bridge.qformer.encoder_hidden_size=99"], "are 24 wide: set it to 24"),
        (["data.0.path=nowhere"], "check path"),
        (["data.1.path=nowhere"], "the list has tables 0 to 0"),
        (["lora.targets=['nothing']"], "no layer of the language model is called so"),
        (["trains.bridge=false"], "nothing is trained"),
        (["prompt.composer=text"], "is not trained"),
        (["data.0.weight=0"], "must be above 0"),
        (["momentum.queue=9"], "teaches stage1"),
        (["quantize=nf4"], "add [lora]"),
    ],
)
def test_a_recipe_that_does_not_fit_says_so_in_one_line(recipe_of, changes, says):
    with pytest.raises(LoupeError) as error:
        Training(recipe_of("instruct", *changes), silent)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_stage_1_needs_something_to_tell_apart(recipe_of):
    with pytest.raises(LoupeError, match="at least two in a batch"):
        recipe_of("stage1", "loop.batch=1", "turns=1")


def test_the_command_says_how_to_resume(recipe_of, tmp_path, capsys):
    recipe_of("instruct")
    file = str(tmp_path / "recipe.toml")
    assert main([file, "--set", "loop.steps=2"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "checkpoint")
    with pytest.raises(LoupeError, match="holds a run at step 2: go on with --resume auto"):
        main([file])
    assert main([file, "--resume", "auto"]) == 0
    assert "resumed at step 2 of 4" in capsys.readouterr().err


def test_captions_are_read_as_blip_2_reads_them():
    assert plain('A "Red" car: here.') == "a red car here"
    assert len(plain("word " * 90).split()) == 50


def test_rows_that_say_or_show_the_same_are_no_negatives():
    rows = [("a cat", "p1"), ("a dog", "p1"), ("a cat", "p2"), ("a bird", "p3")]
    first, second, third, fourth = same_targets(rows).tolist()
    assert first == second == third != fourth
    assert same_targets(rows[3:]).item() == fourth


def test_a_tally_without_bad_ones_never_stops():
    tally = Tally(0.0, least=1)
    tally.ok()
    assert tally.bad == 0


def test_two_shares_of_an_evaluation_are_the_whole(recipe_of):
    training = Training(recipe_of("instruct"), silent)
    training.module.eval()
    sums: list[list[float]] = []

    def keep(numbers: list[float]) -> list[float]:
        sums.append(numbers)
        return numbers

    for rank, world in ((0, 1), (0, 2), (1, 2)):
        training.evaluate(Share(rank, world, keep))
    together, one, other = (torch.tensor(numbers) for numbers in sums)
    torch.testing.assert_close(one + other, together)
    assert one[0]
    assert other[0]
