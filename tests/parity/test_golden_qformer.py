"""The Q-Former against numbers of the reference implementation (tests/golden)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from qformer import QFormer, QFormerConfig, Stage1
from qformer.convert import from_huggingface, from_lavis, to_huggingface, to_lavis
from qformer.losses import itg_loss

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "qformer_io.safetensors")


@pytest.fixture(scope="module")
def lavis_weights():
    weights = load_file(GOLDEN / "qformer_weights_lavis.safetensors")
    return {f"Qformer.{name}": tensor for name, tensor in weights.items()}


@pytest.fixture(scope="module")
def stage1(golden, lavis_weights):
    with safe_open(GOLDEN / "qformer_weights_lavis.safetensors", "pt") as file:
        told = json.loads(file.metadata()["config"])
    model = Stage1(
        QFormer(
            QFormerConfig(
                hidden_size=told["hidden"],
                num_layers=told["layers"],
                num_heads=told["heads"],
                intermediate_size=told["ffn"],
                cross_attention_frequency=told["cross_attention_freq"],
                encoder_hidden_size=told["encoder_width"],
                num_queries=told["num_query"],
                vocab_size=told["vocab_size"],
                max_positions=told["max_pos"],
                layer_norm_eps=told["layer_norm_eps"],
                pad_id=told["pad_id"],
                cls_id=told["cls_id"],
                dec_id=told["dec_id"],
                itc_size=16,
            )
        )
    )
    weights, homeless = from_lavis(lavis_weights | {"query_tokens": golden["in.query_tokens"]})
    assert homeless == []
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert unexpected == []
    heads = ("vision_projection", "text_projection", "itm_head", "temperature")
    assert all(name.startswith(heads) for name in missing)  # this file holds no such heads
    return model.eval()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_queries_read_the_image(stage1, golden):
    qformer = stage1.qformer
    whole = qformer(qformer.remember(golden["in.image_embeds"], golden["in.image_mask_full"]))
    close(whole.query_embeds, golden["out.queries_only.last_hidden_state"])
    part = qformer(qformer.remember(golden["in.image_embeds"], golden["in.image_mask_partial"]))
    close(part.query_embeds, golden["out.queries_only_imgmask.last_hidden_state"])


@torch.no_grad()
def test_hiding_tokens_by_patch_bias_equals_the_image_attention_mask(stage1, golden):
    bias = torch.zeros(golden["in.image_mask_partial"].shape)
    bias[golden["in.image_mask_partial"] == 0] = -torch.inf
    memory = stage1.qformer.remember(golden["in.image_embeds"])
    output = stage1.qformer(memory, patch_bias=bias)
    close(output.query_embeds, golden["out.queries_only_imgmask.last_hidden_state"])


@torch.no_grad()
def test_text_alone(stage1, golden):
    output = stage1.qformer(
        input_ids=golden["in.input_ids"], attention_mask=golden["in.attention_mask"]
    )
    close(output.text_embeds, golden["out.text_only.last_hidden_state"])


@torch.no_grad()
def test_queries_and_text_together(stage1, golden):
    qformer = stage1.qformer
    assert golden["in.query_plus_text_mask"][:, :8].all()
    output = qformer(
        qformer.remember(golden["in.image_embeds"]),
        input_ids=golden["in.input_ids"],
        attention_mask=golden["in.query_plus_text_mask"][:, 8:],
    )
    expected = golden["out.itm.last_hidden_state"]
    close(torch.cat([output.query_embeds, output.text_embeds], dim=1), expected)


@torch.no_grad()
def test_generation_by_cached_prefix_and_by_one_masked_pass(stage1, golden):
    qformer = stage1.qformer
    memory = qformer.remember(golden["in.image_embeds"])
    text = {
        "input_ids": golden["in.decoder_input_ids"],
        "attention_mask": golden["in.attention_mask"],
        "pattern": "causal",
    }
    cached = qformer(prefix=qformer(memory).prefix, **text).text_embeds
    one_pass = qformer(memory, **text).text_embeds
    close(cached, one_pass)
    labels = golden["in.lm_labels"][:, 1:]
    for name, states in {"itg_cached": cached, "itg_onepass": one_pass}.items():
        logits = stage1.generation_head(states, qformer.word_embeddings.weight)
        close(logits, golden[f"out.{name}.logits"])
        loss = itg_loss(logits[:, :-1], labels)
        close(loss.reshape(1), golden[f"out.{name}.loss_ls0.1"])


def test_names_go_there_and_back(lavis_weights):
    ours, homeless = from_lavis(lavis_weights)
    assert homeless == []
    back, homeless = to_lavis(ours)
    assert homeless == []
    assert set(lavis_weights) - set(back) == {"Qformer.bert.embeddings.position_ids"}
    assert all(back[name].equal(lavis_weights[name]) for name in back)


def test_huggingface_names_are_those_of_the_published_map(lavis_weights):
    name_map = json.loads((GOLDEN / "name_map.json").read_text())
    for lavis, expected in name_map.items():
        ours, _ = from_lavis({f"Qformer.{lavis}": lavis_weights[f"Qformer.{lavis}"]})
        theirs, homeless = to_huggingface(ours)
        if expected is None:
            assert theirs == {}
            assert len(homeless) <= 1
        else:
            assert list(theirs) == [expected]
            assert list(from_huggingface(theirs)[0]) == list(ours)


def test_keys_without_a_home_are_reported():
    stranger = {"visual_encoder.cls_token": torch.zeros(1), "itm_head.weight": torch.zeros(2, 4)}
    ours, homeless = from_lavis(stranger)
    assert list(ours) == ["itm_head.weight"]
    assert homeless == ["visual_encoder.cls_token"]


def test_two_keys_of_one_meaning_are_refused():
    with pytest.raises(ValueError, match="language_projection"):
        from_lavis({"opt_proj.weight": torch.zeros(1), "t5_proj.weight": torch.zeros(1)})
