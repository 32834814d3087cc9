"""The disk cache of features, and what augmentation does to it."""

import dataclasses

import numpy as np
import pytest
import torch

from adapters.vision import open_vision_encoder
from qformer.contracts import LoupeError
from train import features
from train.features import Augment, CacheConfig, FeatureCache, Seen, Sight, fingerprint


class Coloured:
    def __init__(self, number):
        self.number, self.loads = number, 0

    def digest(self):
        return f"{self.number:064d}"

    def load(self):
        self.loads += 1
        return torch.full((30, 40, 3), self.number * 20, dtype=torch.uint8)


@pytest.fixture(scope="module")
def vision(tiny_folder):
    """One of its own: a server may have made the shared assistant's calls its thread's."""
    return open_vision_encoder(tiny_folder("vit"))


def config(tmp_path, **more):
    return CacheConfig(str(tmp_path / "features"), **more)


def sees(sight, picture, rng=None):
    seen = sight.look(picture, rng)
    sight.encode([seen])
    return seen


@pytest.mark.parametrize(("dtype", "near"), [("bf16", 4e-3), ("int8", 1e-2)])
def test_a_second_look_costs_no_encoder_and_gives_the_same(vision, tmp_path, dtype, near):
    sight = Sight(vision, config(tmp_path, dtype=dtype), Augment(), trained=False)
    picture = Coloured(3)
    first = sees(sight, picture)
    plain = vision.encode(vision.preprocess(picture.load())[None])[0]
    assert (first.image_embeds.float() - plain).abs().max() < near * plain.abs().max()
    again = Sight(vision, config(tmp_path, dtype=dtype), Augment(), trained=False)
    second = again.look(picture, None)
    assert second.pixel_values is None
    assert torch.equal(second.image_embeds, first.image_embeds)
    assert second.size == (30, 40)
    assert picture.loads == 2


def test_features_of_another_encoder_or_another_setting_are_not_taken(vision, tiny_folder):
    from adapters.vision import HuggingFaceVisionEncoder, open_vision_encoder

    other = open_vision_encoder(tiny_folder("vit"))
    assert fingerprint(other) == fingerprint(open_vision_encoder(tiny_folder("vit")))
    with torch.no_grad():
        next(other.model.parameters()).flatten()[0] += 1e-3
    marks = {fingerprint(vision), fingerprint(other)}
    other.resample = "bilinear"
    marks.add(fingerprint(other))
    other.hidden_state = -2
    marks.add(fingerprint(other))
    assert len(marks) == 4
    assert isinstance(other, HuggingFaceVisionEncoder)


def test_a_damaged_file_is_made_again(vision, tmp_path):
    sight = Sight(vision, config(tmp_path), Augment(), trained=False)
    picture = Coloured(3)
    first = sees(sight, picture)
    (file,) = (path for path in (tmp_path / "features").rglob("*") if path.is_file())
    content = bytearray(file.read_bytes())
    for change in (lambda: content.__setitem__(99, content[99] ^ 1), lambda: content.clear()):
        change()
        file.write_bytes(content)
        assert torch.equal(sees(sight, picture).image_embeds, first.image_embeds)
    assert picture.loads == 3


def test_it_is_bounded_and_what_was_used_last_stays(vision, tmp_path):
    each = 17 * 24 * 2
    cache = FeatureCache(config(tmp_path, gigabytes=6.5 * (each + 80) / 1e9), vision)
    seen = Seen(torch.randn(17, 24), (30, 40))
    for number in range(20):
        cache.put(f"{number:064d}", seen)
        assert cache.get("0" * 64) is not None
    assert len([path for path in cache.folder.rglob("*") if path.is_file()]) <= 8


def test_a_full_disk_keeps_nothing_more_and_training_goes_on(vision, tmp_path, monkeypatch):
    sight = Sight(vision, config(tmp_path), Augment(), trained=False)

    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features.os, "replace", no_room)
    assert sees(sight, Coloured(1)).image_embeds is not None
    assert sight.cache.full
    assert not [path for path in (tmp_path / "features").rglob("*") if path.is_file()]


def test_augmented_pictures_are_never_kept(vision, tmp_path):
    sight = Sight(vision, config(tmp_path), Augment(crop=0.5, flip=True), trained=False)
    assert sight.cache is None
    image = torch.arange(30 * 40 * 3).reshape(30, 40, 3).to(torch.uint8)
    shapes = {tuple(sight.augment.apply(image, np.random.default_rng(n)).shape) for n in range(9)}
    assert len(shapes) > 3
    assert all(15 <= height <= 30 and 20 <= width <= 40 for height, width, _ in shapes)
    with pytest.raises(LoupeError, match="crop"):
        Augment(crop=0.0)


def test_a_trained_encoder_gets_gradients(vision, tmp_path):
    sight = Sight(vision, config(tmp_path), Augment(), trained=True)
    seen = sees(sight, Coloured(3))
    assert seen.image_embeds is None
    vision.requires_grad_(True)
    try:
        assert sight.embeds(sight.stack([seen])).requires_grad
    finally:
        vision.requires_grad_(False)


def test_a_folder_that_cannot_be_written_is_named(vision, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LoupeError, match="cannot be written"):
        FeatureCache(CacheConfig(str(tmp_path / "file")), vision)
    with pytest.raises(LoupeError, match="above 0"):
        dataclasses.replace(CacheConfig(), gigabytes=0.0)
