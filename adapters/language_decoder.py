"""Decoder-only language models (OPT, Llama, Vicuna, ...) over a Hugging Face folder."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.decoding import search_together, write
from adapters.language import HuggingFaceLanguageModel
from adapters.tokenizer import Tokenizer
from qformer.contracts import Decoding, QuestionError


class Prefix:
    """What the model has read: keys and values, and the embeddings it was given since."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        # The tokens that ended the last answer: read together with what comes next.
        self.pending: Tensor | None = None  # (n, width)

    def __len__(self) -> int:
        return self.cache.get_seq_length() + (0 if self.pending is None else len(self.pending))


class DecoderLanguageModel(HuggingFaceLanguageModel):
    """qformer's LanguageModel over a `...ForCausalLM`."""

    keeps_prefix = True
    encodes = False
    needed = frozenset(("inputs_embeds", "past_key_values", "logits_to_keep"))

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        text = model.config.get_text_config()  # of a model that sees for itself, its language half
        super().__init__(model, tokenizer, getattr(text, "max_position_embeddings", 2048))
        if (head := model.get_output_embeddings()) is not None:
            head.register_forward_pre_hook(_packed)
        self.freeze()

    def new_prefix(self) -> Prefix:
        from transformers import DynamicCache

        return Prefix(DynamicCache(config=self.model.config.get_text_config()))

    def generate(
        self,
        inputs_embeds: Tensor,
        decoding: Decoding,
        prefix: Prefix | None = None,
        answer_stop: int | None = None,
    ) -> Iterator[int]:
        """See qformer's LanguageModel. Raises QuestionError if the context leaves no room."""
        prefix = prefix if prefix is not None else self.new_prefix()
        room = self._room(len(prefix) + len(inputs_embeds))
        most = min(decoding.max_new_tokens, room)
        decoding = replace(
            decoding, max_new_tokens=most, min_new_tokens=min(decoding.min_new_tokens, most)
        )
        stops = {*self.stop_ids} | ({answer_stop} if answer_stop is not None else set())
        return self._generate(inputs_embeds, decoding, prefix, stops)

    def _room(self, length: int) -> int:
        """How many tokens may follow `length`. Raises QuestionError if none."""
        if length >= self.context:
            raise QuestionError(
                f"the conversation is {length} tokens long and the "
                f"language model reads {self.context}: ask a shorter question or start anew"
            )
        return self.context - length

    @torch.no_grad()
    def _write_together(self, prompts: Sequence[Tensor], decoding: Decoding) -> list[list[int]]:
        """Prompts end together: padding stands before them, unseen, and takes no position."""
        room = [self._room(len(prompt)) for prompt in prompts]
        longest = max(len(prompt) for prompt in prompts)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        inputs_embeds = pad_sequence(
            [prompt.to(self.device, self.dtype).flip(0) for prompt in prompts], batch_first=True
        ).flip(1)  # (rows, longest, width)
        position = torch.arange(longest, device=self.device)
        cache = self.new_prefix().cache
        state = _Batch((position >= longest - lengths[:, None]).long(), cache)

        def read(embeds: Tensor) -> Tensor:
            shown = state.attention_mask
            places = (shown.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
            return self(
                inputs_embeds=embeds,
                attention_mask=shown,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]

        def step(tokens: Tensor) -> Tensor:
            state.grow()
            return read(self.embed(tokens)[:, None])

        return self._side_by_side(read(inputs_embeds), step, state.select, decoding, room)

    def _generate(
        self, inputs_embeds: Tensor, decoding: Decoding, prefix: Prefix, stops: set[int]
    ) -> Iterator[int]:
        # Work on a copy of the cache: whatever happens, the prefix is whole until the end.
        cache = _fork(prefix.cache)
        waiting = [inputs_embeds.to(self.device, self.dtype)]
        if prefix.pending is not None:
            waiting.insert(0, prefix.pending)
        logits = self._read(torch.cat(waiting)[None], cache)
        ids: list[int] = []
        if decoding.beams > 1:
            beams = _fork(cache)
            (ids,) = search_together(
                logits,
                lambda tokens: self._read(self.embed(tokens)[:, None], beams),
                beams.reorder_cache,
                decoding,
                stops,
                [decoding.max_new_tokens],
            )
            yield from (i for i in ids if i not in stops)
            unread = ids  # the best beam's keys may be gone: the answer is read again
        else:
            step = lambda tokens: self._read(self.embed(tokens)[:, None], cache)  # noqa: E731
            for token in write(logits, step, decoding, stops):
                ids.append(token)
                if token not in stops:
                    yield token
            unread = ids[-1:]
        prefix.cache = cache
        prefix.pending = self.embed(torch.tensor(unread))

    @torch.no_grad()
    def _read(self, inputs_embeds: Tensor, cache: Any) -> Tensor:
        """(rows, n, width) -> logits of the next token (rows, vocabulary); the cache grows."""
        output = self(
            inputs_embeds=inputs_embeds, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        return output.logits[:, -1]

    def answer_logits(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        sequences = [
            torch.cat([prompt.to(self.dtype), self.embed(answer)])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        lengths = torch.tensor([len(s) for s in sequences], device=self.device)
        inputs_embeds = pad_sequence(sequences, batch_first=True)  # (batch, longest, width)
        position = torch.arange(inputs_embeds.shape[1], device=self.device)
        # Only what follows the shortest prompt can be an answer: spare the other logits.
        first = min(len(prompt) for prompt in prompts) - 1
        logits = self(
            inputs_embeds=inputs_embeds,
            attention_mask=(position < lengths[:, None]).long(),
            use_cache=False,
            logits_to_keep=inputs_embeds.shape[1] - first,
        ).logits  # (batch, longest - first, vocabulary); row j predicts position first + j + 1
        # One gather, split: a slice of the logits for each answer would cost backward a copy each.
        sizes = [len(answer) for answer in answers]
        row = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        place = torch.cat(
            [torch.arange(n) + len(p) - 1 - first for p, n in zip(prompts, sizes, strict=True)]
        )
        return list(logits[row.to(self.device), place.to(self.device)].split(sizes))


def _packed(head: Any, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last states of a sequence, cut out of it, with memory of their own: torch (2.13) would
    multiply the cut by a copy of the whole table of words, which costs as much as the layers."""
    return tuple(one.clone(memory_format=torch.contiguous_format) for one in states)


class _Batch:
    """Rows written side by side: which positions each may see, and the cache of all."""

    def __init__(self, attention_mask: Tensor, cache: Any) -> None:
        self.attention_mask, self.cache = attention_mask, cache

    def grow(self) -> None:
        """Every row gets one more position, which it sees."""
        one = self.attention_mask.new_ones(len(self.attention_mask), 1)
        self.attention_mask = torch.cat([self.attention_mask, one], dim=1)

    def select(self, rows: Tensor) -> None:
        self.attention_mask = self.attention_mask[rows]
        self.cache.reorder_cache(rows)


def _fork(cache: Any) -> Any:
    """A copy of a transformers cache that grows on its own."""
    from transformers.cache_utils import DynamicLayer

    twin = copy.copy(cache)
    # A DynamicLayer replaces its tensors as it grows, so that they can be shared until then.
    twin.layers = [
        copy.copy(layer) if type(layer) is DynamicLayer else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return twin
