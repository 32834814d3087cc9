"""The shipped pipeline on tiny parts: a few steps of each phase, once a session."""

from __future__ import annotations

import pytest

from train.embedded.config import SHIPPED, read_embedded

TINY = [
    "pictures=30",
    "passes=9",
    "vision.size=32",
    "vision.width=24",
    "vision.layers=1",
    "vision.heads=2",
    "vision.loop.steps=3",
    "vision.loop.restart=1",
    "vision.loop.batch=2",
    "language.width=32",
    "language.layers=1",
    "language.heads=2",
    "language.lora_rank=2",
    "language.loop.steps=60",
    "language.loop.restart=40",
    "language.loop.batch=4",
    "language.loop.warmup=5",
    "language.loop.lr=1e-2",
    "segmenter.size=48",
    "segmenter.width=16",
    "segmenter.layers=2",
    "segmenter.heads=2",
    "segmenter.loop.steps=2",
    "segmenter.loop.restart=1",
    "segmenter.loop.batch=2",
    "bridge.language_width=32",
    "bridge.qformer.hidden_size=32",
    "bridge.qformer.num_layers=2",
    "bridge.qformer.num_heads=2",
    "bridge.qformer.intermediate_size=32",
    "bridge.qformer.encoder_hidden_size=24",
    "bridge.qformer.num_queries=4",
    "stage1.steps=2",
    "stage1.batch=4",
    "stage2.steps=2",
    "stage2.batch=2",
    "decoding.max_new_tokens=12",
]


@pytest.fixture(scope="session")
def tiny_config():
    return read_embedded(SHIPPED, TINY)


@pytest.fixture(scope="session")
def pipeline(tiny_config, tmp_path_factory):
    """A Pipeline whose frozen parts and pool of pictures are made."""
    from train.embedded.language import train_tokenizer
    from train.embedded.pipeline import Pipeline

    pipeline = Pipeline(tiny_config, tmp_path_factory.mktemp("pipeline"), lambda line: None)
    vocabulary = tiny_config.language.vocabulary
    train_tokenizer(pipeline.tokenizer_file, vocabulary, seed=0, scenes=150)
    for phase in (pipeline.vision, pipeline.language, pipeline.segmenter, pipeline.pool):
        phase()
    return pipeline
