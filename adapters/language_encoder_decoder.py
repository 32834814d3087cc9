"""Encoder-decoder language models (T5, Flan-T5) over a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.decoding import search, write
from adapters.folder import Source, open_model
from adapters.frozen import Frozen
from adapters.language_decoder import answer_loss, stop_ids
from adapters.tokenizer import Tokenizer, open_tokenizer
from qformer.contracts import Decoding, QuestionError


class EncoderDecoderLanguageModel(Frozen):
    """qformer's LanguageModel over a T5. It keeps no prefix: the encoder re-reads the text."""

    keeps_prefix = False

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.width: int = model.get_input_embeddings().embedding_dim
        self.context: int = getattr(model.config, "n_positions", 512)  # what T5 was trained on
        self.stop_ids = stop_ids(model, tokenizer)
        self.eos_id = self.stop_ids[0]
        self.decoder_start_id: int = model.config.decoder_start_token_id
        self.freeze()

    @classmethod
    def open(
        cls, source: Source, dtype: torch.dtype = torch.float32, revision: str | None = None
    ) -> Self:
        return cls(open_model(source, dtype, revision), open_tokenizer(source, revision))

    def tokenize(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text), dtype=torch.long, device=self.device)

    def start_ids(self) -> Tensor:
        return torch.tensor(self.tokenizer.start_ids, dtype=torch.long, device=self.device)

    def embed(self, input_ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(input_ids.to(self.device))

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

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
        if len(inputs_embeds) >= self.context:  # the closing </s> takes one more
            raise QuestionError(
                f"the conversation is {len(inputs_embeds)} tokens long and the language model "
                f"reads {self.context - 1}: ask a shorter question or start anew"
            )
        stops = {*self.stop_ids} | ({answer_stop} if answer_stop is not None else set())
        return self._generate(inputs_embeds, decoding, stops)

    def _generate(
        self, inputs_embeds: Tensor, decoding: Decoding, stops: set[int]
    ) -> Iterator[int]:
        from transformers import DynamicCache, EncoderDecoderCache

        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with torch.no_grad():
            inputs_embeds = self._closed(inputs_embeds)[None]
            memory = self.model.get_encoder()(inputs_embeds=inputs_embeds).last_hidden_state

        @torch.no_grad()
        def step(tokens: Tensor) -> Tensor:
            return self.model(
                encoder_outputs=(memory.expand(len(tokens), -1, -1),),
                decoder_input_ids=tokens[:, None],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]

        logits = step(torch.tensor([self.decoder_start_id], device=self.device))
        if decoding.beams > 1:
            ids: Any = search(logits, step, cache.reorder_cache, decoding, stops)
        else:
            ids = write(logits, step, decoding, stops)
        yield from (token for token in ids if token not in stops)

    def loss(
        self,
        prompts: Sequence[Tensor],
        answers: Sequence[Tensor],
        weights: Sequence[Tensor] | None = None,
    ) -> Tensor:
        return answer_loss(self.answer_logits(prompts, answers), answers, weights)

    def answer_logits(self, prompts: Sequence[Tensor], answers: Sequence[Tensor]) -> list[Tensor]:
        """What was predicted at each place of each answer: (m_i, vocabulary) each."""
        sequences = [self._closed(prompt) for prompt in prompts]
        lengths = torch.tensor([len(s) for s in sequences], device=self.device)
        inputs_embeds = pad_sequence(sequences, batch_first=True)  # (batch, longest, width)
        start = torch.tensor([self.decoder_start_id])
        read = [torch.cat([start.to(answer), answer[:-1]]) for answer in answers]
        logits = self.model(
            inputs_embeds=inputs_embeds,
            attention_mask=(
                torch.arange(inputs_embeds.shape[1], device=self.device) < lengths[:, None]
            ).long(),
            # Padding stands behind the answer, where a causal decoder does not see it.
            decoder_input_ids=pad_sequence(read, batch_first=True).to(self.device),
            use_cache=False,
        ).logits  # (batch, longest answer, vocabulary)
        return [logits[i, : len(answer)] for i, answer in enumerate(answers)]

    def _closed(self, inputs_embeds: Tensor) -> Tensor:
        """T5's encoder reads its text up to a closing </s>."""
        close = self.embed(torch.tensor([self.eos_id]))
        return torch.cat([inputs_embeds.to(self.device, self.dtype), close])
