"""The Q-Former's behaviours: attention patterns, cached memory and prefix, batched passes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qformer import QFormer, QFormerConfig
from qformer.masks import self_attention_mask
from qformer.qformer import QFormerPass

CONFIG = QFormerConfig(
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    intermediate_size=64,
    encoder_hidden_size=24,
    num_queries=5,
    vocab_size=50,
    max_positions=20,
    cls_id=1,
    dec_id=49,
    itc_size=8,
)


@pytest.fixture
def qformer():
    torch.manual_seed(0)
    model = QFormer(CONFIG).eval()
    for parameter in model.parameters():  # far from the start, so that nothing is near zero
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def image_embeds():
    return torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def input_ids():
    return torch.randint(2, 49, (2, 6), generator=torch.Generator().manual_seed(2))


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_the_bridge_imports_with_torch_alone():
    blocked = "transformers", "numpy", "PIL", "safetensors", "peft", "gradio", "adapters"
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r}));"
        "import qformer; import qformer.convert; print(qformer.QFormer.__name__)"
    )
    checkout = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "QFormer", done.stderr


def test_query_tokens_start_apart():
    query_tokens = QFormer(CONFIG).query_tokens[0]
    assert torch.pdist(query_tokens).min() > 0.01
    assert 0.01 < query_tokens.std() < 0.03


def test_keys_and_values_of_a_picture_are_computed_once(qformer, image_embeds, input_ids):
    calls = []
    for index in CONFIG.cross_attention_layers:
        layer = qformer.layers[index].cross_attention
        layer.key.register_forward_hook(lambda *_: calls.append("key"))
        layer.value.register_forward_hook(lambda *_: calls.append("value"))
    memory = qformer.remember(image_embeds)
    once = sorted(calls)
    assert once == ["key", "key", "value", "value"]
    qformer(memory)
    qformer(memory, patch_bias=torch.zeros(6, 7))
    qformer(memory, input_ids=input_ids)
    assert sorted(calls) == once


@pytest.mark.parametrize("with_text", [False, True])
def test_many_passes_in_one_equal_single_passes(qformer, image_embeds, with_text):
    memory = qformer.remember(image_embeds)
    bias, query_embeds = torch.randn(6, 7), torch.randn(6, 5, 32)
    bias[3, 2:] = -torch.inf
    text = torch.randint(2, 49, (6, 4)) if with_text else None
    offsets = torch.randn(6, 4, 32) if with_text else None
    attention = torch.ones(6, 4) if with_text else None
    if with_text:
        attention[1, 2:] = 0
    together = qformer(
        memory,
        query_embeds=query_embeds,
        patch_bias=bias,
        input_ids=text,
        attention_mask=attention,
        text_offsets=offsets,
        return_maps=True,
    )
    for row in range(6):
        one = slice(row, row + 1)
        alone = qformer(
            memory.select(torch.tensor([row // 3])),
            query_embeds=query_embeds[one],
            patch_bias=bias[one],
            input_ids=text[one] if with_text else None,
            attention_mask=attention[one] if with_text else None,
            text_offsets=offsets[one] if with_text else None,
            return_maps=True,
        )
        close(together.query_embeds[one], alone.query_embeds)
        for many, single in zip(together.maps, alone.maps, strict=True):
            close(many[one], single)


def test_a_hidden_patch_cannot_change_anything(qformer, image_embeds):
    bias = torch.zeros(2, 7)
    bias[:, 4:] = -torch.inf
    before = qformer(qformer.remember(image_embeds), patch_bias=bias).query_embeds
    changed = image_embeds.clone()
    changed[:, 4:] = 100 * torch.randn(2, 3, 24)
    after = qformer(qformer.remember(changed), patch_bias=bias).query_embeds
    assert (before - after).abs().max() == 0


def test_patch_bias_may_differ_by_layer(qformer, image_embeds):
    memory, bias = qformer.remember(image_embeds), torch.randn(4, 7)
    same = qformer(memory, patch_bias=bias.expand(2, 4, 7)).query_embeds
    close(same, qformer(memory, patch_bias=bias).query_embeds)
    other = qformer(memory, patch_bias=torch.stack([bias, 2 * bias])).query_embeds
    assert not torch.allclose(same, other, atol=1e-3)
    with pytest.raises(ValueError, match="3 layers"):
        qformer(memory, patch_bias=bias.expand(3, 4, 7))


def test_attention_maps_are_the_attention_that_is_used(qformer, image_embeds):
    memory, bias = qformer.remember(image_embeds), torch.zeros(4, 7)
    bias[1, 3:] = -torch.inf
    output = qformer(memory, patch_bias=bias, return_maps=True)
    close(output.query_embeds, qformer(memory, patch_bias=bias).query_embeds)
    assert [tuple(one.shape) for one in output.maps] == [(4, 4, 5, 7)] * 2
    for one in output.maps:
        close(one.sum(-1), torch.ones(4, 4, 5))
        assert one[1, :, :, 3:].max() == 0


def test_passes_run_together_are_what_each_is_alone(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    shown = torch.ones_like(input_ids)
    shown[1, 4:] = 0
    bias = torch.zeros(4, 7)
    bias[1, 2:] = -torch.inf
    passes = [
        QFormerPass(memory),
        QFormerPass(input_ids=input_ids, attention_mask=shown),
        QFormerPass(memory, input_ids=input_ids.repeat(2, 1), patch_bias=bias, return_text=False),
        QFormerPass(input_ids=input_ids, attention_mask=shown, prefix=0, pattern="causal"),
    ]
    together = qformer.run(passes)
    passes[3].prefix = together[0].prefix
    for found, one in zip(together, passes, strict=True):
        (alone,) = qformer.run([one])
        for name in ("query_embeds", "text_embeds"):
            ours, theirs = getattr(found, name), getattr(alone, name)
            assert (ours is None) == (theirs is None), name
            if ours is not None:
                close(ours, theirs)


def test_a_pass_cannot_go_on_from_one_that_comes_later(qformer, image_embeds, input_ids):
    ahead = QFormerPass(input_ids=input_ids, prefix=1, pattern="causal")
    with pytest.raises(ValueError, match="before this one"):
        qformer.run([ahead, QFormerPass(qformer.remember(image_embeds))])


def test_generation_by_prefix_equals_one_masked_pass(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    queries = qformer(memory)
    one_pass = qformer(memory, input_ids=input_ids, pattern="causal")
    cached = qformer(input_ids=input_ids, prefix=queries.prefix, pattern="causal")
    close(cached.text_embeds, one_pass.text_embeds)
    close(queries.query_embeds, one_pass.query_embeds)  # queries never see text
    assert cached.query_embeds is None


def test_causal_text_cannot_see_what_follows(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    changed = input_ids.clone()
    changed[:, 4:] = 3
    before = qformer(memory, input_ids=input_ids, pattern="causal").text_embeds
    after = qformer(memory, input_ids=changed, pattern="causal").text_embeds
    assert before[:, :4].equal(after[:, :4])
    assert not before[:, 4:].equal(after[:, 4:])


def test_unimodal_equals_two_separate_passes(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    attention_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    text = {"input_ids": input_ids, "attention_mask": attention_mask}
    both = qformer(memory, **text, pattern="unimodal")
    close(both.query_embeds, qformer(memory).query_embeds)
    close(both.text_embeds, qformer(**text).text_embeds)


def test_bidirectional_queries_and_text_see_each_other(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    both = qformer(memory, input_ids=input_ids)
    assert not torch.allclose(both.query_embeds, qformer(memory).query_embeds, atol=1e-3)
    text = qformer(input_ids=input_ids).text_embeds
    assert not torch.allclose(both.text_embeds, text, atol=1e-3)


@pytest.mark.parametrize("pattern", ["bidirectional", "unimodal", "causal"])
def test_padding_changes_nothing(qformer, image_embeds, input_ids, pattern):
    memory = qformer.remember(image_embeds)
    padded = torch.cat([input_ids, torch.zeros(2, 3, dtype=torch.long)], dim=1)
    attention_mask = (padded != 0).long()
    short = qformer(memory, input_ids=input_ids, pattern=pattern)
    long = qformer(memory, input_ids=padded, attention_mask=attention_mask, pattern=pattern)
    close(long.query_embeds, short.query_embeds)
    close(long.text_embeds[:, :6], short.text_embeds)


@pytest.mark.parametrize("pattern", ["bidirectional", "unimodal", "causal"])
def test_text_rows_can_be_spared(qformer, image_embeds, input_ids, pattern):
    memory = qformer.remember(image_embeds)
    whole = qformer(memory, input_ids=input_ids, pattern=pattern)
    spared = qformer(memory, input_ids=input_ids, pattern=pattern, return_text=False)
    assert spared.text_embeds is None
    close(spared.query_embeds, whole.query_embeds)


def test_no_mask_is_built_where_everything_is_visible():
    assert self_attention_mask("causal", 5, 0) is None
    assert self_attention_mask("bidirectional", 5, 3, torch.ones(2, 3)) is None
    assert self_attention_mask("unimodal", 0, 3) is None


def test_text_offsets_are_added_to_the_word_embeddings(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    plain = qformer(memory, input_ids=input_ids).query_embeds
    offsets = torch.zeros(2, 6, 32)
    assert qformer(memory, input_ids=input_ids, text_offsets=offsets).query_embeds.equal(plain)
    changed = input_ids.clone()
    changed[:, 2] = 7
    words = qformer.word_embeddings.weight
    offsets[:, 2] = words[7] - words[input_ids[:, 2]]
    moved = qformer(memory, input_ids=input_ids, text_offsets=offsets).query_embeds
    close(moved, qformer(memory, input_ids=changed).query_embeds)
    assert not torch.allclose(moved, plain, atol=1e-4)


def test_image_attention_mask_hides_tokens(qformer, image_embeds):
    mask = torch.ones(2, 7)
    mask[1, 5:] = 0
    hidden = qformer(qformer.remember(image_embeds, mask)).query_embeds
    close(hidden[1:], qformer(qformer.remember(image_embeds[1:, :5])).query_embeds)
    with pytest.raises(ValueError, match="hides every token"):
        qformer.remember(image_embeds, torch.tensor([[1.0] * 7, [0.0] * 7]))
    memory = qformer.remember(image_embeds, mask)
    bias = torch.full((2, 7), -torch.inf)
    bias[:, 6] = 0  # the one patch the bias shows is one that row 1's mask hides
    with pytest.raises(ValueError, match="hides every patch"):
        qformer(memory, patch_bias=bias)


def test_rows_that_do_not_fit_are_refused(qformer, image_embeds, input_ids):
    memory = qformer.remember(image_embeds)
    with pytest.raises(ValueError, match="multiple of 2 pictures"):
        qformer(memory, patch_bias=torch.zeros(3, 7))
    with pytest.raises(ValueError, match="must agree"):
        qformer(memory, patch_bias=torch.zeros(4, 7), input_ids=input_ids)
    with pytest.raises(ValueError, match="9 image tokens of 7"):
        qformer(memory, patch_bias=torch.zeros(2, 9))
    with pytest.raises(ValueError, match="24"):
        qformer.remember(torch.zeros(1, 7, 23))
    with pytest.raises(ValueError, match="max_positions=20"):
        qformer(input_ids=torch.ones(1, 21, dtype=torch.long))
    with pytest.raises(ValueError, match="give a memory"):
        qformer()
    with pytest.raises(ValueError, match="need a picture"):
        qformer(query_embeds=torch.zeros(2, 5, 32))
    with pytest.raises(ValueError, match="causal"):
        qformer(input_ids=input_ids, prefix=qformer(memory).prefix)
    with pytest.raises(ValueError, match="unknown pattern"):
        qformer(memory, input_ids=input_ids, pattern="both")


def test_a_stage_2_qformer_has_no_text_side(image_embeds, input_ids):
    whole = QFormer(CONFIG).eval()
    trimmed = QFormer(
        QFormerConfig(
            **{**vars(CONFIG), "vocab_size": 0, "text_feed_forward": False},
        )
    ).eval()
    missing, unexpected = trimmed.load_state_dict(whole.state_dict(), strict=False)
    assert missing == []
    assert all("embeddings" in name or "text_feed_forward" in name for name in unexpected)
    close(
        trimmed(trimmed.remember(image_embeds)).query_embeds,
        whole(whole.remember(image_embeds)).query_embeds,
    )
    with pytest.raises(ValueError, match="no text side"):
        trimmed(trimmed.remember(image_embeds), input_ids=input_ids)


def test_bfloat16_by_autocast_and_by_weights(qformer, image_embeds, input_ids):
    bias = torch.randn(4, 7)
    expected = qformer(qformer.remember(image_embeds), patch_bias=bias).query_embeds

    def near(actual):
        assert torch.nn.functional.cosine_similarity(actual.float(), expected, dim=-1).min() > 0.99

    memory = qformer.remember(image_embeds)
    with torch.autocast("cpu", torch.bfloat16):
        near(qformer(memory, patch_bias=bias).query_embeds)  # float32 memory is fine too
        memory = qformer.remember(image_embeds)
        near(qformer(memory, patch_bias=bias).query_embeds)
        near(qformer(memory, patch_bias=bias, return_maps=True).query_embeds)
        qformer(input_ids=input_ids, prefix=qformer(memory).prefix, pattern="causal")
    qformer = qformer.bfloat16()
    memory = qformer.remember(image_embeds)
    near(qformer(memory, patch_bias=bias).query_embeds)
    near(qformer(memory, patch_bias=bias, return_maps=True).query_embeds)


def test_dropout_is_off_in_evaluation_and_on_in_training(qformer, image_embeds):
    memory = qformer.remember(image_embeds)
    assert qformer(memory).query_embeds.equal(qformer(memory).query_embeds)
    qformer.train()
    assert not qformer(memory).query_embeds.equal(qformer(memory).query_embeds)
