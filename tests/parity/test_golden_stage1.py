"""A whole stage-1 step, losses and gradients, against the reference (tests/golden).

The reference treats gathered features as constants in ITC (`detach_gathered`); what we do by
default is held by the last tests: two processes train exactly like one with both batches.
"""

import json
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from qformer import QFormer, QFormerConfig, Stage1
from qformer.convert import from_lavis
from qformer.losses import gather_with_gradient, itc_similarity, negative_probabilities

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
GRADIENTS = {  # the reference's name: ours
    "itm_head.weight": "itm_head.weight",
    "layer0.crossattention.key.weight": "qformer.layers.0.cross_attention.key.weight",
    "ln_vision.weight": "image_layernorm.weight",
    "query_tokens": "qformer.query_tokens",
    "temp": "temperature",
    "text_proj.weight": "text_projection.weight",
    "vision_proj.weight": "vision_projection.weight",
    "word_embeddings": "qformer.word_embeddings.weight",
}
CASES = [(kind, size) for kind in ("plain", "image_id") for size in (1, 2)]


def build(detach_gathered):
    with safe_open(GOLDEN / "qformer_weights_lavis.safetensors", "pt") as file:
        told = json.loads(file.metadata()["config"])
        weights = {f"Qformer.{name}": file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    golden = load_file(GOLDEN / "stage1_losses.safetensors")
    weights |= {name[2:]: tensor for name, tensor in golden.items() if name.startswith("w.")}
    model = Stage1(
        QFormer(
            QFormerConfig(
                hidden_size=told["hidden"],
                num_layers=told["layers"],
                num_heads=told["heads"],
                intermediate_size=told["ffn"],
                encoder_hidden_size=told["encoder_width"],
                num_queries=told["num_query"],
                vocab_size=told["vocab_size"],
                max_positions=told["max_pos"],
                cls_id=told["cls_id"],
                dec_id=told["dec_id"],
                itc_size=len(weights["vision_proj.bias"]),
            )
        ),
        detach_gathered=detach_gathered,
    ).eval()
    model.image_layernorm = nn.LayerNorm(told["encoder_width"], eps=1e-5)
    ours, homeless = from_lavis(weights)
    assert homeless == []
    model.load_state_dict(ours, strict=True)
    return model, golden


def step(kind, rows, size, rank, detach_gathered, drawn=None):
    """One step on `rows`; returns losses, negative probabilities and gradients by name."""
    model, golden = build(detach_gathered)
    ids, attention_mask = golden["in.input_ids"][rows], golden["in.attention_mask"][rows]
    same = golden["in.image_id"][rows] if kind == "image_id" else None
    memory = model.qformer.remember(model.image_layernorm(golden["in.images"][rows]))
    if drawn is None:
        out = f"out.{kind}.world{size}.rank{rank}."
        drawn = golden[out + "neg_text_idx_for_image"], golden[out + "neg_image_idx_for_text"]
    losses = model.losses(memory, ids, attention_mask, same=same, negatives=drawn)
    sum(losses.values()).backward()
    result = {name: loss.detach() for name, loss in losses.items()}
    result["loss"] = sum(result.values())
    for theirs, ours in GRADIENTS.items():
        result[f"grad.{theirs}"] = model.get_parameter(ours).grad
    with torch.no_grad():
        features = model.row_features(memory), model.text_features(ids, attention_mask)
        all_features = [gather_with_gradient(feature) for feature in features]
        same = torch.arange(len(ids)) + len(ids) * rank if same is None else same
        is_same = same[:, None] == gather_with_gradient(same)
        to_text = itc_similarity(features[0], all_features[1]) / model.temperature
        to_image = itc_similarity(all_features[0], features[1]).T / model.temperature
        result["neg_probs_i2t"] = negative_probabilities(to_text, is_same)
        result["neg_probs_t2i"] = negative_probabilities(to_image, is_same)
    return result


def worker(rank, size, port, kind, detach_gathered, drawn, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size
    )
    try:
        own = None if drawn is None else tuple(index[4 * rank : 4 * rank + 4] for index in drawn)
        rows = slice(4 * rank, 4 * rank + 4)
        torch.save(step(kind, rows, size, rank, detach_gathered, own), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def run(kind, size, folder, detach_gathered, drawn=None):
    """The same step in `size` processes; a list of what each returned."""
    if size == 1:
        return [step(kind, slice(0, 4), 1, 0, detach_gathered, drawn)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(
        worker, args=(size, port, kind, detach_gathered, drawn, str(folder)), nprocs=size
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_losses_gradients_and_probabilities_equal_the_reference(kind, size, tmp_path):
    golden = load_file(GOLDEN / "stage1_losses.safetensors")
    theirs = {"loss_itc": "itc", "loss_itm": "itm", "loss_lm": "itg"}
    for rank, ours in enumerate(run(kind, size, tmp_path, detach_gathered=True)):
        start = f"out.{kind}.world{size}.rank{rank}."
        compared = 0
        for name, expected in golden.items():
            if not name.startswith(start) or "_idx_for_" in name:
                continue
            actual = ours[theirs.get(name[len(start) :], name[len(start) :])]
            torch.testing.assert_close(
                actual.reshape(expected.shape), expected, atol=1e-5, rtol=1e-5, msg=name
            )
            compared += 1
        assert compared == 14


@pytest.mark.parametrize("kind", ["plain", "image_id"])
def test_two_processes_train_exactly_like_one_with_both_batches(kind, tmp_path):
    drawn = torch.tensor([1, 4, 7, 0, 2, 6, 5, 3]), torch.tensor([6, 5, 0, 1, 3, 2, 4, 0])
    alone = step(kind, slice(0, 8), 1, 0, False, drawn)
    ranks = run(kind, 2, tmp_path, detach_gathered=False, drawn=drawn)
    for name, expected in alone.items():
        if name in ("itc", "itm") or name.startswith("neg_probs"):
            join = torch.cat if name.startswith("neg_probs") else torch.stack
            actual = join([rank[name] for rank in ranks])
            actual = actual if name.startswith("neg_probs") else actual.mean()
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5, msg=name)
    for name in ("grad.itm_head.weight", "grad.vision_proj.weight", "grad.text_proj.weight"):
        actual = torch.stack([rank[name] for rank in ranks]).mean(0)
        torch.testing.assert_close(actual, alone[name], atol=1e-5, rtol=1e-5, msg=name)
