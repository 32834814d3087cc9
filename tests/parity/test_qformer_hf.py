"""The Q-Former and its retrieval scores against transformers, live, on tiny random models."""

import pytest
import torch

from qformer import Bridge, BridgeConfig, QFormer, QFormerConfig, RegionConfig, Stage1
from qformer.convert import from_huggingface, to_huggingface

transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "cross_attention_frequency": 2,
    "encoder_hidden_size": 24,
    "vocab_size": 50,
}
TEXT = {"pad_id": 0, "cls_id": 1, "dec_id": 49, "max_positions": 20}


def their_qformer_config(**changes):
    return transformers.Blip2QFormerConfig(
        **SHAPE,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=20,
        **changes,
    )


def our_config(**changes):
    settings = SHAPE | TEXT | {"num_layers": 3, "num_heads": 4, "num_queries": 5, "itc_size": 8}
    return QFormerConfig(**(settings | changes))


def randomise(model):
    """Every weight random: transformers leaves biases and query_tokens at zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model.eval()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_qformer_without_text_equals_blip2_qformer_model():
    theirs = randomise(transformers.Blip2QFormerModel(their_qformer_config()))
    query_tokens = torch.randn(1, 5, 32)
    ours = QFormer(our_config(vocab_size=0, text_feed_forward=False)).eval()
    weights, homeless = from_huggingface(theirs.state_dict() | {"query_tokens": query_tokens})
    assert homeless == []
    ours.load_state_dict({name.removeprefix("qformer."): w for name, w in weights.items()})

    image_embeds = torch.randn(3, 7, 24)
    expected = theirs(query_tokens.expand(3, -1, -1), encoder_hidden_states=image_embeds)
    output = ours(ours.remember(image_embeds))
    close(output.query_embeds, expected.last_hidden_state)

    image_mask = torch.ones(3, 7, dtype=torch.long)
    image_mask[1, 4:] = 0
    expected = theirs(
        query_tokens.expand(3, -1, -1),
        encoder_hidden_states=image_embeds,
        encoder_attention_mask=image_mask,
    )
    output = ours(ours.remember(image_embeds, image_mask))
    close(output.query_embeds, expected.last_hidden_state)


@torch.no_grad()
def test_attention_maps_equal_blip2_qformer_model():
    config = their_qformer_config()
    config._attn_implementation = "eager"
    theirs = randomise(transformers.Blip2QFormerModel(config))
    query_tokens, image_embeds = torch.randn(1, 5, 32), torch.randn(2, 7, 24)
    ours = QFormer(our_config(vocab_size=0, text_feed_forward=False)).eval()
    weights, _ = from_huggingface(theirs.state_dict() | {"query_tokens": query_tokens})
    ours.load_state_dict({name.removeprefix("qformer."): w for name, w in weights.items()})
    expected = theirs(
        query_tokens.expand(2, -1, -1), encoder_hidden_states=image_embeds, output_attentions=True
    ).cross_attentions
    maps = ours(ours.remember(image_embeds), return_maps=True).maps
    assert len(maps) == len(expected) == 2
    for actual, reference in zip(maps, expected, strict=True):
        close(actual, reference)


@pytest.fixture(scope="module")
def retrieval():
    return randomise(
        transformers.Blip2ForImageTextRetrieval(
            transformers.Blip2Config(
                vision_config={
                    "hidden_size": 24,
                    "intermediate_size": 32,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "image_size": 28,
                    "patch_size": 14,
                },
                qformer_config=their_qformer_config(use_qformer_text_input=True).to_dict(),
                num_query_tokens=5,
                image_text_hidden_size=8,
                image_token_index=None,
            )
        )
    )


def ours_from(retrieval):
    ours = Stage1(QFormer(our_config())).eval()
    ours.image_layernorm = torch.nn.LayerNorm(24, eps=1e-6)
    weights, homeless = from_huggingface(retrieval.state_dict())
    assert all(name.startswith("vision_model.") for name in homeless)  # the frozen encoder
    own = {name: w for name, w in ours.state_dict().items() if name not in weights}
    assert {name.split(".")[0] for name in own} == {"temperature", "generation_head"}  # not in HF
    ours.load_state_dict(weights | own, strict=True)
    return ours


@torch.no_grad()
def test_retrieval_scores_equal_blip2_for_image_text_retrieval(retrieval):
    ours = ours_from(retrieval)
    pixel_values = torch.randn(3, 3, 28, 28)
    input_ids = torch.randint(2, 49, (3, 6))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[0, 4:] = 0
    attention_mask[2, 3:] = 0
    asked = {
        "pixel_values": pixel_values,
        "input_ids": input_ids,
        "attention_mask": attention_mask,
    }
    itc = retrieval(**asked, use_image_text_matching_head=False)
    itm = retrieval(**asked, use_image_text_matching_head=True)
    # their last_hidden_state is the encoder's output after post_layernorm (our image_layernorm)
    image_embeds = itc.vision_model_output.last_hidden_state
    scores = ours.scores(ours.qformer.remember(image_embeds), input_ids, attention_mask)
    close(scores["itc"], itc.logits_per_image)
    close(scores["itm"], itm.logits_per_image)


def test_every_weight_of_theirs_survives_the_way_there_and_back(retrieval):
    weights, homeless = from_huggingface(retrieval.state_dict())
    back, unnamed = to_huggingface(weights)
    assert unnamed == []
    assert set(back) | set(homeless) == set(retrieval.state_dict())
    assert all(back[name].equal(retrieval.state_dict()[name]) for name in back)
    _, unnamed = to_huggingface(ours_from(retrieval).state_dict())
    assert {name.split(".")[0] for name in unnamed} == {"temperature", "generation_head"}


def test_the_bridge_of_blip2_for_conditional_generation_is_found_whole():
    vision = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1}
    language = {"vocab_size": 40, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    theirs = transformers.Blip2ForConditionalGeneration(
        transformers.Blip2Config(
            vision_config=vision | {"num_attention_heads": 2, "image_size": 28, "patch_size": 14},
            qformer_config=their_qformer_config().to_dict(),
            text_config=language
            | {"model_type": "opt", "num_attention_heads": 2, "word_embed_proj_dim": 16},
            num_query_tokens=5,
        )
    )
    weights, homeless = from_huggingface(theirs.state_dict())
    assert all(name.startswith(("vision_model.", "language_model.")) for name in homeless)
    config = our_config(vocab_size=0, text_feed_forward=False)
    bridge = Bridge(BridgeConfig(config, RegionConfig(), language_width=16))
    bridge.load_state_dict(weights, strict=True)
    back, homeless = to_huggingface(bridge.state_dict())
    assert homeless == []
    assert set(back) <= set(theirs.state_dict())
