"""A bridge may know what its training pictures looked like."""

import dataclasses

import pytest
import torch
from fakes import picture, tiny_assistant

from qformer.bridge import Bridge
from qformer.familiarity import Familiarity


def embeds(count, seed, tokens=30, width=12):
    """image_embeds whose channels hang together, off centre, of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, tokens, width, generator=generator)
    mixed = values @ torch.randn(width, width, generator=torch.Generator().manual_seed(0))
    return (mixed + 3) * torch.logspace(-2, 2, width)


@pytest.fixture
def familiarity():
    fitted = Familiarity(12)
    fitted.fit(embeds(400, seed=1).split(64))
    return fitted


def rate(familiarity, image_embeds):
    return float((familiarity.distance(image_embeds) <= 1).float().mean())


def test_nearly_all_pictures_of_the_training_kind_are_familiar(familiarity):
    assert rate(familiarity, embeds(400, seed=1)) == pytest.approx(0.995, abs=0.003)
    assert rate(familiarity, embeds(400, seed=2)) > 0.97


def test_other_pictures_are_not(familiarity):
    assert rate(familiarity, 2 * embeds(50, seed=3)) == 0
    assert rate(familiarity, embeds(50, seed=3).flip(-1)) == 0
    swapped = embeds(50, seed=3)  # each channel as ever, but they no longer hang together
    for channel in range(12):
        swapped[..., channel] = swapped[..., channel].roll(channel, dims=0)
    assert rate(familiarity, swapped) < 0.2


def test_the_order_of_tokens_does_not_matter(familiarity):
    image_embeds = embeds(20, seed=4)
    torch.testing.assert_close(
        familiarity.distance(image_embeds.flip(1)), familiarity.distance(image_embeds)
    )


def test_batches_do_not_matter(familiarity):
    whole = Familiarity(12)
    whole.fit([embeds(400, seed=1)])
    torch.testing.assert_close(whole.whiten, familiarity.whiten)


def test_a_channel_without_variance_is_no_obstacle():
    image_embeds = embeds(50, seed=1)
    image_embeds[..., 5] = 7
    fitted = Familiarity(12)
    fitted.fit([image_embeds])
    assert rate(fitted, image_embeds) > 0.9


def test_too_few_pictures_are_refused():
    with pytest.raises(ValueError, match="12 pictures cannot tell 12 channels"):
        Familiarity(12).fit([embeds(12, seed=1)])


def test_it_survives_half_precision(familiarity):
    stored = Familiarity(12)
    stored.load_state_dict({k: v.half() for k, v in familiarity.state_dict().items()})
    torch.testing.assert_close(
        stored.distance(embeds(50, seed=2)),
        familiarity.distance(embeds(50, seed=2)),
        rtol=0.02,
        atol=0,
    )


def test_a_view_tells_whether_it_is_familiar():
    view = tiny_assistant().encode(picture())
    assert view.assistant.bridge.familiarity is None
    assert view.familiar is True  # the bridge does not know
    fitted = Familiarity(view.assistant.vision.width)
    view.assistant.bridge.familiarity = fitted
    assert view.familiar is True  # nothing was learned yet
    fitted.fit([view.assistant.encode(picture(seed=i)).image_embeds for i in range(60)])
    assert view.familiar is True
    assert view.assistant.encode(torch.full((40, 40, 3), 255, dtype=torch.uint8)).familiar is False


def test_a_bridge_has_it_only_where_its_config_says_so():
    config = tiny_assistant().bridge.config
    plain = Bridge(config).state_dict()
    knowing = Bridge(dataclasses.replace(config, familiarity=True)).state_dict()
    assert knowing.keys() - plain.keys() == {"familiarity.mean", "familiarity.whiten"}
