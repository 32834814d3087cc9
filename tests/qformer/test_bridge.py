import dataclasses

import pytest
import torch

from qformer.bridge import Bridge, BridgeConfig, Focal, PassRows, focal_slots
from qformer.config import QFormerConfig
from qformer.regions import RegionConfig

LEADING, PATCHES = 1, 16


def bridge_config(trainable=False, instruct=False, hide_leading=True):
    qformer = QFormerConfig(
        hidden_size=32,
        num_layers=3,
        num_heads=4,
        intermediate_size=48,
        encoder_hidden_size=24,
        num_queries=5,
        vocab_size=40,
        max_positions=16,
        cls_id=1,
        dec_id=39,
    )
    region = RegionConfig(trainable=trainable, hide_leading=hide_leading)
    return BridgeConfig(qformer, region, language_width=20, instruct=instruct, max_instruction=16)


def make_bridge(**options):
    torch.manual_seed(0)
    bridge = Bridge(bridge_config(**options)).eval()
    for parameter in bridge.qformer.parameters():  # away from BERT's flat start
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return bridge


def image_embeds(pictures=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(pictures, LEADING + PATCHES, 24, generator=generator)


def region_rows(*covered, focal=None):
    """One region row for each list of covered patches; None is a global row."""
    rows = PassRows.whole(len(covered), PATCHES)
    for index, patches in enumerate(covered):
        if patches is not None:
            rows.is_region[index] = True
            rows.patch_coverage[index] = 0
            rows.patch_coverage[index, patches] = torch.linspace(0.3, 1, len(patches))
            rows.geometry[index] = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.02])
    return dataclasses.replace(rows, focal=focal)


def focal_of(bridge, rows, seed=2):
    coverage = torch.zeros(len(rows), PATCHES)
    coverage[:, 4:9] = 0.8
    memory = bridge.remember(image_embeds(len(rows), seed))
    return Focal(memory, torch.tensor(rows), coverage)


def with_instruction(rows, length=6):
    ids = torch.arange(2, 2 + length).expand(len(rows), -1).clone()
    ids[:, 0] = 1
    named = torch.zeros(len(rows), length, dtype=torch.bool)
    named[:, 1:3] = True
    return dataclasses.replace(
        rows,
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        text_geometry=torch.rand(len(rows), length, 5),
        text_has_geometry=named,
    )


def trained(bridge):
    """Move every parameter of the upgrade away from the identity."""
    torch.manual_seed(3)
    for parameter in bridge.region_upgrade.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, std=0.5)
    return bridge


@pytest.mark.parametrize("trainable", [False, True])
def test_patches_outside_the_region_do_not_change_its_tokens(trainable):
    bridge = make_bridge(trainable=trainable)
    if trainable:
        trained(bridge)
    inside = [5, 6, 9]
    before, after = image_embeds(), image_embeds(seed=9) * 50
    after[:, [LEADING + patch for patch in inside]] = before[
        :, [LEADING + patch for patch in inside]
    ]
    rows = region_rows(None, inside)
    tokens = bridge.query(bridge.remember(before), rows)
    changed = bridge.query(bridge.remember(after), rows)
    assert (tokens[1] - changed[1]).abs().max() == 0
    assert (tokens[0] - changed[0]).abs().max() > 0.01


def test_patches_outside_do_not_change_the_tokens_of_a_focal_row_either():
    bridge = make_bridge()
    before, after = image_embeds(), image_embeds(seed=9)
    after[:, LEADING + 5] = before[:, LEADING + 5]
    crop_before, crop_after = image_embeds(seed=2), image_embeds(seed=8)
    crop_after[:, LEADING + 4 : LEADING + 9] = crop_before[:, LEADING + 4 : LEADING + 9]
    tokens = []
    for picture, crop in ((before, crop_before), (after, crop_after)):
        focal = dataclasses.replace(focal_of(bridge, [0]), memory=bridge.remember(crop))
        tokens.append(bridge.query(bridge.remember(picture), region_rows([5], focal=focal)))
    assert (tokens[0] - tokens[1]).abs().max() == 0


def test_the_leading_token_is_seen_where_the_config_says_so():
    for hide, seen in ((True, False), (False, True)):
        bridge = make_bridge(hide_leading=hide)
        before, after = image_embeds(), image_embeds()
        after[:, 0] += 5
        rows = region_rows([5, 6])
        tokens = bridge.query(bridge.remember(before), rows)
        assert torch.equal(tokens, bridge.query(bridge.remember(after), rows)) is not seen


