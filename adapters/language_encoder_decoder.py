"""Encoder-decoder language models (T5, Flan-T5) over a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.decoding import search_together, write
from adapters.language import HuggingFaceLanguageModel
from adapters.tokenizer import Tokenizer
from qformer.contracts import CheckpointError, Decoding, QuestionError

T5_OVERFLOWS = "the language model is a T5, which overflows in float16: use bfloat16 or float32"


class EncoderDecoderLanguageModel(HuggingFaceLanguageModel):
    """qformer's LanguageModel over a T5. It keeps no prefix: the encoder re-reads the text."""

    keeps_prefix = False
    encodes = True
    needed = frozenset(("inputs_embeds", "past_key_values", "decoder_input_ids"))

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        if model.dtype == torch.float16:
            raise CheckpointError(T5_OVERFLOWS)
        start = getattr(model.config, "decoder_start_token_id", None)
        if start is None:
            raise CheckpointError(
                f"the language model, a {model.config.model_type!r}, does not say what opens an"
                " answer (decoder_start_token_id): choose a T5"
            )
        # n_positions is what T5 was trained on
        super().__init__(model, tokenizer, getattr(model.config, "n_positions", 512))
        self.decoder_start_id: int = start
        self.freeze()

    def new_prefix(self) -> None:
        return None

    def generate(
        self,
        inputs_embeds: Tensor,
        decoding: Decoding,
        prefix: None = None,
        answer_stop: int | None = None,
    ) -> Iterator[int]:
        """See qformer's LanguageModel. Raises QuestionError if the text exceeds the context."""
        self._check(inputs_embeds)
        stops = {*self.stop_ids} | ({answer_stop} if answer_stop is not None else set())
        return self._generate(inputs_embeds, decoding, stops)

    def _check(self, inputs_embeds: Tensor) -> None:
        if len(inputs_embeds) >= self.context:  # the closing </s> takes one more
            raise QuestionError(
                f"the conversation is {len(inputs_embeds)} tokens long and the language model "
                f"reads {self.context - 1}: ask a shorter question or start anew"
            )

    @torch.no_grad()
    def _write_together(self, prompts: Sequence[Tensor], decoding: Decoding) -> list[list[int]]:
        from transformers import DynamicCache, EncoderDecoderCache

        for prompt in prompts:
            self._check(prompt)
        inputs_embeds, attention_mask = self._padded(prompts)
        memory = self.encode(inputs_embeds=inputs_embeds, attention_mask=attention_mask)
        state = _Batch(memory, attention_mask, EncoderDecoderCache(DynamicCache(), DynamicCache()))

        def step(tokens: Tensor) -> Tensor:
            return self(
                encoder_outputs=(state.memory,),
                attention_mask=state.attention_mask,
                decoder_input_ids=tokens[:, None],
                past_key_values=state.cache,
                use_cache=True,
            ).logits[:, -1]

        start = torch.full((len(prompts),), self.decoder_start_id, device=self.device)
        room = [decoding.max_new_tokens] * len(prompts)
        return self._side_by_side(step(start), step, state.select, decoding, room)

    def _padded(self, prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The encoder's inputs_embeds (batch, longest, width) and their attention_mask."""
        sequences = [self.whole(prompt) for prompt in prompts]
        lengths = torch.tensor([len(s) for s in sequences], device=self.device)
        inputs_embeds = pad_sequence(sequences, batch_first=True)
        position = torch.arange(inputs_embeds.shape[1], device=self.device)
        return inputs_embeds, (position < lengths[:, None]).long()

    def _generate(
        self, inputs_embeds: Tensor, decoding: Decoding, stops: set[int]
    ) -> Iterator[int]:
        from transformers import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad():
            inputs_embeds = self.whole(inputs_embeds)[None]
            memory = self.encode(inputs_embeds=inputs_embeds)

        @torch.no_grad()
        def step(tokens: Tensor) -> Tensor:
            return self(
                encoder_outputs=(memory.expand(len(tokens), -1, -1),),
                decoder_input_ids=tokens[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]

        logits = step(torch.tensor([self.decoder_start_id], device=self.device))
        if decoding.beams > 1:
            room = [decoding.max_new_tokens]
            ids: Any = search_together(logits, step, cache.reorder_cache, decoding, stops, room)[0]
        else:
            ids = write(logits, step, decoding, stops)
        yield from (token for token in ids if token not in stops)

    def answer_logits(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        inputs_embeds, attention_mask = self._padded(prompts)
        start = torch.tensor([self.decoder_start_id])
        read = [torch.cat([start.to(answer), answer[:-1]]) for answer in answers]
        logits = self(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            # Padding stands behind the answer, where a causal decoder does not see it.
            decoder_input_ids=pad_sequence(read, batch_first=True).to(self.device),
            use_cache=False,
        ).logits  # (batch, longest answer, vocabulary)
        return [logits[i, : len(answer)] for i, answer in enumerate(answers)]

    def encode(self, **inputs: Tensor) -> Tensor:
        """The encoder's last states (batch, n, width) of inputs_embeds and their attention_mask."""
        return self.model.get_encoder()(**inputs).last_hidden_state

    def whole(self, inputs_embeds: Tensor) -> Tensor:
        """T5's encoder reads its text up to a closing </s>."""
        close = self.embed(torch.tensor([self.eos_id]))
        return torch.cat([inputs_embeds.to(self.device, self.dtype), close])


class _Batch:
    """Answers written side by side: the encoded texts they read, and the cache of all."""

    def __init__(self, memory: Tensor, attention_mask: Tensor, cache: Any) -> None:
        self.memory, self.attention_mask, self.cache = memory, attention_mask, cache

    def select(self, rows: Tensor) -> None:
        self.memory, self.attention_mask = self.memory[rows], self.attention_mask[rows]
        self.cache.reorder_cache(rows)
