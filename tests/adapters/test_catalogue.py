"""The sizes that `loupe models` tells are those of transformers' own classes."""

import pytest
import torch

from adapters.catalogue import CATALOGUE, rows
from adapters.memory import Count
from adapters.shapes import flan_t5, opt

transformers = pytest.importorskip("transformers")


def vicuna(width, feed_forward, layers):
    return {
        "model_type": "llama", "vocab_size": 32001, "hidden_size": width,
        "intermediate_size": feed_forward, "num_hidden_layers": layers,
        "num_attention_heads": width // 128,
    }  # fmt: skip


# What transformers' defaults (EVA-g, BERT-base) leave open.
LANGUAGE = {
    "opt-2.7b": {**opt(2560, 32, 32), "vocab_size": 50304},
    "opt-6.7b": {**opt(4096, 32, 32), "vocab_size": 50304},
    "flan-t5-xl": flan_t5(2048, 5120, 32),
    "flan-t5-xxl": flan_t5(4096, 10240, 64),
    "vicuna-7b": vicuna(4096, 11008, 32),
    "vicuna-13b": vicuna(5120, 13824, 40),
}


@pytest.mark.parametrize("listed", CATALOGUE, ids=lambda listed: listed.model)
def test_a_listed_model_has_the_parameters_that_are_said(listed):
    name = listed.model.removeprefix("Salesforce/").removesuffix("-coco")
    family, _, language = name.partition("-")
    vision = {"image_size": listed.image_size}
    if listed.answers:
        spelled = {"blip2": "Blip2", "instructblip": "InstructBlip"}[family]
        config = getattr(transformers, f"{spelled}Config")(
            vision_config=vision,
            qformer_config={"vocab_size": 30523} if family == "instructblip" else None,
            text_config=LANGUAGE[language],
        )
        model_class = getattr(transformers, f"{spelled}ForConditionalGeneration")
    else:
        config = transformers.Blip2Config(
            vision_config=vision,
            qformer_config={"vocab_size": 30523, "use_qformer_text_input": True},
            image_token_index=None,
        )
        model_class = transformers.Blip2ForImageTextRetrieval
    with torch.device("meta"):
        model = model_class(config)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if "t5" in listed.model:  # its head is its own, in the files
        told = LANGUAGE[language]
        shapes["language_model.lm_head.weight"] = (told["vocab_size"], told["d_model"])
    assert Count.of(shapes) == listed.whole


def test_each_precision_takes_less_than_the_one_before():
    for row in rows():
        if row["int8"] is None:
            assert row["nf4"] is None
        else:
            assert 2 * row["parameters"] < row["bf16"] < 4 * row["parameters"]
            assert row["nf4"] < row["int8"] < row["bf16"]
