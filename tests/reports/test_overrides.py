"""A recipe changes what it names of the checkpoint it starts from, and nothing else."""

import dataclasses
import json

import pytest
import tiny
import torch

from adapters.checkpoint import load_config
from adapters.convert import convert
from qformer.bridge import BridgeConfig
from qformer.config import Over, from_dict
from qformer.contracts import LoupeError
from train import cli
from train.data.inspect import wording_of
from train.parts import planned_parts
from train.recipe import read_recipe


@pytest.fixture
def start(tmp_path):
    """A published BLIP-2 as a checkpoint of ours: its prompt and decoding are no defaults."""
    import whole

    folder, _ = whole.make("blip2", "t5", tmp_path)
    convert(folder, tmp_path / "start", "loupe")
    return tmp_path / "start"


@pytest.fixture
def recipe(tmp_path, start):
    from PIL import Image

    (tmp_path / "mine" / "images").mkdir(parents=True)
    with (tmp_path / "mine" / "data.jsonl").open("w") as lines:
        for n in range(3):
            Image.new("RGB", (40, 40), (60 * n, 90, 30)).save(
                tmp_path / "mine" / "images" / f"{n}.png"
            )
            line = {"image": f"{n}.png", "question": "what is this?", "answer": "dog"}
            lines.write(json.dumps(line) + "\n")
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'stage = "instruct"\noutput = "{tmp_path}/run"\n[start]\ncheckpoint = "{start}"\n'
        f'[cache]\nfolder = "{tmp_path}/features"\n[[data]]\nformat = "folder"\n'
        f'path = "{tmp_path}/mine"\n[loop]\nsteps = 1\nbatch = 2\n'
    )
    return file


def changed(before, after, path=""):
    """Names of the settings that differ."""
    before, after = (dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one
                     for one in (before, after))  # fmt: skip
    if not isinstance(before, dict) or not isinstance(after, dict):
        return set() if before == after else {path}
    return set().union(*(
        changed(before.get(key), after.get(key), f"{path}.{key}".strip("."))
        for key in before.keys() | after.keys()
    ))  # fmt: skip


def test_one_changed_setting_of_each_table_leaves_the_others_as_the_start_has_them(
    tmp_path, start, recipe
):
    changes = ("prompt.composer=global+regions", "decoding.max_new_tokens=7",
               "bridge.qformer.dropout=0.2", "bridge.region.focal_patches=9")  # fmt: skip
    words = [word for change in changes for word in ("--set", change)]
    assert cli.main([str(recipe), *words]) == 0
    before, after = load_config(start), load_config(tmp_path / "run" / "checkpoint")
    for part, named in (
        ("prompt", {"composer"}),
        ("decoding", {"max_new_tokens"}),
        ("bridge", {"qformer.dropout", "region.focal_patches"}),
    ):
        assert changed(getattr(before, part), getattr(after, part)) == named


def test_what_data_check_shows_is_worded_as_it_is_learned(start, recipe):
    read = read_recipe(recipe, ["prompt.composer=global+regions", 'prompt.question="Q {question}"'])
    prompt = wording_of(read.start.checkpoint, read).prompt
    assert changed(load_config(start).prompt, prompt) == {"composer", "question"}


def test_a_setting_of_a_frozen_part_keeps_its_kind_and_place(start, recipe):
    own = planned_parts(read_recipe(recipe))
    named = planned_parts(read_recipe(recipe, ["start.vision.image_size=48"]))
    assert named["vision"] == dataclasses.replace(own["vision"], image_size=48)
    assert named["language"] == own["language"]
    other = read_recipe(recipe, ['start.language.path="elsewhere"'])
    assert planned_parts(other)["language"].kind == own["language"].kind
    assert other.start.replaces("language")
    assert not read_recipe(recipe, ['start.language.stop="."']).start.replaces("language")


def test_a_part_that_nothing_tells_the_rest_of_is_refused(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        'stage = "stage1"\n[[data]]\nformat = "folder"\npath = "x"\n[loop]\nsteps = 1\nbatch = 2\n'
        '[start.vision]\nkind = "hf"\n'
    )
    with pytest.raises(LoupeError, match=r"missing key .*start.vision.path"):
        planned_parts(read_recipe(file))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"qfromer": {}}, "unknown key 'bridge.qfromer'; did you mean 'qformer'"),
        ({"qformer": {"drop": 0.1}}, "unknown key 'bridge.qformer.drop'"),
        ({"qformer": {"dropout": "much"}}, "expected float"),
        ({"qformer": 3}, "bridge.qformer: expected a table"),
    ],
)
def test_what_is_named_is_read_as_strictly_as_a_whole_table(values, message):
    @dataclasses.dataclass(frozen=True)
    class Holder:
        bridge: Over[BridgeConfig] | None = None

    globals()["BridgeConfig"], globals()["Over"] = BridgeConfig, Over
    with pytest.raises(LoupeError, match=message):
        from_dict(Holder, {"bridge": values})


def test_a_stage_1_start_is_worded_by_the_recipes_language_model(tmp_path):
    root = tiny.loupe(tmp_path / "model")
    config = json.loads((root / "config.json").read_text())
    torch.manual_seed(0)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'stage = "instruct"\n[start]\ncheckpoint = "{root}"\n[start.language]\n'
        f'path = "{tiny.llama(tmp_path / "llama")}"\n[[data]]\nformat = "folder"\npath = "x"\n'
        "[loop]\nsteps = 1\nbatch = 2\n"
    )
    read = read_recipe(recipe)
    assert planned_parts(read)["language"].kind == config["language"]["kind"]
    assert wording_of(read.start.checkpoint, read) is not None
