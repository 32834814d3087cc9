"""lmms-eval's model "loupe", named to it by the entry point in pyproject.toml.

lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval) calls `manifest` to learn the class, and
builds that only when it is asked for: nothing here is imported without it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from PIL import Image

from adapters.images import load_image
from adapters.memory import DTYPES
from qformer.contracts import Decoding, LoupeError
from qformer.together import Question, answers, likelihoods
from train.eval.models import open_model


def manifest() -> ModelManifest:
    return ModelManifest(model_id="loupe", simple_class_path="train.eval.lmms.LoupeLmms")


class LoupeLmms(lmms):
    """A Loupe assistant under lmms-eval. model, device, dtype, segmenter, preset: as for loupe
    eval."""

    is_simple = True

    def __init__(
        self,
        model: str = "paintings",
        device: str = "cpu",
        dtype: str = "fp32",
        segmenter: str | None = None,
        preset: str | None = None,
        batch_size: int | str = 16,
        **ignored: Any,
    ) -> None:
        """ignored: what lmms-eval hands to every model."""
        super().__init__()
        kind = DTYPES[dtype]
        self.asked = open_model(model, "loupe", segmenter, device, kind, preset)
        if "write" not in self.asked.ways:
            raise LoupeError(f"{model} writes no answers: give one that loupe ask can use")
        self.assistant, self.batch_size = self.asked.assistant, int(batch_size)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> LoupeLmms:
        """What --model_args says comes before lmms-eval's own options, where both say it."""
        from lmms_eval.utils import simple_parse_args_string

        own = {key: one for key, one in (additional_config or {}).items() if one is not None}
        return cls(**{**own, **simple_parse_args_string(arg_string)})

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, batch by batch; one that cannot be given is "" (lmms-eval knows no errors).

        Each is written with its task's max_new_tokens and num_beams, beams not where a preset was
        named, ends before what the task calls `until`, and is never sampled.
        """
        told = [""] * len(requests)
        alike: dict[Decoding, list[int]] = {}
        for index, request in enumerate(requests):
            alike.setdefault(self._decoding(request.args[1] or {}), []).append(index)
        for decoding, indices in alike.items():
            for start in range(0, len(indices), self.batch_size):
                part = indices[start : start + self.batch_size]
                asked = [(index, self._question(requests[index])) for index in part]
                good = [(index, one) for index, one in asked if isinstance(one, Question)]
                found = answers(self.assistant, [one for _, one in good], decoding)
                for (index, _), answer in zip(good, found, strict=True):
                    if isinstance(answer, str):
                        told[index] = ended(answer, (requests[index].args[1] or {}).get("until"))
        return told

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Each continuation's mean negative log-likelihood a token, and whether it is what would be
        written. Negative, as lmms-eval's own models give the loss, and it takes the least."""
        result = []
        for request in requests:
            _, target, *where = request.args
            if callable(target):
                target = target(self._document(where))
            text = str(target).strip()
            question = self._question(request)
            loss, greedy = float("inf"), False
            if isinstance(question, Question):
                (found,) = likelihoods(self.assistant, [replace(question, choices=(text,))])
                (answer,) = answers(self.assistant, [question])
                greedy = answer == text
                if not isinstance(found, LoupeError):
                    loss = -found[0].mean
            result.append((loss, greedy))
        return result

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise LoupeError("loupe answers single questions here: choose a task of one round")

    def _decoding(self, settings: dict[str, Any]) -> Decoding:
        own = self.asked.decoding("vqa")
        most = int(settings.get("max_new_tokens") or own.max_new_tokens)
        beams = own.beams if self.asked.preset else int(settings.get("num_beams") or own.beams)
        least = min(own.min_new_tokens, most)
        return replace(own, max_new_tokens=most, min_new_tokens=least, beams=beams)

    def _question(self, request: Instance) -> Question | LoupeError:
        """What is asked of the first picture, or why that cannot be shown."""
        context, _, *where = request.args
        try:
            return Question(self._image(where), str(context).replace("<image>", "").strip())
        except LoupeError as error:
            return error

    def _image(self, where: list[Any]) -> torch.Tensor:
        """The first picture of a request: doc_to_visual, doc_id, task, split; grey for none."""
        shown = where[0](self._document(where)) if where else None
        first = shown[0] if shown else Image.fromarray(np.full((224, 224, 3), 128, np.uint8))
        return load_image(first)

    def _document(self, where: list[Any]) -> Any:
        _, doc_id, task, split = where
        return self.task_dict[task][split][doc_id]


def ended(answer: str, until: str | list[str] | None) -> str:
    """An answer up to the first of the texts that end it."""
    for stop in [until] if isinstance(until, str) else until or ():
        answer = answer.split(stop, 1)[0] if stop else answer
    return answer.strip()
