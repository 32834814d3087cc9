"""The hybrid ViT: a frozen trunk, and blocks that train over what it says."""

import json

import pytest
import tiny
import torch

from adapters.efficientnet import EfficientNetLite, lite0_state
from adapters.hybrid import HybridConfig, open_hybrid
from qformer.contracts import CheckpointError, LoupeError


@pytest.fixture
def folder(tmp_path):
    return tiny.hybrid(tmp_path / "vision", side=64)


def test_the_trunk_gives_maps_at_strides_16_and_32():
    maps = EfficientNetLite(tiny.trunk_state())(torch.randn(2, 3, 64, 96))
    assert maps.fine.shape == (2, 14, 4, 6)
    assert maps.coarse.shape == (2, 20, 2, 3)
    assert maps.head.shape == (2, 24, 2, 3)


@pytest.mark.parametrize("variant", ["lite0", "lite2"])
def test_the_trunk_is_the_reference_package(variant):
    reference = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    torch.manual_seed(0)
    theirs = reference.from_name(f"efficientnet-{variant}").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    if variant == "lite0":
        released = {n: v.shape for n, v in theirs.state_dict().items() if v.ndim}
        assert {n: v.shape for n, v in lite0_state().items()} == released
    ours = EfficientNetLite(theirs.state_dict())
    side = {"lite0": 224, "lite2": 260}[variant]  # for which the reference pads
    pixel_values = torch.randn(1, 3, side, side)
    with torch.no_grad():
        logits = ours.logits(ours(pixel_values).head.mean((2, 3)))
        torch.testing.assert_close(logits, theirs(pixel_values), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("gone", ["_conv_head.weight", "_blocks.3._bn1.running_var"])
def test_weights_of_something_else_are_refused_by_name(gone):
    state = tiny.trunk_state()
    del state[gone]
    with pytest.raises(CheckpointError, match="EfficientNet-Lite"):
        EfficientNetLite(state)


def test_a_folder_opens_as_it_was_saved(folder, tmp_path):
    encoder = open_hybrid(folder)
    assert encoder.grid == (2, 2)
    assert encoder.leading_tokens == 1
    assert not any(p.requires_grad for p in encoder.parameters())
    image = torch.randint(0, 255, (50, 70, 3), dtype=torch.uint8)
    image_embeds = encoder.encode(encoder.preprocess(image)[None])
    assert image_embeds.shape == (1, 5, 24)
    encoder.save(tmp_path / "again")
    again = open_hybrid(tmp_path / "again")
    torch.testing.assert_close(again.encode(again.preprocess(image)[None]), image_embeds)


def test_pixel_values_are_what_the_trunk_was_trained_on(folder):
    encoder = open_hybrid(folder)
    grey = encoder.preprocess(torch.full((64, 64, 3), 127, dtype=torch.uint8))
    torch.testing.assert_close(grey, torch.zeros(3, 64, 64), atol=1e-5, rtol=0)
    white = encoder.preprocess(torch.full((64, 64, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(white, torch.ones(3, 64, 64), atol=1e-5, rtol=0)


def test_the_trunk_never_trains_and_its_tokens_can_be_kept(folder):
    encoder = open_hybrid(folder)
    pixel_values = torch.randn(1, 3, 64, 64)
    kept = encoder.trunk_tokens(pixel_values)
    torch.testing.assert_close(encoder.blend(kept), encoder.encode(pixel_values))
    encoder.requires_grad_(True)
    encoder.blend(kept).sum().backward()
    trained = {name for name, p in encoder.model.named_parameters() if p.grad is not None}
    assert trained
    assert not any(name.startswith("trunk.") for name in trained)


def test_a_damaged_folder_says_what_to_do(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"hidden_size": 32}))
    with pytest.raises(CheckpointError, match="does not fit its config"):
        open_hybrid(folder)
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "vit"}))
    with pytest.raises(CheckpointError, match="vit"):
        open_hybrid(folder)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"num_heads": 3}, "num_heads"),
        ({"names_width": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_be_name_the_value(changed, says):
    with pytest.raises(LoupeError, match=says):
        HybridConfig(**({"trunk": "t"} | changed))


def test_a_package_that_is_not_set_up_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LOUPE_HOME", str(tmp_path / "home"))
    settings = json.loads((folder / "config.json").read_text())
    settings["trunk"] = "package:efficientnet-lite0"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="loupe setup"):
        open_hybrid(folder)


def test_training_keeps_the_trunks_tokens_while_the_blocks_train(folder, tmp_path):
    from train.features import Augment, CacheConfig, Sight

    class Kept:
        key = "kept"
        loads = 0

        def load(self):
            Kept.loads += 1
            return torch.full((40, 40, 3), 90, dtype=torch.uint8)

        def digest(self):
            return "0" * 64

    encoder = open_hybrid(folder)
    for trained in (True, False):
        sight = Sight(encoder, CacheConfig(str(tmp_path / "features")), Augment(), trained)
        seen = sight.look(Kept(), None)
        sight.encode([seen])
        stacked = sight.stack([seen])
        assert stacked.shape == (1, 5, sum(encoder.model.widths))
        encoder.requires_grad_(trained)
        assert sight.embeds(stacked).requires_grad == trained
    assert Kept.loads == 1
