"""Configs check themselves and refuse what they do not know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest

from qformer import LoupeError, QFormerConfig, from_dict


@dataclass(frozen=True)
class Whole:
    qformer: QFormerConfig
    kind: Literal["small", "large"] = "small"
    sizes: tuple[int, ...] = ()
    width: int | None = None
    rate: float = 0.5
    names: list[str] = field(default_factory=list)


def test_defaults_are_blip2s():
    config = QFormerConfig()
    assert config.cross_attention_layers == (0, 2, 4, 6, 8, 10)
    assert from_dict(QFormerConfig, dataclasses.asdict(config)) == config


def test_nested_tables_become_dataclasses_and_lists_tuples():
    whole = from_dict(
        Whole, {"qformer": {"num_queries": 4}, "sizes": [1, 2], "rate": 1, "width": None}
    )
    assert whole.qformer == QFormerConfig(num_queries=4)
    assert whole.sizes == (1, 2)
    assert isinstance(whole.rate, float)
    assert from_dict(Whole, dataclasses.asdict(whole)) == whole


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"qformer": {"num_querys": 4}}, "qformer.num_querys'; did you mean 'num_queries'"),
        ({"qformer": {"zzz": 4}}, "known: hidden_size"),
        ({"sizes": [1]}, "missing key 'qformer'"),
        ({"qformer": {"num_queries": "4"}}, "qformer.num_queries='4': expected int"),
        ({"qformer": {"num_queries": True}}, "expected int"),
        ({"qformer": {}, "kind": "middle"}, "choose one of"),
        ({"qformer": {}, "width": "wide"}, "expected int"),
        ({"qformer": 3}, "expected a table"),
        ({"qformer": {"hidden_size": 10, "num_heads": 4}}, "multiple of num_heads"),
        ({"qformer": {"num_layers": 0}}, "num_layers=0 must be at least 1"),
        ({"qformer": {"dropout": 1.0}}, "dropout"),
        ({"qformer": {"vocab_size": -1}}, "vocab_size"),
        ({"qformer": {"vocab_size": 100}}, "outside vocab_size=100"),
        ({"qformer": {"text_feed_forward": False}}, "vocab_size=0"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_hint(values, says):
    with pytest.raises(LoupeError) as error:
        from_dict(Whole, values)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
