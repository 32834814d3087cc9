"""The Q-Former's settings, and the strict reader every config of the project goes through."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .contracts import LoupeError, hint

Config = TypeVar("Config")


@dataclass(frozen=True)
class QFormerConfig:
    """BLIP-2's Q-Former (BERT-base with cross-attention); the defaults are the published shape.

    vocab_size 0 leaves out the text embeddings, text_feed_forward False the text half of every
    layer: a stage-2 checkpoint has neither.
    """

    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    cross_attention_frequency: int = 2  # layers 0, n, 2n, ... read the image
    encoder_hidden_size: int = 1408  # width of image_embeds
    num_queries: int = 32
    vocab_size: int = 30523  # BERT's 30522 and [DEC]
    max_positions: int = 512
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12
    pad_id: int = 0
    cls_id: int = 101
    dec_id: int = 30522
    text_feed_forward: bool = True
    itc_size: int = 256  # width of the contrastive features

    def __post_init__(self) -> None:
        for name in (
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "cross_attention_frequency",
            "encoder_hidden_size",
            "num_queries",
            "max_positions",
            "itc_size",
        ):
            if getattr(self, name) < 1:
                raise LoupeError(f"{name}={getattr(self, name)} must be at least 1")
        if self.hidden_size % self.num_heads:
            raise LoupeError(
                f"hidden_size={self.hidden_size} is not a multiple of num_heads={self.num_heads};"
                " change one"
            )
        if not 0 < self.layer_norm_eps < 1:
            raise LoupeError(f"layer_norm_eps={self.layer_norm_eps} must lie between 0 and 1")
        if not 0 <= self.dropout < 1:
            raise LoupeError(f"dropout={self.dropout} must lie in [0, 1)")
        if self.vocab_size < 0:
            raise LoupeError(f"vocab_size={self.vocab_size} must be 0 (no text) or positive")
        if self.vocab_size and not self.text_feed_forward:
            raise LoupeError(
                f"vocab_size={self.vocab_size} needs text_feed_forward=true;"
                " set vocab_size=0 for a Q-Former without text"
            )
        for name in ("pad_id", "cls_id", "dec_id") if self.vocab_size else ():
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise LoupeError(
                    f"{name}={getattr(self, name)} is outside vocab_size={self.vocab_size}"
                )

    @property
    def cross_attention_layers(self) -> tuple[int, ...]:
        """Indices of the layers that read the image."""
        return tuple(range(0, self.num_layers, self.cross_attention_frequency))


@dataclass(frozen=True)
class Over(Generic[Config]):
    """What a table says of a config whose other settings come from elsewhere, read as strictly.

    values: of the keys that are named alone; of an inner table an Over again. where: its name.
    """

    kind: type[Config]
    values: Mapping[str, Any]
    where: str = ""

    def over(self, base: Config | None) -> Config:
        """`base` with what is named changed, and nothing else; of None, the config's own defaults.
        Raises LoupeError."""
        changes = {
            name: value.over(getattr(base, name, None)) if isinstance(value, Over) else value
            for name, value in self.values.items()
        }
        if base is not None:
            return dataclasses.replace(base, **changes)  # type: ignore[type-var]
        _require(self.kind, changes, self.where)
        return self.kind(**changes)

    def under(self, other: Over[Config] | None) -> Over[Config]:
        """Both, where they name the same as `other` has it."""
        if other is None:
            return self
        values = dict(self.values)
        for name, value in other.values.items():
            mine = values.get(name)
            if isinstance(value, Over) and isinstance(mine, Over):
                value = mine.under(value)
            values[name] = value
        return dataclasses.replace(self, values=values)


def from_dict(cls: type[Config], values: Mapping[str, Any], where: str = "") -> Config:
    """Build the dataclass `cls` from parsed TOML or JSON; nested dataclasses from nested tables.

    where: how messages name the table. Raises LoupeError for an unknown key (naming the nearest
    known one), a missing key or a value of another type.
    """
    found = _read_table(cls, values, where)
    _require(cls, found, where)
    return cls(**found)


def _require(cls: type, values: Mapping[str, Any], where: str) -> None:
    """Raises LoupeError for a key without a default that is not there."""
    for field in dataclasses.fields(cls):
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and field.name not in values:
            name = f"{where}.{field.name}" if where else field.name
            raise LoupeError(f"missing key {name!r}")


def _read_table(
    cls: type, values: Mapping[str, Any], where: str, partly: bool = False
) -> dict[str, Any]:
    """Each value as its field wants it. partly: inner tables need not be whole."""
    if not isinstance(values, Mapping):
        raise LoupeError(f"{where or cls.__name__}: expected a table, got {values!r:.60}")
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise LoupeError(f"unknown key {prefix + str(key)!r}; {hint(key, fields)}")
    return {key: _read(hints[key], value, prefix + key, partly) for key, value in values.items()}


def _read(hint: Any, value: Any, where: str, partly: bool = False) -> Any:
    """Value as the annotation `hint` wants it, or a LoupeError that names the key."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        for option in options[:-1]:
            try:
                return _read(option, value, where, partly)
            except LoupeError:
                continue
        return _read(options[-1], value, where, partly)
    if origin is Over:
        (kind,) = typing.get_args(hint)
        return Over(kind, _read_table(kind, value, where, partly=True), where)
    if dataclasses.is_dataclass(hint) and partly and not isinstance(value, hint):  # type: ignore[arg-type]
        return Over(hint, _read_table(hint, value, where, partly), where)  # type: ignore[arg-type]
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is typing.Literal:
        if not isinstance(value, str | int | float) or value not in typing.get_args(hint):
            raise LoupeError(f"{where}={value!r}: choose one of {typing.get_args(hint)}")
        return value
    kind = origin or hint
    if kind is tuple and isinstance(value, list | tuple):
        each = typing.get_args(hint)
        if len(each) == 2 and each[1] is Ellipsis:
            each = each[:1] * len(value)
        if each and len(each) != len(value):
            raise LoupeError(f"{where} has {len(value)} values: expected {len(each)}")
        kinds = each or (typing.Any,) * len(value)
        return tuple(
            _read(kind, one, f"{where}[{n}]")
            for n, (kind, one) in enumerate(zip(kinds, value, strict=True))
        )
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < 1e300:  # nor is NaN
            raise LoupeError(f"{where} is no finite number: change it")
        return float(value)
    if not isinstance(kind, type):  # Any
        return value
    # bool is an int to Python, never to a reader
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise LoupeError(f"{where}={value!r:.60}: expected {kind.__name__}")
    return value
