"""A Q-Former that starts from a BERT says of a text what that BERT says."""

import dataclasses

import pytest
import torch

from adapters.bert import start_from_bert
from qformer.config import QFormerConfig
from qformer.contracts import CheckpointError
from qformer.qformer import QFormer
from qformer.stage1 import Stage1

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "vocab_size": 40}
CONFIG = QFormerConfig(
    **{**SHAPE, "vocab_size": 41}, num_layers=2, num_heads=4, encoder_hidden_size=24, num_queries=4,
    max_positions=64, cls_id=1, dec_id=40, itc_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            **SHAPE, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64,
            initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


@torch.no_grad()
def test_texts_are_read_as_bert_reads_them(bert):
    folder, theirs = bert
    theirs.bert.embeddings.token_type_embeddings.weight.zero_()  # which BLIP-2 leaves out
    qformer = QFormer(CONFIG).eval()
    heads = Stage1(qformer)
    start_from_bert(qformer, folder, heads)
    ids = torch.tensor([[1, 7, 30, 9]])
    ours = qformer(input_ids=ids).text_embeds
    torch.testing.assert_close(ours, theirs.bert(ids).last_hidden_state, atol=1e-5, rtol=1e-4)
    said = heads.generation_head(ours, qformer.word_embeddings.weight)[..., :40]
    torch.testing.assert_close(said, theirs(ids).logits, atol=1e-4, rtol=1e-4)
    layer = qformer.layers[1]
    for name, value in layer.text_feed_forward.state_dict().items():
        assert torch.equal(value, layer.query_feed_forward.state_dict()[name])


def test_a_bert_of_another_shape_is_refused(bert):
    with pytest.raises(CheckpointError, match="another BERT than"):
        start_from_bert(QFormer(dataclasses.replace(CONFIG, intermediate_size=64)), bert[0])
    with pytest.raises(CheckpointError, match="lacks"):
        start_from_bert(QFormer(dataclasses.replace(CONFIG, num_layers=3)), bert[0])
