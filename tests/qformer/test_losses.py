"""Stage 1's losses as plain functions."""

import math

import pytest
import torch
import torch.nn.functional as F

from qformer import LoupeError
from qformer.losses import (
    gather_with_gradient,
    hard_negatives,
    itc_loss,
    itc_similarity,
    itg_labels,
    itg_loss,
    itm_loss,
    negative_probabilities,
)


def test_similarity_is_that_of_the_best_query():
    queries = torch.eye(4)[None, :2]  # one row with two queries
    texts = torch.eye(4)[[1, 3]]
    assert itc_similarity(queries, texts).tolist() == [[1.0, 0.0]]


def test_itc_without_shared_targets_is_smoothed_cross_entropy():
    to_text, to_image = torch.randn(2, 3, 6)
    same = torch.zeros(3, 6, dtype=torch.bool)
    same[torch.arange(3), torch.arange(3) + 2] = True
    labels = torch.arange(3) + 2
    expected = [
        F.cross_entropy(scores, labels, label_smoothing=0.1) for scores in (to_text, to_image)
    ]
    torch.testing.assert_close(itc_loss(to_text, to_image, same), sum(expected) / 2)


def test_itc_shares_its_target_among_texts_of_the_same_image():
    same = torch.tensor([[True, True, False]])
    shared = torch.tensor([[5.0, 5.0, -5.0]])
    one_sided = torch.tensor([[9.0, 1.0, -5.0]])
    assert itc_loss(shared, shared, same) < itc_loss(one_sided, one_sided, same)
    none = itc_loss(shared, shared, same, smoothing=0.0)
    assert none.item() == pytest.approx(math.log(2), abs=1e-3)


def test_negatives_are_never_of_the_same_image():
    ids = torch.tensor([0, 0, 1, 2])
    same = ids[:, None] == ids[None]
    logits = torch.randn(4, 4) + 30 * same  # the forbidden ones are by far the most alike
    for _ in range(50):
        assert not same[torch.arange(4), hard_negatives(logits, same)].any()


def test_negatives_are_drawn_by_softmax_of_the_similarity():
    same = torch.tensor([[True, False, False]]).expand(4000, 3)
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(4000, 3)
    torch.manual_seed(0)
    share = (hard_negatives(logits, same) == 2).float().mean().item()
    assert share == pytest.approx(math.exp(3) / (math.exp(1) + math.exp(3)), abs=0.02)


def test_a_row_without_a_negative_is_an_error_that_says_what_to_do():
    with pytest.raises(LoupeError, match="at least two different"):
        negative_probabilities(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))


def test_itm_is_low_when_the_verdicts_are_right():
    logits = torch.tensor([[-5.0, 5.0], [5.0, -5.0]])
    matched = torch.tensor([True, False])
    assert itm_loss(logits, matched) < 1e-3 < 9 < itm_loss(logits, ~matched)


def test_each_token_predicts_the_next_and_padding_nothing():
    ids = torch.tensor([[1, 7, 8, 2, 0], [1, 9, 2, 0, 0]])
    labels = itg_labels(ids, (ids != 0).long())
    assert labels.tolist() == [[7, 8, 2, -100, -100], [9, 2, -100, -100, -100]]


def test_itg_ignores_what_is_ignored():
    logits = torch.randn(2, 3, 9)
    labels = torch.tensor([[1, 2, -100], [3, -100, -100]])
    kept = labels != -100
    torch.testing.assert_close(itg_loss(logits, labels), itg_loss(logits[kept], labels[kept]))


def test_alone_gathering_is_nothing():
    tensor = torch.randn(3, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor
