"""--plan against what a step really keeps, and the shipped recipes."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from adapters.shapes import KNOWN
from qformer.contracts import LoupeError
from train.cli import main
from train.config import CONFIGS
from train.plan import GPUS, Lengths, plan, refuse
from train.recipe import read_recipe
from train.runs import Training

RECIPES = sorted(path for path in CONFIGS.glob("*.toml") if path.stem != "embedded")


def silent(line):
    pass


@pytest.fixture(scope="session")
def opt_folder(tiny_folder, tmp_path_factory):
    """An OPT large enough to count: 6 layers, 192 wide, with the tiny tokenizer."""
    from transformers import OPTConfig, OPTForCausalLM

    folder = tmp_path_factory.mktemp("opt")
    model = OPTForCausalLM(
        OPTConfig(
            hidden_size=192, word_embed_proj_dim=192, ffn_dim=768, num_hidden_layers=6,
            num_attention_heads=6, vocab_size=800, max_position_embeddings=256, dropout=0.0,
            pad_token_id=0, bos_token_id=2, eos_token_id=3,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    for file in Path(tiny_folder("llama")).glob("tokenizer*"):
        shutil.copy(file, folder)
    return folder


def opt_recipe(tiny_folder, opt_folder, little_data, tmp_path, *changes):
    file = tmp_path / "opt.toml"
    file.write_text(f"""
        stage = "instruct"
        turns = 2
        output = "{tmp_path / "run"}"
        [start]
        vision = {{kind = "hf", path = "{tiny_folder("vit")}"}}
        language = {{kind = "decoder", path = "{opt_folder}"}}
        [bridge.qformer]
        hidden_size = 64
        num_layers = 4
        num_heads = 4
        intermediate_size = 256
        encoder_hidden_size = 24
        num_queries = 16
        dropout = 0.0
        [lora]
        [cache]
        folder = "{tmp_path / "features"}"
        [[data]]
        format = "folder"
        path = "{little_data}"
        [loop]
        steps = 10
        batch = 6
        """)
    return read_recipe(file, changes)


def test_the_memory_it_names_is_what_a_lora_step_keeps(
    tiny_folder, opt_folder, little_data, tmp_path
):
    recipe = opt_recipe(tiny_folder, opt_folder, little_data, tmp_path)
    training = Training(recipe, silent)
    rows = training.stage.mixture.sets[0].drawn
    for number, (picture, samples) in enumerate(rows):  # questions of one length, for each picture
        rows[number] = (picture, [s for s in samples if s.turns[0].question == "what colour?"] * 2)
    import numpy as np

    batch = training.batch(np.random.default_rng(0), 0.0, 0)
    own = {p.untyped_storage().data_ptr() for p in training.module.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        training.losses(batch)
    measured = sum(size for size, _ in kept.values())
    asks = [ask[-1] for ask, _ in batch["asked"].asks]
    tokenize = training.parts.language.tokenize
    words = [
        sum(len(tokenize(piece)) for piece in said.pieces if isinstance(piece, str))
        for said in asks
    ]
    start = len(training.parts.language.start_ids())
    lengths = Lengths(
        question=round(sum(words) / len(words)) + start,
        answer=round(sum(len(said.answer) for said in asks) / len(asks)),
    )
    found = plan(recipe, lengths=lengths, gpu=False)
    named = found.parts["bridge"].saved + found.parts["language"].saved
    assert named == pytest.approx(measured, rel=0.15)
    trained = sum(p.numel() for p in training.module.parameters() if p.requires_grad)
    assert found.gradients == 4 * trained
    assert found.optimizer == 8 * trained
    frozen = sum(p.numel() for p in training.module.parameters() if not p.requires_grad)
    vision = sum(p.numel() for p in training.parts.vision.parameters())
    assert sum(part.frozen for part in found.parts.values()) == frozen + vision


@pytest.mark.parametrize("file", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_shipped_recipe_is_read_and_planned_without_a_network(file):
    recipe = read_recipe(file)
    found = plan(recipe, devices=16)
    assert found.flops > 0
    assert found.steps == recipe.loop.steps
    assert any(found.fits(name) for name in GPUS), "it fits nowhere"
    assert f"{recipe.stage}" in ("stage1", "stage2", "instruct")
    text = "\n".join(found.lines())
    assert "memory" in text
    assert json.dumps(found.record())


def test_what_cannot_fit_is_refused_with_what_would(tmp_path, capsys):
    recipe = read_recipe(CONFIGS / "coco-vg-stage2.toml", ["loop.checkpointing=false"])
    found = plan(recipe)
    with pytest.raises(LoupeError, match=r"a T4 has 16 GB: --set loop\.checkpointing=true"):
        refuse(recipe, found, "T4", Lengths())
    with pytest.raises(LoupeError, match="known: T4"):
        refuse(recipe, found, "T5", Lengths())
    assert main(["single-gpu-instruct", "--plan", "--gpu", "RTX-4090", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["memory"] < 24e9


def test_known_shapes_have_the_published_sizes():
    from adapters.config import PartConfig
    from adapters.shapes import bare_language, bare_vision

    sizes = {
        "facebook/opt-2.7b": 2.65e9, "facebook/opt-6.7b": 6.66e9, "google/flan-t5-xl": 2.85e9,
        "google/flan-t5-xxl": 11.1e9, "Qwen/Qwen3-1.7B": 1.72e9,
        "package:smollm2-135m-instruct": 0.1345e9,
    }  # fmt: skip
    for path, size in sizes.items():
        model = bare_language(PartConfig("decoder", path), torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(size, rel=0.03), path
    towers = {
        "openai/clip-vit-large-patch14": (0.303e9, 257),
        "Salesforce/blip2-opt-2.7b": (0.986e9, 257),
        "google/siglip2-large-patch16-256": (0.316e9, 256),
        "runs/photos/start/vision": (0.0071e9, 101),
    }  # fmt: skip
    for path, (size, tokens) in towers.items():
        found = bare_vision(PartConfig("hf", path))
        assert sum(p.numel() for p in found.model.parameters()) == pytest.approx(size, rel=0.03)
        assert found.tokens == tokens
    assert {*sizes, *towers} == {*KNOWN}


TINY = [
    "bridge.qformer.hidden_size=32", "bridge.qformer.num_layers=2", "bridge.qformer.num_heads=4",
    "bridge.qformer.intermediate_size=48", "bridge.qformer.encoder_hidden_size=24",
    "bridge.qformer.num_queries=4", "bridge.qformer.vocab_size=800",
    "bridge.qformer.max_positions=64", "bridge.qformer.cls_id=4", "bridge.qformer.dec_id=5",
    "bridge.max_instruction=48", "bridge.end_id=3",
    "dtype=fp32", "loop.steps=2", "loop.restart=0", "loop.warmup=1", "loop.batch=2",
    "loop.accumulation=1", "loop.bf16=false", "evaluated=3", "shown=1", "loop.evaluate_every=0",
    "loop.prefetch=false",
]  # fmt: skip


@pytest.mark.parametrize("file", RECIPES, ids=[path.stem for path in RECIPES])
def test_every_shipped_recipe_runs_dry_on_tiny_parts(file, tiny_folder, little_data, tmp_path):
    """Its own settings, with tiny parts in place of the large ones and two steps."""
    from train.config import read_config
    from train.loop import fit
    from train.recipe import Recipe

    recipe = read_recipe(file)
    changes = [f"output={tmp_path / 'run'}", "bad_share=1.0", "turns=2"]
    changes += [f"cache.folder={tmp_path / 'features'}"] if recipe.cache.folder else []
    data = f'[{{format = "folder", path = "{little_data}"}}]'
    changes += [f"data={data}", f"validate={data}", "learn_validated=true"]
    vision = f'start.vision={{kind="hf", path="{tiny_folder("vit")}"}}'
    words = f'start.tokenizer={{path="{tiny_folder("llama")}"}}'
    language = f'start.language={{kind="decoder", path="{tiny_folder("llama")}"}}'
    if recipe.start.checkpoint == "paintings":
        tiny = ["dtype=fp32", *TINY[TINY.index("loop.steps=2") :]]
    elif recipe.stage == "stage1":
        tiny = [*TINY, vision, words]
        changes.append('start.bert=""')
    else:
        tiny = [*TINY, vision, words, language, 'start.checkpoint=""']
    training = Training(read_config(Recipe, file, changes + tiny), silent)
    fit(training, training.recipe.loop, tmp_path / "run", silent)
    training.keep(tmp_path / "run" / "checkpoint")
    assert (tmp_path / "run" / "checkpoint" / "manifest.json").exists()
