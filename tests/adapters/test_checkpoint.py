"""Checkpoints: whole or refused, and `build` from end to end."""

import dataclasses
import json
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from adapters import build
from adapters.build import open_segmenter
from adapters.checkpoint import (
    MANIFEST,
    load_config,
    load_trained,
    save_checkpoint,
    verify,
    write_manifest,
)
from adapters.config import CheckpointConfig
from qformer.config import from_dict
from qformer.contracts import CheckpointError, Decoding, LoupeError


@pytest.fixture
def checkpoint(tiny_folder, tmp_path):
    """A copy of the tiny model that a test may damage."""
    shutil.copytree(tiny_folder("loupe").parent, tmp_path / "model")
    return tmp_path / "model" / "loupe"


def change(checkpoint, **values):
    """Edit config.json as a careful hand would."""
    file = checkpoint / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    write_manifest(checkpoint)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_an_assistant_is_built_whole(tiny_assistant, image):
    assert not any(module.training for module in tiny_assistant.modules())
    view = tiny_assistant.encode(image)
    region = view.click(30, 20)
    assert isinstance(view.ask("what is this?", [region]), str)
    assert tiny_assistant.config.domain == "tiny random weights"


def test_building_twice_gives_the_same_assistant(tiny_folder, tiny_assistant, image):
    again = build(tiny_folder("loupe")).encode(image)
    torch.testing.assert_close(again.image_embeds, tiny_assistant.encode(image).image_embeds)
    assert again.ask("how many?") == tiny_assistant.encode(image).ask("how many?")


def test_frozen_parts_may_compute_in_half_precision(tiny_folder, image):
    assistant = build(tiny_folder("loupe"), dtype=torch.bfloat16)
    assert assistant.language.dtype == torch.bfloat16
    assert {value.dtype for value in assistant.bridge.parameters()} == {torch.float32}
    view = assistant.encode(image)
    regions = [view.click(30, 20), view.box(3, 4, 30, 30)]
    assert isinstance(view.ask("which is bigger?", regions), str)


def test_a_checkpoint_can_be_moved(checkpoint, tmp_path, image):
    checkpoint.parent.rename(tmp_path / "elsewhere")
    assert build(tmp_path / "elsewhere" / "loupe").encode(image)


def test_the_bridge_survives_saving_bit_for_bit(checkpoint, tiny_assistant):
    bridge = load_trained(checkpoint, load_config(checkpoint))[0]
    for name, value in tiny_assistant.bridge.state_dict().items():
        assert torch.equal(bridge.state_dict()[name], value), name
    assert {value.dtype for value in bridge.parameters()} == {torch.float32}
    assert all(value.requires_grad for value in bridge.parameters())


