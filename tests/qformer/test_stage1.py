"""Stage 1's behaviours: any batch with a negative, regions as rows, one process or several."""

import socket

import pytest
import torch
import torch.distributed as dist

from qformer import LoupeError, QFormer, QFormerConfig, Stage1

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
    dropout=0.0,
)


def build():
    torch.manual_seed(0)
    model = Stage1(QFormer(CONFIG))
    for name, parameter in model.named_parameters():
        if name != "temperature":
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def batch(rows, pictures=None, seed=1):
    """image_embeds, input_ids, attention_mask (right padded)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(pictures or rows, 7, 24, generator=generator)
    ids = torch.randint(2, 49, (rows, 6), generator=generator)
    ids[:, 0] = 1
    lengths = torch.randint(3, 7, (rows, 1), generator=generator)
    attention_mask = (torch.arange(6) < lengths).long()
    return images, ids * attention_mask, attention_mask


def region_rows(rows, seed=2):
    """A patch_bias per layer and queries of their own, as region rows have."""
    generator = torch.Generator().manual_seed(seed)
    bias = torch.randn(2, rows, 7, generator=generator)
    bias[:, 1::2, 4:] = -torch.inf
    return {"patch_bias": bias, "query_embeds": torch.randn(rows, 5, 32, generator=generator)}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_any_batch_with_a_negative_gives_three_finite_losses_and_gradients(rows):
    model = build()
    images, ids, attention_mask = batch(rows)
    losses = model.losses(model.qformer.remember(images), ids, attention_mask)
    assert set(losses) == {"itc", "itm", "itg"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("same", [None, torch.tensor([4])])
def test_a_batch_without_a_negative_is_an_error(same):
    model = build()
    images, ids, attention_mask = batch(1)
    with pytest.raises(LoupeError, match="at least two different"):
        model.losses(model.qformer.remember(images), ids, attention_mask, same=same)


def test_texts_and_rows_must_be_as_many():
    model = build()
    images, ids, attention_mask = batch(4, pictures=2)
    with pytest.raises(LoupeError, match="4 texts for 2 rows"):
        model.losses(model.qformer.remember(images), ids, attention_mask)


def test_folded_region_rows_equal_rows_with_a_picture_each():
    model = build()
    images, ids, attention_mask = batch(6, pictures=2)
    negatives = torch.tensor([3, 0, 5, 1, 2, 4]), torch.tensor([1, 2, 0, 4, 5, 3])
    given = {"same": torch.tensor([0, 1, 2, 3, 4, 0]), "negatives": negatives, **region_rows(6)}
    folded = model.losses(model.qformer.remember(images), ids, attention_mask, **given)
    copied = model.qformer.remember(images.repeat_interleave(3, 0))
    single = model.losses(copied, ids, attention_mask, **given)
    for name in folded:
        close(folded[name], single[name])


def test_matching_pairs_are_the_right_ones():
    model = build()
    images, ids, attention_mask = batch(4, pictures=2)
    memory, rows = model.qformer.remember(images), region_rows(4)
    texts, others = torch.tensor([2, 3, 1, 0]), torch.tensor([3, 2, 0, 1])
    logits, matched = model._match_with_negatives(
        memory, ids, attention_mask, rows["patch_bias"], rows["query_embeds"], texts, others
    )

    def pair(text, row):
        one = slice(row, row + 1)
        return model.match(
            memory.select(torch.tensor([row // 2])),
            ids[text : text + 1],
            attention_mask[text : text + 1],
            rows["patch_bias"][:, one],
            rows["query_embeds"][one],
        )[0]

    # per picture: its rows with their own texts, then with the wrong ones; then the wrong rows
    expected = [(0, 0), (1, 1), (2, 0), (3, 1), (2, 2), (3, 3), (1, 2), (0, 3)]
    expected += [(0, 3), (1, 2), (2, 0), (3, 1)]
    for actual, is_match, (text, row) in zip(logits, matched, expected, strict=True):
        close(actual, pair(text, row))
        assert is_match == (text == row)


def test_the_order_of_the_batch_does_not_matter():
    model = build()
    images, ids, attention_mask = batch(5)
    negatives = torch.tensor([1, 2, 3, 4, 0]), torch.tensor([4, 0, 1, 2, 3])
    before = model.losses(model.qformer.remember(images), ids, attention_mask, negatives=negatives)
    order = torch.tensor([3, 1, 4, 0, 2])
    place = order.argsort()
    after = model.losses(
        model.qformer.remember(images[order]),
        ids[order],
        attention_mask[order],
        negatives=tuple(place[drawn[order]] for drawn in negatives),
    )
    for name in before:
        close(after[name], before[name])


def test_padding_does_not_matter():
    model = build()
    images, ids, attention_mask = batch(4)
    memory = model.qformer.remember(images)
    negatives = torch.tensor([1, 2, 3, 0]), torch.tensor([3, 0, 1, 2])
    short = model.losses(memory, ids, attention_mask, negatives=negatives)
    wide = torch.nn.functional.pad
    long = model.losses(
        memory, wide(ids, (0, 5)), wide(attention_mask, (0, 5)), negatives=negatives
    )
    for name in short:
        close(long[name], short[name])


def test_the_image_is_read_once_for_all_three_losses():
    model = build()
    calls = []
    for index in CONFIG.cross_attention_layers:
        key = model.qformer.layers[index].cross_attention.key
        key.register_forward_hook(lambda *_: calls.append(1))
    images, ids, attention_mask = batch(3)
    model.losses(model.qformer.remember(images), ids, attention_mask)
    assert len(calls) == len(CONFIG.cross_attention_layers)


def test_the_generation_head_is_tied_to_the_word_embeddings():
    model = build()
    assert not any(parameter.shape == (50, 32) for parameter in model.generation_head.parameters())


def test_temperature_starts_at_007_and_stays_positive():
    model = Stage1(QFormer(CONFIG))
    assert model.temperature.item() == pytest.approx(0.07)
    with torch.no_grad():
        model.temperature.fill_(-1.0)
    images, ids, attention_mask = batch(2)
    losses = model.losses(model.qformer.remember(images), ids, attention_mask)
    assert model.temperature.item() == pytest.approx(0.001)
    assert losses["itc"].isfinite()


def test_heads_leave_a_trained_qformer_as_it_is():
    qformer = QFormer(CONFIG)
    before = {name: tensor.clone() for name, tensor in qformer.state_dict().items()}
    Stage1(qformer)
    assert all(tensor.equal(before[name]) for name, tensor in qformer.state_dict().items())


def test_stage_1_needs_text():
    config = QFormerConfig(**{**vars(CONFIG), "vocab_size": 0, "text_feed_forward": False})
    with pytest.raises(LoupeError, match="text side"):
        Stage1(QFormer(config))


def test_a_few_steps_teach_a_tiny_batch():
    torch.manual_seed(0)
    model = Stage1(QFormer(CONFIG))
    images, ids, attention_mask = batch(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    history = []
    for _ in range(140):
        losses = model.losses(model.qformer.remember(images), ids, attention_mask)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in ("itc", "itm", "itg"):
        assert history[-1][name] < 0.5 * history[0][name], name
    scores = model.scores(model.qformer.remember(images), ids, attention_mask)
    assert scores["itc"].argmax(1).tolist() == [0, 1, 2, 3]
    assert (scores["itm"][:, 1] > scores["itm"][:, 0]).all()


# Several processes. Texts of process 1 are cut shorter: they are padded to the longest of all.
NEGATIVES = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4]), torch.tensor([6, 4, 1, 7, 2, 0, 5, 3])


def region_step(rank, size):
    """Gradients and losses of rank's share of 8 region rows over 4 pictures."""
    model = build()
    images, ids, attention_mask = batch(8, pictures=4)
    ids[4:, 4:], attention_mask[4:, 4:] = 0, 0
    rows = slice(8 // size * rank, 8 // size * (rank + 1))
    length = 6 if rank == 0 else 4
    regions = region_rows(8)
    bias = regions["patch_bias"].clone().requires_grad_()
    share = images[4 // size * rank : 4 // size * (rank + 1)]
    shown = torch.ones(share.shape[:2])
    losses = model.losses(
        model.qformer.remember(share, shown),
        ids[rows, :length],
        attention_mask[rows, :length],
        same=torch.tensor([0, 1, 2, 3, 0, 5, 6, 7])[rows],
        patch_bias=bias[:, rows],
        query_embeds=regions["query_embeds"][rows],
        negatives=tuple(drawn[rows] for drawn in NEGATIVES),
    )
    (
        losses["itc"] + losses["itm"]
    ).backward()  # ITG's mean counts tokens, which ranks share unevenly
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients, bias.grad


def worker(rank, step, port, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.save(step(rank, 2), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def in_two_processes(step, folder):
    """What step(rank, 2) gives in each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(worker, args=(step, port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_with_regions_train_like_one(tmp_path):
    ranks = in_two_processes(region_step, tmp_path)
    losses, gradients, bias_gradient = region_step(0, 1)
    for name in ("itc", "itm"):
        close((ranks[0][0][name] + ranks[1][0][name]) / 2, losses[name])
    assert set(ranks[0][1]) == set(gradients)
    for name, expected in gradients.items():
        close((ranks[0][1][name] + ranks[1][1][name]) / 2, expected)
    close((ranks[0][2] + ranks[1][2]) / 2, bias_gradient)


def mixed_step(rank, size):
    """Losses of rank's share of 8 rows: four regions, which see one token more (a focal crop's),
    then four whole pictures, of which that process says no more than the picture."""
    model = build()
    images, ids, attention_mask = batch(8, pictures=8)
    rows = slice(8 // size * rank, 8 // size * (rank + 1))
    share, told = images[rows], {}
    if rank == 0:
        share = torch.cat([share, share[:, :1]], 1)
        regions = region_rows(8)
        bias, queries = regions["patch_bias"].clone(), regions["query_embeds"].clone()
        bias[:, 4:], queries[4:] = 0.0, model.qformer.query_tokens.detach()
        more = bias.new_zeros(*bias.shape[:2], 1)
        more[:, 4:] = -torch.inf
        told["patch_bias"] = torch.cat([bias, more], -1)[:, rows]
        told["query_embeds"] = queries[rows]
    losses = model.losses(
        model.qformer.remember(share),
        ids[rows],
        attention_mask[rows],
        same=torch.arange(8)[rows],
        negatives=tuple(drawn[rows] for drawn in NEGATIVES),
        **told,
    )
    return {name: loss.detach() for name, loss in losses.items()}


def test_a_process_without_regions_or_with_fewer_tokens_keeps_step_with_the_other(tmp_path):
    ranks, losses = in_two_processes(mixed_step, tmp_path), mixed_step(0, 1)
    for name in ("itc", "itm"):
        close((ranks[0][name] + ranks[1][name]) / 2, losses[name])
