"""The grounding score, on real classes with random weights."""

import pytest
import torch

from adapters.build import build
from qformer.contracts import RegionError
from qformer.prompt import assemble


@pytest.fixture
def view(tiny_folder):
    generator = torch.Generator().manual_seed(0)
    return build(tiny_folder("loupe")).encode(
        torch.randint(0, 256, (40, 60, 3), generator=generator).byte()
    )


def test_grounding_is_what_the_regions_add_to_the_answers_likelihood(view):
    mask = torch.zeros(40, 60, dtype=torch.bool)
    mask[4:30, 5:40] = True
    region = view.region(mask)
    language, answer = view.assistant.language, "a yellow cat"
    mean = {}
    for name, asked in (("with", [region]), ("without", [])):
        plan = view.converse().plan("what is this?", asked)
        words = assemble(language, plan.pieces, view.soft_tokens(plan.sources, plan.instruction))
        ids = [*language.tokenizer(answer), language.eos_id]
        total = 0.0
        for n, token in enumerate(ids):  # one token at a time: no shared code with `loss`
            read = torch.cat([words, language.embed(torch.tensor(ids[:n], dtype=torch.long))])
            logits = language.model(inputs_embeds=read[None]).logits[0, -1]
            total += logits.log_softmax(-1)[token].item()
        mean[name] = total / len(ids)
    score = view.grounding("what is this?", [region], answer)
    assert score == pytest.approx(mean["with"] - mean["without"], abs=1e-4)
    assert abs(score) > 1e-3


def test_grounding_needs_a_region(view):
    with pytest.raises(RegionError, match="no region"):
        view.grounding("what is this?", [], "a cat")
