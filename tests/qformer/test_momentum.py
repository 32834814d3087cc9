"""ALBEF's teacher: it follows, its queue forgets, and without it the loss is the plain one."""

import pytest
import torch
import torch.nn.functional as F

from qformer.config import QFormerConfig
from qformer.contracts import LoupeError
from qformer.losses import itc_similarity
from qformer.momentum import Features, Momentum, MomentumConfig, momentum_itc_loss, teach
from qformer.qformer import QFormer
from qformer.stage1 import Stage1

CONFIG = QFormerConfig(
    hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, encoder_hidden_size=12,
    num_queries=3, vocab_size=20, max_positions=16, cls_id=1, dec_id=2, itc_size=8, dropout=0.1,
)  # fmt: skip


@pytest.fixture
def student():
    torch.manual_seed(0)
    stage1 = Stage1(QFormer(CONFIG))
    return Features(stage1.qformer, stage1.vision_projection, stage1.text_projection)


def batch(rows=4):
    ids = torch.randint(3, 20, (rows, 5))
    ids[:, 0] = 1
    return torch.randn(rows, 6, 12), {
        "query_embeds": None, "patch_bias": None, "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }  # fmt: skip


def momentum_of(student, **settings):
    return Momentum(MomentumConfig(**settings), student, 3, 8)


def test_the_teacher_starts_as_the_student_without_dropout_and_follows_slowly(student):
    momentum = momentum_of(student, decay=0.9)
    pictures, texts = batch()
    taught = teach(momentum, student, pictures, **texts)
    student.eval()
    same = student(student.qformer.remember(pictures), **texts)
    for ours, theirs in zip(taught, same, strict=True):
        torch.testing.assert_close(ours, theirs)
    weight = student.vision_projection.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 1
    momentum.follow(student)
    torch.testing.assert_close(momentum.weights()["vision_projection.weight"], before + 0.1)
    assert student.training is False


def test_without_queue_and_share_it_is_the_plain_contrast(student):
    momentum = momentum_of(student, queue=0, share=0.0)
    rows, texts = (F.normalize(torch.randn(*s), dim=-1) for s in ((4, 3, 8), (4, 8)))
    same, temperature = torch.arange(4), torch.tensor(0.07)
    found = momentum_itc_loss(momentum, (rows, texts), (rows, texts), same, temperature)
    logits = itc_similarity(rows, texts) / temperature
    plain = (F.cross_entropy(logits, same) + F.cross_entropy(logits.T, same)) / 2
    torch.testing.assert_close(found, plain)


def test_the_queue_holds_the_newest_and_what_is_the_same_is_no_negative(student):
    momentum = momentum_of(student, queue=6, share=0.0)
    rows, texts = (F.normalize(torch.randn(*s), dim=-1) for s in ((4, 3, 8), (4, 8)))
    temperature = torch.tensor(0.07)
    momentum_itc_loss(momentum, (rows, texts), (rows, texts), torch.arange(4), temperature)
    assert momentum.filled == 4
    momentum_itc_loss(momentum, (rows, texts), (rows, texts), torch.arange(4, 8), temperature)
    assert momentum.filled == 6
    assert momentum.same_queue.tolist() == [4, 5, 6, 7, 0, 1]
    again = momentum_itc_loss(
        momentum, (rows, texts), (rows, texts), torch.arange(4, 8), temperature
    )
    other = momentum_of(student, queue=6, share=0.0)
    other.load_state_dict(momentum.state_dict())
    assert torch.isfinite(again)


def test_the_teachers_likeness_softens_the_target(student):
    rows, texts = (F.normalize(torch.randn(*s), dim=-1) for s in ((4, 3, 8), (4, 8)))
    same, temperature = torch.arange(4), torch.tensor(0.07)
    losses = [
        momentum_itc_loss(
            momentum_of(student, queue=0, share=share), (rows, texts), (rows, texts), same,
            temperature,
        )
        for share in (0.0, 0.4)
    ]  # fmt: skip
    assert not torch.isclose(*losses)


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"queue": -1}, {"share": 1.0}])
def test_settings_that_cannot_teach_are_refused(settings):
    with pytest.raises(LoupeError, match=next(iter(settings))):
        MomentumConfig(**settings)
