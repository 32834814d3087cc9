"""Language-model pretraining of the embedded default, on text alone.

Documents have the shape of later prompts; words stand where soft tokens will stand ("picture: 3 red
stars question: how many red stars are there? answer: 3"), so that stage 2 replaces the words and
keeps the rest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qformer.prompt import PromptConfig, declarations, lay_out
from train.scenes.dialogue import Turn, heard, turns_of, words_for
from train.scenes.questions import TYPES
from train.scenes.scene import sample_scene
from train.vocabulary import SPECIALS, fit_sentencepiece


def train_tokenizer(model_file: Path, vocabulary: int, seed: int, scenes: int = 4000) -> None:
    """A sentencepiece model over the questions and answers of that many scenes; folds case, falls
    back to bytes for what it has never read."""
    rng = np.random.default_rng((seed, 1))
    lines: list[str] = []
    for _ in range(scenes):
        scene = sample_scene(rng)
        for make in TYPES.values():
            question = make(scene, rng)
            if question is not None:
                lines += [question.text, question.answer]
        for turn in turns_of(scene, rng, 1, 3, 0, 3):
            lines.append(turn.question.text)
    lines += ["picture: question: answer: please hey, can you tell me so ok, now"] * 50
    fit_sentencepiece(lines, model_file, vocabulary, split_digits=True)


class LanguageStage:
    """module: a causal language model of Hugging Face. tokenizer: text -> ids."""

    def __init__(self, module: nn.Module, tokenizer, prompt: PromptConfig, batch: int):
        self.module, self.tokenizer, self.prompt, self.count = module, tokenizer, prompt, batch

    def batch(
        self, rng: np.random.Generator, progress: float = 1.0, place: int = 0
    ) -> dict[str, Tensor]:
        rows = [self.document(rng) for _ in range(self.count)]
        longest = max(len(ids) for ids, _, _ in rows)
        names, kinds = ("input_ids", "labels", "weights"), (torch.long, torch.long, torch.float)
        batch = {
            name: torch.zeros(len(rows), longest, dtype=kind)
            for name, kind in zip(names, kinds, strict=True)
        }
        for i, row in enumerate(rows):
            for name, values in zip(names, row, strict=True):
                batch[name][i, : len(values)] = torch.tensor(values)
        return batch

    def document(self, rng: np.random.Generator) -> tuple[list[int], list[int], list[float]]:
        """A dialogue of one to three turns: the ids that are read, those that should be said (they
        differ where an answer is misheard), and how much each counts."""
        scene = sample_scene(rng)
        turns = turns_of(scene, rng, 2, 3, 2, 2)
        follow = [t for t in turns if t.before is not None]
        if follow and rng.random() < 0.3:
            dialogue: list[Turn] = [follow[0].before, follow[0]]
        else:
            order = rng.permutation(len(turns))[: int(rng.integers(1, 4))]
            dialogue = [turns[i] for i in order]
        ids, labels, weights = [SPECIALS["bos_id"]], [SPECIALS["bos_id"]], [0.0]
        for number, turn in enumerate(dialogue):
            question = turn.question
            pieces = lay_out(
                self.prompt,
                turn.text,
                declarations(self.prompt.composer, question.names),
                first=number == 0,
                captions=words_for(scene, question, rng),
            )
            for text in (piece for piece in pieces if isinstance(piece, str)):
                part = self.tokenizer(text)
                ids += part
                labels += part
                weights += [0.1] * len(part)
            part = self.tokenizer(question.answer)
            ids += [*heard(question.answer, self.tokenizer, rng), SPECIALS["eos_id"]]
            labels += [*part, SPECIALS["eos_id"]]
            weights += [1.0] * (len(part) + 1)
        return ids, labels, weights

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = self.module(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]
        weights = batch["weights"][:, 1:]
        entropy = F.cross_entropy(
            logits.flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), reduction="none"
        ).view_as(weights)
        answers = weights >= 1
        return {
            "answers": entropy[answers].mean(),
            "prompts": 0.1 * entropy[(weights > 0) & ~answers].mean(),
        }
