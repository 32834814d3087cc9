"""QLoRA: a LoRA trained over a language model in 4 bits, kept for the one in full."""

import shutil
from pathlib import Path

import pytest
import torch

from adapters.build import build
from train.loop import fit
from train.runs import Training


@pytest.fixture
def even_llama(tiny_folder, tmp_path):
    """The tiny Llama with layers of 32 and 64 outputs, which 4 bits can hold."""
    from transformers import LlamaConfig, LlamaForCausalLM

    source = Path(tiny_folder("loupe")).parent / "language"
    config = LlamaConfig.from_pretrained(source, intermediate_size=64)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "even")
    for file in source.glob("tokenizer*"):
        shutil.copy(file, tmp_path / "even")
    return tmp_path / "even"


def test_a_lora_over_4_bits_ends_in_a_plain_checkpoint(recipe_of, even_llama, tmp_path, image):
    pytest.importorskip("bitsandbytes")
    language = f'start.language={{kind="decoder", path="{even_llama}"}}'
    extra = ["lora.rank=4", "quantize=nf4", "loop.evaluate_every=0", language]
    training = Training(recipe_of("instruct", *extra), lambda line: None)
    kinds = {type(module).__name__ for module in training.parts.language.modules()}
    assert "Linear4bit" in kinds
    named = dict(training.module.named_parameters())
    loras = [name for name in named if "lora_B" in name]
    fit(training, training.recipe.loop, tmp_path / "run", lambda line: None)
    assert any(bool(named[name].any()) for name in loras)  # they start at zero
    training.keep(tmp_path / "run" / "checkpoint")
    view = build(tmp_path / "run" / "checkpoint").encode(image)
    assert isinstance(view.ask("what colour?"), str)
    assert torch.isfinite(named[loras[0]]).all()
