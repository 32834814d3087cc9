"""Peers that write: transformers' own BLIP-2, InstructBLIP and BLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adapters.folder import quiet
from adapters.peers.base import Batch
from adapters.peers.huggingface import HuggingFacePeer, distinct, generation, left_padded
from qformer.contracts import LoupeError, QuestionError
from qformer.together import Likelihood, Question


class Blip2Peer(HuggingFacePeer):
    """Blip2ForConditionalGeneration (Li et al. 2023), by its own forward and generate."""

    architecture = "Blip2ForConditionalGeneration"
    ways = ("write", "choose")
    caption = "a photo of"

    def prompt(self, question: str) -> str:
        if not question:
            return self.caption
        encodes = not self.model.config.use_decoder_only_language_model
        return f"Question: {question} {'Short answer' if encodes else 'Answer'}:"

    def ids(self, question: str) -> Tensor:
        """The places of the picture's tokens, then the prompt."""
        config = self.model.config
        words = self.tokenizer(self.prompt(question), return_tensors="pt")["input_ids"][0]
        picture = torch.full((config.num_query_tokens,), config.image_token_index)
        return torch.cat([picture, words]).to(self.device)

    def extras(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """What else the model reads of each question."""
        return {}

    @torch.no_grad()
    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        pad = self.model.config.text_config.pad_token_id
        ids, shown = left_padded([self.ids(question.text) for question in questions], pad or 0)
        with quiet():
            written = self.model.generate(
                **self.pixels([question.image for question in questions]),
                input_ids=ids, attention_mask=shown, **self.extras(questions),
                **generation(preset),
            )  # fmt: skip
        length = ids.shape[1]
        if written.shape[1] >= length and bool((written[:, :length] == ids).all()):
            written = written[:, length:]
        return list(self.decode(written))

    @torch.no_grad()
    def choose(self, questions: Sequence[Question]) -> list[list[Likelihood] | LoupeError]:
        return [self._likelihoods(question) for question in questions]

    def _likelihoods(self, question: Question) -> list[Likelihood]:
        prompt, end = self.ids(question.text), self._end()
        answers = []
        for choice in question.choices:
            words = self.tokenizer(f" {choice}", add_special_tokens=False, return_tensors="pt")
            answers.append(torch.cat([words["input_ids"][0].to(self.device), end]))
        pixels = {
            key: value.expand(len(answers), *value.shape[1:])
            for key, value in self.pixels([question.image]).items()
        }
        extras = self.extras([question] * len(answers))
        if not self.model.config.use_decoder_only_language_model:
            labels = pad_sequence(answers, True, -100)
            ids = prompt.expand(len(answers), -1)
            logits = self.model(
                **pixels, **extras, input_ids=ids, attention_mask=torch.ones_like(ids),
                labels=labels,
            ).logits  # fmt: skip
        else:
            rows = [torch.cat([prompt, answer]) for answer in answers]
            ids = pad_sequence(rows, True, 0)
            shown = pad_sequence([torch.ones_like(row) for row in rows], True, 0)
            # HF counts picture places by their id, so that padding must be another one.
            logits = self.model(**pixels, **extras, input_ids=ids, attention_mask=shown).logits
            logits = logits[:, len(prompt) - 1 : -1]
        found = []
        for answer, row in zip(answers, logits, strict=True):
            log_probs = F.log_softmax(row[: len(answer)].float(), -1).gather(1, answer[:, None])
            found.append(Likelihood(float(log_probs.sum()), len(answer)))
        return found

    def _end(self) -> Tensor:
        config = self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id
        first = config[0] if isinstance(config, list) else config
        return torch.tensor([first], device=self.device)

    def about(self, preset: str) -> dict[str, Any]:
        return {**super().about(preset), "preset": preset, "decoding": generation(preset)}


class InstructBlipPeer(Blip2Peer):
    """InstructBlipForConditionalGeneration (Dai et al. 2023): the Q-Former reads the question."""

    architecture = "InstructBlipForConditionalGeneration"
    caption = "A short image description."
    questions: Any = None  # the tokenizer of the Q-Former

    @classmethod
    def open(
        cls, source: str | Path, name: str = "peer", dtype: torch.dtype = torch.float32
    ) -> InstructBlipPeer:
        from transformers import AutoTokenizer

        peer = super().open(source, name, dtype)
        peer.questions = AutoTokenizer.from_pretrained(source, subfolder="qformer_tokenizer")
        return peer

    def prompt(self, question: str) -> str:
        return question or self.caption

    def extras(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        read = self.questions(
            [self.prompt(question.text) for question in questions], padding=True,
            return_tensors="pt",
        )  # fmt: skip
        return {
            "qformer_input_ids": read["input_ids"].to(self.device),
            "qformer_attention_mask": read["attention_mask"].to(self.device),
        }


class BlipCaptionPeer(HuggingFacePeer):
    """BlipForConditionalGeneration (Li et al. 2022): captions, and nothing else."""

    architecture = "BlipForConditionalGeneration"
    ways = ("write",)

    @torch.no_grad()
    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        images, which = distinct(questions)
        with quiet():
            written = self.model.generate(**self.pixels(images), **generation(preset))
        captions = self.decode(written)
        return [
            captions[index]
            if not question.text
            else QuestionError(f"{self.name} writes captions and answers no questions")
            for question, index in zip(questions, which, strict=True)
        ]

    def about(self, preset: str) -> dict[str, Any]:
        return {**super().about(preset), "preset": preset, "decoding": generation(preset)}


class BlipAnswerPeer(HuggingFacePeer):
    """BlipForQuestionAnswering (Li et al. 2022)."""

    architecture = "BlipForQuestionAnswering"
    ways = ("write",)

    @torch.no_grad()
    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        asked = [question.text or "what is in the picture?" for question in questions]
        lengths = [len(self.tokenizer(text)["input_ids"]) for text in asked]
        answers: dict[int, str] = {}
        # Its decoder reads the padding of shorter questions too (transformers 5.23): only questions
        # of one length may go together.
        for length in set(lengths):
            rows = [row for row, one in enumerate(lengths) if one == length]
            with quiet():
                written = self.model.generate(
                    **self.texts([asked[row] for row in rows]),
                    **self.pixels([questions[row].image for row in rows]),
                    **generation(preset),
                )
            answers |= dict(zip(rows, self.decode(written), strict=True))
        return [answers[row] for row in range(len(questions))]

    def about(self, preset: str) -> dict[str, Any]:
        return {**super().about(preset), "preset": preset, "decoding": generation(preset)}