def test_weights_stored_in_half_precision_open_in_float32(checkpoint, tiny_assistant):
    config = load_config(checkpoint)
    save_checkpoint(checkpoint, config, tiny_assistant.bridge, dtype=torch.float16)
    stored = load_file(checkpoint / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    assert {v.dtype for v in load_trained(checkpoint, config)[0].parameters()} == {torch.float32}


def test_the_config_survives_saving(checkpoint):
    config = load_config(checkpoint)
    assert from_dict(CheckpointConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_a_lora_is_merged_at_load(tiny_folder, tmp_path, image):
    with_lora = tiny.loupe(tmp_path, lora=True)
    assert (with_lora / "lora" / "adapter_model.safetensors").is_file()
    merged, plain = build(with_lora).language, build(tiny_folder("loupe")).language
    prompt = torch.randn(3, merged.width)
    answer = [torch.tensor([9, 8])]
    assert (merged.loss([prompt], answer) - plain.loss([prompt], answer)).abs() > 1e-3
    flip(with_lora / "lora" / "adapter_model.safetensors", -5)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is damaged"):
        build(with_lora)


def test_saving_replaces_the_old_checkpoint_at_once(checkpoint, tiny_assistant):
    config = dataclasses.replace(load_config(checkpoint), decoding=Decoding(max_new_tokens=3))
    save_checkpoint(checkpoint, config, tiny_assistant.bridge)
    assert build(checkpoint).config.decoding.max_new_tokens == 3
    assert {one.name for one in checkpoint.parent.iterdir()} == {
        "language",
        "loupe",
        "segmenter",
        "vision",
    }


def test_a_failed_save_leaves_the_old_checkpoint(checkpoint, tiny_assistant, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(checkpoint, load_config(checkpoint), tiny_assistant.bridge)
    verify(checkpoint)
    assert len(list(checkpoint.parent.iterdir())) == 4


def guarded_files():
    own = ["config.json", "model.safetensors", MANIFEST]
    language = ["config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"]
    pictures = ["config.json", "model.safetensors", "preprocessor_config.json"]
    parts = {"language": language, "vision": pictures, "segmenter": pictures}
    return own + [f"../{part}/{name}" for part, names in parts.items() for name in names]


@pytest.mark.parametrize("name", guarded_files())
def test_a_file_that_lacks_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(CheckpointError) as error:
        build(checkpoint)
    assert name.split("/")[-1] in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in guarded_files() if name != MANIFEST])
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_bit_is_found_before_anything_is_read(checkpoint, name, position):
    flip(checkpoint / name, position)
    with pytest.raises(CheckpointError, match=r"damaged|not readable") as error:
        build(checkpoint)
    assert name.split("/")[-1] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_manifest_is_found(checkpoint):
    size = (checkpoint / MANIFEST).stat().st_size
    for position in (0, 3, size // 2, size // 3):
        flip(checkpoint / MANIFEST, position)
        with pytest.raises(CheckpointError):
            build(checkpoint)
        flip(checkpoint / MANIFEST, position)
    build(checkpoint)


@pytest.mark.parametrize("model", ["embeded", "no/such/folder"])
def test_what_is_no_model_says_what_is_accepted(model):
    with pytest.raises(CheckpointError, match="'photos', 'paintings', the folder of a Loupe"):
        build(model)


def test_a_hub_id_that_cannot_be_had_says_how_to_bring_the_files(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("transformers.utils.cached_file", unreachable)
    for open_it in (build, open_segmenter):
        with pytest.raises(CheckpointError, match="copy the model's files into a folder"):
            open_it("Salesforce/blip2-opt-2.7b")


def test_a_folder_of_another_kind_says_what_is_accepted(tiny_folder):
    with pytest.raises(CheckpointError, match="is of another kind"):
        build(tiny_folder("vit"))


def test_an_unknown_key_is_named_with_the_nearest(checkpoint):
    change(checkpoint)  # as it was, and whole
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["decodng"] = settings.pop("decoding")
    (checkpoint / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="did you mean 'decoding'"):
        load_config(checkpoint)


def test_an_unknown_kind_or_format_is_an_error(checkpoint):
    change(checkpoint, vision={"kind": "resnet", "path": "../vision"})
    with pytest.raises(CheckpointError, match="kind 'resnet' is unknown; known: hf"):
        build(checkpoint)
    with pytest.raises(LoupeError, match="format=2"):
        change(checkpoint, format=2)


def test_weights_that_do_not_fit_the_config_are_counted(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    weights["surplus"] = weights.pop("image_layernorm.weight")
    save_file(weights, checkpoint / "model.safetensors")
    write_manifest(checkpoint)
    with pytest.raises(CheckpointError, match=r"1 weights missing .*1 unexpected \(surplus\)"):
        build(checkpoint)
    weights["image_layernorm.weight"] = weights.pop("surplus")[:-1].contiguous()
    save_file(weights, checkpoint / "model.safetensors")
    write_manifest(checkpoint)
    with pytest.raises(CheckpointError, match=r"image_layernorm\.weight is \(23,\), expected"):
        build(checkpoint)


def test_another_segmenter_can_be_chosen(checkpoint, tiny_folder, image):
    change(checkpoint, segmenter=None)
    assert build(checkpoint).segmenter is None
    assistant = build(checkpoint, segmenter=tiny_folder("sam"))
    assert assistant.encode(image).click(5, 5).area > 0


def test_a_segmenter_of_another_kind_says_what_is_known(tiny_folder, tmp_path):
    with pytest.raises(CheckpointError, match="a 'vit' model; as segmenters these are known: sam"):
        build(tiny_folder("loupe"), segmenter=tiny_folder("vit"))
    with pytest.raises(CheckpointError, match="there is no segmenter"):
        build(tiny_folder("loupe"), segmenter=tmp_path / "nowhere")


def test_an_absolute_part_is_used_where_it_is(checkpoint, tiny_folder, image):
    change(checkpoint, vision={"kind": "hf", "path": str(tiny_folder("vit"))})
    assert "vision" not in (checkpoint / MANIFEST).read_text()
    assert build(checkpoint).encode(image)
