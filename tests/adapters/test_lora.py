import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from adapters import lora
from adapters.language_decoder import DecoderLanguageModel
from qformer.contracts import CheckpointError


@pytest.fixture
def language(tiny_folder):
    return DecoderLanguageModel.open(tiny_folder("llama"))


@pytest.fixture
def saved(language, tmp_path):
    """A trained LoRA's folder, and its loss on one example."""
    for parameter in lora.attach(language, rank=4):
        torch.nn.init.normal_(parameter, std=0.1)
    lora.save(language, tmp_path / "lora")
    return tmp_path / "lora", loss(language)


def loss(language):
    prompt = torch.randn(3, language.width, generator=torch.Generator().manual_seed(0))
    return language.loss([prompt], [torch.tensor([9, 8, 7])])


def test_an_attached_lora_changes_nothing_at_first_and_alone_learns(language):
    before = loss(language)
    trainable = lora.attach(language, rank=4)
    language.train()
    torch.testing.assert_close(loss(language), before, rtol=0, atol=0)
    loss(language).backward()
    learning = {name for name, p in language.named_parameters() if p.requires_grad}
    assert len(learning) == len(trainable)
    assert all("lora_" in name for name in learning)
    assert not any("lm_head" in name or "embed" in name for name in learning)
    assert any(parameter.grad is not None for parameter in trainable)


def test_it_is_saved_as_pefts_two_files_without_paths_of_this_machine(saved, tiny_folder):
    folder, _ = saved
    assert {file.name for file in folder.iterdir()} == {lora.SETTINGS, lora.WEIGHTS}
    assert str(tiny_folder("llama")) not in (folder / lora.SETTINGS).read_text()


def test_merging_without_peft_equals_peft(saved, tiny_folder):
    from peft import PeftModel

    folder, expected = saved
    merged = DecoderLanguageModel.open(tiny_folder("llama"))
    lora.merge(merged, folder)
    torch.testing.assert_close(loss(merged), expected)
    theirs = DecoderLanguageModel.open(tiny_folder("llama"))
    theirs.model = PeftModel.from_pretrained(theirs.model, folder).merge_and_unload()
    for name, value in theirs.model.state_dict().items():
        torch.testing.assert_close(merged.model.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("rs", [True, False])
def test_both_scalings_merge(saved, tiny_folder, rs):
    from peft import PeftModel

    folder, _ = saved
    edit(folder, use_rslora=rs)
    merged = DecoderLanguageModel.open(tiny_folder("llama"))
    lora.merge(merged, folder)
    theirs = DecoderLanguageModel.open(tiny_folder("llama"))
    theirs.model = PeftModel.from_pretrained(theirs.model, folder)
    torch.testing.assert_close(loss(merged), loss(theirs))


def edit(folder, **changes):
    file = folder / lora.SETTINGS
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"peft_type": "IA3"}, {"bias": "all"}, {"alpha_pattern": {"q": 1}}],
)
def test_more_than_plain_lora_is_refused(saved, language, changes):
    folder, _ = saved
    edit(folder, **changes)
    with pytest.raises(CheckpointError, match="is not plain LoRA"):
        lora.merge(language, folder)


def test_a_lora_of_another_model_is_refused(saved, tiny_folder):
    folder, _ = saved
    opt = DecoderLanguageModel.open(tiny_folder("opt"))
    with pytest.raises(CheckpointError, match="does not fit the language model"):
        lora.merge(opt, folder)
    weights = load_file(folder / lora.WEIGHTS)
    up = next(name for name in weights if "lora_B" in name)
    save_file(weights | {up: weights[up][:-1].contiguous()}, folder / lora.WEIGHTS)
    with pytest.raises(CheckpointError, match="does not fit the language model"):
        lora.merge(DecoderLanguageModel.open(tiny_folder("llama")), folder)


def test_a_missing_file_is_named(saved, language):
    folder, _ = saved
    (folder / lora.WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is missing"):
        lora.merge(language, folder)