@torch.no_grad()  # a bias that wants a gradient makes torch choose another attention kernel
def test_the_upgrade_starts_as_the_identity_bit_for_bit():
    plain, upgraded = make_bridge(instruct=True), make_bridge(instruct=True, trainable=True)
    missing, unexpected = upgraded.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("region_upgrade.") for name in missing)
    tokens = []
    for bridge in (plain, upgraded):
        rows = region_rows(None, [5, 6], [1, 2, 3], focal=focal_of(bridge, [1]))
        torch.manual_seed(5)
        tokens.append(bridge.query(bridge.remember(image_embeds()), with_instruction(rows)))
    assert torch.equal(*tokens)


def test_a_trained_upgrade_changes_region_rows_only():
    bridge = make_bridge(trainable=True)
    memory, rows = bridge.remember(image_embeds()), region_rows(None, [5, 6])
    before = bridge.query(memory, rows)
    after = bridge.query(memory, rows) if trained(bridge) else None
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 0.01


@pytest.mark.parametrize("trainable", [False, True])
def test_many_regions_at_once_equal_single_ones(trainable):
    bridge = make_bridge(trainable=trainable)
    if trainable:
        trained(bridge)
    memory = bridge.remember(image_embeds())
    patches = [None, [5, 6], [0], [1, 2, 3, 9], [15], list(range(16))]
    focal = focal_of(bridge, [2, 4])
    together = bridge.query(memory, region_rows(*patches, focal=focal))
    for index, one in enumerate(patches):
        alone = None
        if index in (2, 4):
            which = torch.tensor([[2, 4].index(index)])
            alone = Focal(
                focal.memory.select(which), torch.tensor([0]), focal.patch_coverage[which]
            )
        single = bridge.query(memory, region_rows(one, focal=alone))
        torch.testing.assert_close(together[index : index + 1], single, atol=1e-5, rtol=0)


def test_many_pictures_at_once_equal_single_ones():
    bridge = make_bridge()
    embeds = image_embeds(3)
    rows = region_rows(None, [1], None, [2, 3], None, [7], focal=focal_of(bridge, [1, 5]))
    together = bridge.query(bridge.remember(embeds), rows)
    for picture in range(3):
        which = [slot for slot, row in enumerate([1, 5]) if row // 2 == picture]
        focal = rows.focal
        alone = Focal(
            focal.memory.select(torch.tensor(which, dtype=torch.long)),
            torch.ones(len(which), dtype=torch.long),
            focal.patch_coverage[which],
        )
        patches = [[1], [2, 3], [7]][picture]
        single = bridge.query(
            bridge.remember(embeds[picture : picture + 1]), region_rows(None, patches, focal=alone)
        )
        torch.testing.assert_close(
            together[2 * picture : 2 * picture + 2], single, atol=1e-5, rtol=0
        )


def test_passes_split_are_the_same_passes():
    bridge = make_bridge(trainable=True)
    rows = region_rows(None, [1, 2], [3], [5, 6])
    rows = dataclasses.replace(rows, focal=focal_of(bridge, [1, 3]))
    memory = bridge.remember(image_embeds())
    together = bridge.query(memory, rows)
    alone = torch.cat([bridge.query(memory, one) for one in rows.split()])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


def test_picture_and_focal_crop_weigh_the_same():
    bridge = make_bridge()
    # 4 covered patches here, 5 in the crop; equal keys everywhere leave only the bias to tell
    for layer in bridge.qformer.layers:
        if layer.cross_attention is not None:
            torch.nn.init.zeros_(layer.cross_attention.key.weight)
    rows = region_rows([1, 2, 3, 9], focal=focal_of(bridge, [0]))
    rows.patch_coverage[rows.patch_coverage > 0] = 1
    rows.focal.patch_coverage[rows.focal.patch_coverage > 0] = 1
    for attention_map in bridge.read(bridge.remember(image_embeds()), rows, True).maps:
        weight = attention_map[..., : LEADING + PATCHES].sum(-1)
        torch.testing.assert_close(weight, torch.full_like(weight, 0.5))


def test_a_region_without_a_covered_patch_reads_its_crop_only():
    bridge = make_bridge()
    rows = region_rows([], focal=focal_of(bridge, [0]))
    tokens = bridge.query(bridge.remember(image_embeds()), rows)
    other = bridge.query(bridge.remember(image_embeds(seed=7)), rows)
    assert torch.isfinite(tokens).all()
    assert torch.equal(tokens, other)


def test_a_region_that_sees_nothing_raises():
    bridge = make_bridge()
    with pytest.raises(ValueError, match="hides every patch"):
        bridge.query(bridge.remember(image_embeds()), region_rows([]))


def test_focal_slots_count_up_within_a_picture():
    picture, slot, slots = focal_slots(torch.tensor([1, 2, 5, 6, 8]), passes=9, pictures=3)
    assert picture.tolist() == [0, 0, 1, 2, 2]
    assert slot.tolist() == [0, 1, 0, 0, 1]
    assert slots == 2


def test_gradients_reach_every_trained_part():
    bridge = trained(make_bridge(instruct=True, trainable=True)).train()
    rows = with_instruction(region_rows(None, [5, 6], [0]))
    rows.focal = focal_of(bridge, [2])
    bridge.project(bridge.query(bridge.remember(image_embeds()), rows)).square().sum().backward()
    for name, parameter in bridge.named_parameters():
        text_only = "text_feed_forward" in name and ".layers.2." in name  # after its last reader
        assert text_only or parameter.grad is not None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    for parameter in bridge.region_upgrade.parameters():
        assert parameter.grad.abs().max() > 0


def test_a_region_name_carries_its_geometry_into_the_instruction():
    bridge = trained(make_bridge(instruct=True, trainable=True))
    memory, rows = bridge.remember(image_embeds()), with_instruction(region_rows(None))
    moved = dataclasses.replace(rows, text_geometry=rows.text_geometry.roll(1, -1))
    assert (bridge.query(memory, rows) - bridge.query(memory, moved)).abs().max() > 1e-3
    unnamed = dataclasses.replace(rows, text_has_geometry=torch.zeros_like(rows.text_has_geometry))
    moved = dataclasses.replace(moved, text_has_geometry=unnamed.text_has_geometry)
    assert torch.equal(bridge.query(memory, unnamed), bridge.query(memory, moved))


def test_an_instruct_bridge_wants_its_instruction():
    bridge = make_bridge(instruct=True)
    with pytest.raises(ValueError, match="input_ids"):
        bridge.query(bridge.remember(image_embeds()), region_rows(None))


def test_maps_say_what_each_row_read():
    bridge = make_bridge()
    output = bridge.read(bridge.remember(image_embeds()), region_rows(None, [3, 4]), True)
    assert len(output.maps) == 2
    assert output.maps[0].shape == (2, 4, 5, LEADING + PATCHES)
    torch.testing.assert_close(output.maps[0].sum(-1), torch.ones(2, 4, 5))
    assert output.maps[0][1, ..., LEADING + 3 : LEADING + 5].sum(-1).min() > 0.999


def test_stage_one_has_no_projection():
    config = dataclasses.replace(bridge_config(), language_width=None)
    bridge = Bridge(config)
    with pytest.raises(ValueError, match="language_width"):
        bridge.project(torch.zeros(1, 5, 32))


@pytest.mark.parametrize(
    "change",
    [
        {"language_width": 0},
        {"instruct": True, "max_instruction": 17},
        {"instruct": True, "qformer": QFormerConfig(vocab_size=0)},
    ],
)
def test_bridge_config_checks_itself(change):
    with pytest.raises(ValueError, match=r"language_width|max_instruction|vocab_size"):
        dataclasses.replace(bridge_config(), **change)


def test_bfloat16_autocast_works():
    bridge = make_bridge(trainable=True)
    rows = region_rows(None, [3, 4], focal=focal_of(bridge, [1]))
    with torch.autocast("cpu", torch.bfloat16):
        tokens = bridge.project(bridge.query(bridge.remember(image_embeds()), rows))
    assert tokens.isfinite().all()


def test_several_passes_of_a_picture_without_a_region_are_rows_of_their_own():
    bridge = make_bridge()
    memory = bridge.remember(image_embeds(3))
    found = bridge.query(memory, PassRows.whole(12, PATCHES))
    alone = bridge.query(memory, PassRows.whole(3, PATCHES))
    torch.testing.assert_close(found, alone.repeat_interleave(4, 0))
