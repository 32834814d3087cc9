"""What the language models share: one Hugging Face folder, its tokenizer, its words."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.decoding import Step, search_together, write_together
from adapters.folder import HERE, open_model
from adapters.frozen import Frozen
from adapters.memory import Placement
from adapters.source import ModelSource, Source
from adapters.tokenizer import Tokenizer, open_tokenizer
from qformer.contracts import CheckpointError, Decoding

BEAMS_AT_ONCE = 80
ENCODER_DECODERS = ("t5", "mt5", "umt5")  # where a config does not say


class HuggingFaceLanguageModel(Frozen):
    """The half of qformer's LanguageModel that is the same for all. context: most tokens read.
    encodes: whether the kind reads a prompt with an encoder of its own. needed: what the `forward`
    of a class must take to be this kind."""

    encodes: ClassVar[bool]
    needed: ClassVar[frozenset[str]]

    def __init__(self, model: Any, tokenizer: Tokenizer, context: int) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.context = context
        self.width: int = model.get_input_embeddings().embedding_dim
        self.stop_ids = stop_ids(model, tokenizer)
        self.eos_id = self.stop_ids[0]

    @classmethod
    def open(
        cls,
        source: Source,
        dtype: torch.dtype = torch.float32,
        placement: Placement = HERE,
        stop: str | None = None,
    ) -> Self:
        """A language model's folder or hub id, or that of a whole BLIP-2 that holds one. stop: the
        text, one token, that ends an answer instead of the model's own end. Raises CheckpointError,
        for a model of another kind before its weights are read."""
        source = ModelSource.of(source)
        cls.check(text_settings(source), source)
        model = open_model(source, dtype, part=source.part("language_model"), placement=placement)
        words = open_tokenizer(source)
        if stop is not None:
            ids = words(stop)
            if len(ids) != 1:
                raise CheckpointError(f"{source}: stop={stop!r} is {len(ids)} tokens, not one")
            model.generation_config.eos_token_id = ids[0]
        return cls(model, words)  # type: ignore[call-arg]

    @classmethod
    def check(cls, settings: dict[str, Any], source: Source) -> None:
        """Raises CheckpointError for a model that is not of this kind. settings: its config."""
        import transformers

        model_type, kinds = settings.get("model_type"), ("decoder", "encoder-decoder")
        architecture = (settings.get("architectures") or [""])[0]
        model_class = getattr(transformers, architecture, None)
        writes = model_class is None or model_class.can_generate()  # of None open_model tells
        if writes and encodes(settings) != cls.encodes:
            raise CheckpointError(
                f"{source} is a {model_type!r}, whose kind is {kinds[not cls.encodes]!r}, and it"
                f" was opened as {kinds[cls.encodes]!r}: change the kind"
            )
        takes = () if model_class is None else inspect.signature(model_class.forward).parameters
        if not writes or (model_class is not None and not cls.needed <= set(takes)):
            raise CheckpointError(
                f"{source} is a {model_type!r} as {architecture}, which does not write from keys"
                " and values kept of what it read: choose one that does, such as a Llama or T5"
            )

    def recompute(self) -> None:
        """Compute each layer's activations again in the backward pass, instead of keeping them
        (gradient checkpointing, arXiv 1604.06174)."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        told = {"use_reentrant": False}
        with warnings.catch_warnings():  # peft and transformers are renaming it
            warnings.simplefilter("ignore", FutureWarning)
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=told)
        self._recomputed = [
            one for one in self.model.modules() if isinstance(one, GradientCheckpointingLayer)
        ]
        for layer in self._recomputed:
            if hasattr(layer, "dropout") and isinstance(layer.dropout, float):
                layer.dropout = 0.0  # a frozen model drops nothing

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for layer in getattr(self, "_recomputed", ()):
            layer.training = mode  # of the layer alone: it recomputes only where it trains
        return self

    def tokenize(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text), dtype=torch.long, device=self.device)

    def start_ids(self) -> Tensor:
        return torch.tensor(self.tokenizer.start_ids, dtype=torch.long, device=self.device)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(input_ids.to(self.device))

    def forward(self, **inputs: Any) -> Any:
        """One pass of the model itself, with its own arguments and output."""
        return self.model(**inputs)

    def whole(self, inputs_embeds: Tensor) -> Tensor:
        """A prompt (n, width) as the model itself is given it, whatever it wants added."""
        return inputs_embeds.to(self.device, self.dtype)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def generate(
        self, inputs_embeds: Tensor, decoding: Decoding, prefix: Any = None
    ) -> Iterator[int]:
        """See qformer's LanguageModel."""
        raise NotImplementedError

    def generate_together(self, prompts: Sequence[Tensor], decoding: Decoding) -> list[list[int]]:
        """See qformer's LanguageModel. Raises QuestionError if a prompt exceeds the context."""
        if len(prompts) == 1:
            return [list(self.generate(prompts[0], decoding))]
        # Every beam is a row with keys and values of its own.
        size = len(prompts) if decoding.beams == 1 else max(1, BEAMS_AT_ONCE // decoding.beams)
        parts = (prompts[start : start + size] for start in range(0, len(prompts), size or 1))
        return [ids for part in parts for ids in self._write_together(part, decoding)]

    def _write_together(self, prompts: Sequence[Tensor], decoding: Decoding) -> list[list[int]]:
        raise NotImplementedError

    def _side_by_side(
        self,
        logits: Tensor,
        step: Step,
        select: Callable[[Tensor], None],
        decoding: Decoding,
        room: Sequence[int],
    ) -> list[list[int]]:
        """The answers after each prompt's logits, stopping ids left out; see decoding.py."""
        stops = set(self.stop_ids)
        if decoding.beams == 1:
            return write_together(logits, step, select, decoding, stops, room)
        found = search_together(logits, step, select, decoding, stops, room)
        return [[token for token in ids if token not in stops] for ids in found]

    def answer_logits(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        """What was predicted at each place of each answer: (m_i, vocabulary) each."""
        raise NotImplementedError

    def loss(
        self,
        prompts: Sequence[Tensor],
        answers: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        return answer_loss(self.answer_logits(prompts, answers), answers, weights)


class Words:
    """What of a language model needs no weights: its words, its ends, its context."""

    def __init__(self, source: Source) -> None:
        source = ModelSource.of(source)
        self.tokenizer = open_tokenizer(source)
        config = source.settings()
        config = config.get("text_config", config)  # of a whole BLIP-2
        try:
            generation = source.settings("generation_config.json")
        except CheckpointError:  # older folders have none
            generation = {}
        model = SimpleNamespace(
            config=SimpleNamespace(eos_token_id=config.get("eos_token_id")),
            generation_config=SimpleNamespace(eos_token_id=generation.get("eos_token_id")),
        )
        self.stop_ids = stop_ids(model, self.tokenizer)
        self.eos_id = self.stop_ids[0]
        self.context = config.get("max_position_embeddings") or config.get("n_positions", 512)

    def tokenize(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text), dtype=torch.long)

    def start_ids(self) -> Tensor:
        return torch.tensor(self.tokenizer.start_ids, dtype=torch.long)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)


def answer_loss(
    logits: Sequence[Tensor], answers: Sequence[Tensor], weights: Sequence[Tensor] | None
) -> Tensor:
    """(Weighted) mean cross entropy over all answers' tokens. logits: (m_i, vocabulary) each."""
    flat = torch.cat(list(logits)).float()
    labels = torch.cat(list(answers)).to(flat.device)
    if weights is None:
        return F.cross_entropy(flat, labels)
    weight = torch.cat(list(weights)).to(flat)
    return (F.cross_entropy(flat, labels, reduction="none") * weight).sum() / weight.sum()


def text_settings(source: Source) -> dict[str, Any]:
    """The config of a language model, also of one within a BLIP-2."""
    source = ModelSource.of(source)
    settings = source.settings()
    return dict(settings.get("text_config") or {}) if source.is_whole else settings


def encodes(settings: Mapping[str, Any]) -> bool:
    """Whether a language model has an encoder beside its decoder. settings: its config."""
    known = settings.get("model_type") in ENCODER_DECODERS
    return bool(settings.get("is_encoder_decoder", known))


def stop_ids(model: Any, tokenizer: Tokenizer) -> list[int]:
    """The ids that end an answer: the generation config's (50118, a newline, for BLIP-2's OPT),
    else the config's, else the tokenizer's."""
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    own = getattr(text, "eos_token_id", None)
    for ids in (model.generation_config.eos_token_id, own, tokenizer.eos_id):
        if ids is not None:
            return list(ids) if isinstance(ids, list | tuple) else [ids]
    raise ValueError("the language model names no end-of-sequence token in its config.json")
