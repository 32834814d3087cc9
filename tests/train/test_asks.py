"""What a sample becomes is what a Conversation reads."""

import pytest
import torch

from adapters.build import build
from qformer.contracts import LoupeError
from train.asks import (
    CloseUps,
    Visit,
    Wording,
    collate,
    lead,
    place_area,
    prompt_of,
    region_names,
)
from train.data.readers import read
from train.data.sample import Area, Sample, Turn
from train.data.source import DataConfig
from train.features import Augment, CacheConfig, Seen, Sight


class Plain:
    key = "p"

    def __init__(self, image=None):
        self.image = image

    def load(self):
        return self.image


AREAS = (Area(box=(0, 0, 12, 12)), Area(box=(20, 10, 39, 29)))
DIALOGUE = Sample(
    "1",
    Plain(),
    (
        Turn("which is bigger, region 2 or region 1?", ("region 1",), (1, 0)),
        Turn("and its colour?", ("blue",), (0,)),
    ),
    AREAS,
    dialogue=True,
)


def assistant_of(tiny_folder, instruct):
    import tiny

    if instruct:
        return build(tiny_folder("loupe"))
    import tempfile
    from pathlib import Path

    return build(tiny.loupe(Path(tempfile.mkdtemp()), instruct=False))


def wording(assistant):
    return Wording(
        assistant.config.prompt, assistant.bridge.config, assistant.language, assistant.tokenizer
    )


@pytest.mark.parametrize("instruct", [True, False])
@pytest.mark.parametrize("turn", [0, 1])
@torch.no_grad()
def test_training_reads_what_a_conversation_reads(tiny_folder, image, instruct, turn, monkeypatch):
    """The same embeddings, to the last bit but rounding: soft tokens of every source, words, what
    was answered before."""
    from train.stages import rows_to

    assistant = assistant_of(tiny_folder, instruct)
    ask = wording(assistant).ask(DIALOGUE, turn)
    size = (image.shape[0], image.shape[1])
    sight = Sight(assistant.vision, CacheConfig(), Augment(), trained=False)
    config, picture = assistant.bridge.config.region, Plain(image)
    visit_areas = {
        (DIALOGUE.id, n): place_area(area, picture, Seen(None, size), sight, config)
        for n, area in enumerate(AREAS)
    }
    assert any(area.crop is not None for area in visit_areas.values())

    rows, columns = assistant.vision.grid
    asked = collate([Visit([ask], visit_areas)], rows * columns, 0)
    view = assistant.encode(image)
    close_ups = CloseUps(area for group in asked.groups for _, area in group.close_ups)
    crops = assistant.bridge.remember(sight.stack(close_ups.crops))
    soft = []
    for group in asked.groups:
        memory = assistant.bridge.remember(view.image_embeds[group.pictures])
        rows_read = rows_to(group.rows, torch.device("cpu"))
        rows_read.focal = close_ups.focal(group.close_ups, crops)
        queried = assistant.bridge.query(memory, rows_read)
        soft.append(assistant.bridge.project(queried).unbind())
    ours = prompt_of(assistant.language, *asked.asks[0], soft)

    heard = []
    told = iter([torch.tensor(said.answer[:-1]).tolist() for said in ask])

    def generate(reads, decoding, prefix=None, answer_stop=None):
        heard.append(reads)
        yield from next(told)

    monkeypatch.setattr(
        type(assistant.language), "generate", lambda self, *a, **k: generate(*a, **k)
    )
    regions = [
        view.region(area.region_mask(size), f"region {n}") for n, area in enumerate(AREAS, 1)
    ]
    conversation = view.converse()
    for one in DIALOGUE.turns[: turn + 1]:
        list(conversation.ask(one.question, [regions[a] for a in one.areas]))
    theirs = heard[-1] if len(heard) == 1 else torch.cat([*conversation._heard[:-2], heard[-1]])
    if turn == 1:  # the model ends its answer itself; here it was cut short of that
        end = assistant.language.embed(torch.tensor([assistant.language.eos_id]))
        first = len(conversation._heard[0]) + len(conversation._heard[1])
        whole = torch.cat([*conversation._heard[:2], end])
        theirs = torch.cat([whole, theirs[first:] if len(theirs) > first else theirs])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_rows_are_shared_unless_the_question_enters_the_qformer(tiny_folder, image):
    samples = [Sample(str(n), Plain(), (Turn(f"what {n}?", ("x",)),)) for n in range(3)]
    counts = {}
    for instruct in (True, False):
        words = wording(assistant_of(tiny_folder, instruct))
        asked = collate([Visit([words.ask(s, 0) for s in samples])], 16, 0)
        counts[instruct] = len(asked.groups[0].rows)
    assert counts == {True: 3, False: 1}


def test_regions_are_called_by_the_number_their_words_use():
    assert region_names([Turn("what is region 3?", ("x",), (2,))]) == {2: "region 3"}
    assert region_names([Turn("", ("a cat",), (37,))]) == {37: "region 1"}
    assert region_names([Turn("compare", ("x",), (5, 2))]) == {5: "region 1", 2: "region 2"}


def test_a_byte_level_tokenizer_has_a_space_before_the_answer(tiny_assistant):
    assert lead(tiny_assistant.language) == ""

    class ByteLevel:
        def tokenize(self, text):
            return torch.tensor([ord(letter) for letter in text])

    assert lead(ByteLevel()) == " "


def test_what_is_too_long_loses_its_beginning_or_is_refused(tiny_assistant, monkeypatch):
    words = wording(tiny_assistant)
    assert len(words.ask(DIALOGUE, 1)) == 2
    monkeypatch.setattr(tiny_assistant.language, "context", 60)
    assert len(words.ask(DIALOGUE, 1)) == 1
    monkeypatch.setattr(tiny_assistant.language, "context", 5)
    with pytest.raises(LoupeError, match="longer than the language model reads"):
        words.ask(DIALOGUE, 1)


def test_the_readers_and_the_wording_go_together(tiny_assistant, little_data):
    words = wording(tiny_assistant)
    for sample in read(DataConfig("folder", str(little_data))):
        for number in range(len(sample.turns)):
            assert words.ask(sample, number)[-1].answer[-1] == tiny_assistant.language.eos_id
