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
        model: str = "embedded",
        device: str = "cpu",
        dtype: str = "fp32",
        segmenter: str | None = None,
        preset: str | None = None,
        batch_size: int | str = 16,
        **ignored: Any,
    ) -> None:
        """ignored: what lmms-eval hands to every model."""
        super().__init__()
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        self.asked = open_model(model, "loupe", segmenter, device, kind, preset)
        if "write" not in self.asked.ways:
            raise LoupeError(f"{model} writes no answers: give one that loupe ask can use")
        self.assistant, self.batch_size = self.asked.assistant, int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers, batch by batch; one that cannot be given is "" (lmms-eval knows no errors)."""
        told: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            part = requests[start : start + self.batch_size]
            decoding = self._decoding([request.args[1] for request in part])
            questions = [self._question(request) for request in part]
            found = answers(self.assistant, questions, decoding)
            told += ["" if isinstance(one, LoupeError) else one for one in found]
        return told

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether it is what would be written."""
        result = []
        for request in requests:
            context, target, *where = request.args
            if callable(target):
                target = target(self._document(where))
            text = str(target).strip()
            question = Question(self._image(where), str(context).strip(), choices=(text,))
            (found,) = likelihoods(self.assistant, [question])
            (written,) = answers(self.assistant, [question])
            total = -float("inf") if isinstance(found, LoupeError) else found[0].total
            result.append((total, written == text))
        return result

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise LoupeError("loupe answers single questions here: choose a task of one round")

    def _decoding(self, settings: list[dict[str, Any]]) -> Decoding:
        """The task's own length and beams, else the model's."""
        own, first = self.asked.decoding("vqa"), settings[0] or {}
        most = int(first.get("max_new_tokens") or own.max_new_tokens)
        return replace(own, max_new_tokens=most, min_new_tokens=min(own.min_new_tokens, most))

    def _question(self, request: Instance) -> Question:
        context, _, *where = request.args
        return Question(self._image(where), str(context).strip())

    def _image(self, where: list[Any]) -> torch.Tensor:
        """The first picture of a request: doc_to_visual, doc_id, task, split."""
        shown = where[0](self._document(where))
        first = shown[0] if shown else Image.fromarray(np.full((224, 224, 3), 128, np.uint8))
        return load_image(first)

    def _document(self, where: list[Any]) -> Any:
        _, doc_id, task, split = where
        return self.task_dict[task][split][doc_id]
