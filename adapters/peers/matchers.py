"""Peers that compare pictures with texts: BLIP's ITM, ViLT, CLIP and ALIGN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from adapters.peers.base import Batch
from adapters.peers.huggingface import HuggingFacePeer, distinct
from qformer.contracts import LoupeError
from qformer.together import Likelihood, Question

ROWS = 64  # pairs read at once
NAMING = "a photo of {}"  # CLIP's own prompt (Radford et al. 2021, section 3.1.4)


class ViltAnswerPeer(HuggingFacePeer):
    """ViltForQuestionAnswering (Kim et al. 2021): a classifier over the answers it knows."""

    architecture = "ViltForQuestionAnswering"
    ways = ("write", "choose")

    @torch.no_grad()
    def logits(self, questions: Sequence[Question]) -> Tensor:
        """(questions, answers)."""
        words = self.texts([question.text or "what is it?" for question in questions])
        return self.model(**words, **self.pixels([q.image for q in questions])).logits.float()

    def write(self, questions: Sequence[Question], preset: str) -> Batch:
        best = self.logits(questions).argmax(-1).tolist()
        return [self.model.config.id2label[index] for index in best]

    def choose(self, questions: Sequence[Question]) -> list[list[Likelihood] | LoupeError]:
        """The log-probability of each choice; one it does not know has none."""
        known = self.model.config.label2id
        log_probs = F.logsigmoid(self.logits(questions))
        return [
            [
                Likelihood(float(row[known[choice]]) if choice in known else -torch.inf, 1)
                for choice in question.choices
            ]
            for question, row in zip(questions, log_probs, strict=True)
        ]


class ViltMatchPeer(HuggingFacePeer):
    """ViltForImageAndTextRetrieval: reads every pair of a picture and a text as one."""

    architecture = "ViltForImageAndTextRetrieval"
    ways = ("match", "retrieve")

    @torch.no_grad()
    def match(self, questions: Sequence[Question]) -> list[list[float] | LoupeError]:
        return [self.rerank(question.image, question.choices).tolist() for question in questions]

    @torch.no_grad()
    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """(texts,) logits."""
        pixels = self.pixels([image])
        parts = []
        for start in range(0, len(texts), ROWS):
            words = self.texts(texts[start : start + ROWS])
            rows = len(words["input_ids"])
            shown = {key: value.expand(rows, *value.shape[1:]) for key, value in pixels.items()}
            parts.append(self.model(**words, **shown).logits[:, 0].float())
        return torch.cat(parts)


class BlipMatchPeer(HuggingFacePeer):
    """BlipForImageTextRetrieval (Li et al. 2022): contrast, then matching."""

    architecture = "BlipForImageTextRetrieval"
    ways = ("match", "retrieve")

    @torch.no_grad()
    def match(self, questions: Sequence[Question]) -> list[list[float] | LoupeError]:
        result: list[list[float] | LoupeError] = []
        for question in questions:
            no, yes = self._pair_logits(question.image, question.choices).unbind(1)
            result.append((yes - no).tolist())
        return result

    @torch.no_grad()
    def rerank(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """(texts,): the logit of "they match"."""
        return self._pair_logits(image, texts)[:, 1]

    def _pair_logits(self, image: Tensor, texts: Sequence[str]) -> Tensor:
        """(texts, 2): the class's own match logits, the picture encoded once."""
        embeds = self.model.vision_model(**self.pixels([image])).last_hidden_state
        parts = []
        for start in range(0, len(texts), ROWS):
            words = self.texts(texts[start : start + ROWS])
            rows = embeds.expand(len(words["input_ids"]), -1, -1)
            states = self.model.text_encoder(
                **words,
                encoder_hidden_states=rows,
                encoder_attention_mask=torch.ones(rows.shape[:2], device=rows.device),
            ).last_hidden_state
            parts.append(self.model.itm_head(states[:, 0]).float())
        return torch.cat(parts)

    @torch.no_grad()
    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        states = self.model.vision_model(**self.pixels(images)).last_hidden_state[:, 0]
        return F.normalize(self.model.vision_proj(states), dim=-1)[:, None]

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        states = self.model.text_encoder(**self.texts(texts)).last_hidden_state[:, 0]
        return F.normalize(self.model.text_proj(states), dim=-1)


class ClipPeer(HuggingFacePeer):
    """CLIPModel (Radford et al. 2021): similarity, and names of whole pictures or crops."""

    architecture = "CLIPModel"
    ways = ("match", "retrieve", "name")
    padding: bool | str = True

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)  # type: ignore[arg-type]
        self._named: tuple[tuple[str, ...], Tensor] | None = None

    @torch.no_grad()
    def image_features(self, images: Sequence[Tensor]) -> Tensor:
        found = self.model.get_image_features(**self.pixels(images))
        return F.normalize(pooled(found).float(), dim=-1)[:, None]

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        parts = [
            pooled(self.model.get_text_features(**self.texts(texts[start : start + ROWS]))).float()
            for start in range(0, len(texts), ROWS)
        ]
        return F.normalize(torch.cat(parts), dim=-1)

    def match(self, questions: Sequence[Question]) -> list[list[float] | LoupeError]:
        """Cosines; only their order means something."""
        images, which = distinct(questions)
        features = self.image_features(images)[:, 0]
        return [
            (self.text_features(question.choices) @ features[index]).tolist()
            for question, index in zip(questions, which, strict=True)
        ]

    def name_it(self, questions: Sequence[Question]) -> Batch:
        """The likeliest of each question's choices as a name: "a photo of a dog"."""
        images, which = distinct(questions)
        features = self.image_features(images)[:, 0]
        answers: Batch = []
        for question, index in zip(questions, which, strict=True):
            scores = self._names(question.choices) @ features[index]
            answers.append(question.choices[int(scores.argmax())])
        return answers

    def _names(self, names: tuple[str, ...]) -> Tensor:
        """Features of a set of names, read once."""
        if self._named is None or self._named[0] != names:
            texts = [NAMING.format(_with_article(name)) for name in names]
            self._named = names, self.text_features(texts)
        return self._named[1]


class AlignPeer(ClipPeer):
    """AlignModel (Jia et al. 2021)."""

    architecture = "AlignModel"


def pooled(output: object) -> Tensor:
    """The vector of a feature method: a tensor, or what newer transformers wrap it in."""
    return output if isinstance(output, Tensor) else output.pooler_output  # type: ignore[attr-defined]


def _with_article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
