import math

import pytest
import torch
from fakes import Scripted, TinyLanguage, picture, tiny_assistant

from qformer.cache import CACHED_REGIONS
from qformer.contracts import (
    CheckpointError,
    Decoding,
    ImageError,
    LoupeError,
    QuestionError,
    RegionError,
)
from qformer.prompt import PICTURE, UNION
from qformer.regions import Region

KINDS = [
    {"composer": "regions"},
    {"composer": "global+regions"},
    {"composer": "text"},
    {"composer": "global+regions", "instruct": True, "trainable": True},
    {"composer": "text", "instruct": True},
]
KIND_NAMES = ["regions", "global+regions", "text", "instruct", "instruct text"]


@pytest.fixture(params=KINDS, ids=KIND_NAMES)
def kind(request):
    return request.param


def a_view(**kind):
    return tiny_assistant(**kind).encode(picture())


def several_turns(view, drop=lambda conversation: None):
    """A conversation with old, new, carried and no regions; returns the answers."""
    one, two = view.click(20, 20), view.box(40, 4, 70, 40)
    conversation = view.converse()
    for question, regions in [
        ("what is this?", [one]),
        ("and its colour?", None),
        ("which is bigger?", [one, two]),
        ("how many are there?", ()),
        ("why?", None),
    ]:
        drop(conversation)
        list(conversation.ask(question, regions))
    return [turn.answer for turn in conversation.turns]


def scripted(text):
    """A view whose language model always writes these pieces."""

    class Writes(Scripted):
        pieces = text

    return a_view(language=Writes)


# The picture


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(4, 4, 3),
        torch.zeros(4, 4, dtype=torch.uint8),
        torch.zeros(3, 4, 4, dtype=torch.uint8),
    ],
)
def test_an_image_that_is_not_rgb_bytes_is_refused(image):
    with pytest.raises(ImageError, match="RGB as a"):
        tiny_assistant().encode(image)


def test_a_picture_is_encoded_once_and_segmented_once():
    view = a_view()
    vision, segmenter = view.assistant.vision, view.assistant.segmenter
    assert vision.encoded == 1
    region = view.box(0, 0, 80, 40)
    view.click(5, 5)
    view.ask("what?", [region])
    view.ask("why?")
    assert vision.encoded == 1
    assert segmenter.encoded == 1


def test_parts_that_do_not_fit_are_refused():
    class Narrow(TinyLanguage):
        width = 19

    with pytest.raises(CheckpointError, match=r"20 wide.*19"):
        tiny_assistant(language=Narrow)


# Regions


def test_regions_are_numbered_and_a_number_is_never_given_twice():
    view = a_view()
    assert [view.click(9, 9).name, view.box(1, 1, 9, 9).name] == ["region 1", "region 2"]
    full = torch.ones(48, 80, dtype=torch.bool)
    assert view.region(full, name="region 3").name == "region 3"
    assert view.region(full, name="the cup", score=0.5).score == 0.5
    assert view.region(full).name == "region 4"


@pytest.mark.parametrize(("x", "y"), [(80, 5), (-1, 5), (5, 48), (math.nan, 5)])
def test_a_click_outside_names_itself_and_the_size(x, y):
    with pytest.raises(RegionError, match=rf"\({x:g}, {y:g}\).*80 x 48"):
        a_view().click(x, y)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (9, 5, 5, 9), (1, 1, 5, math.nan)])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(RegionError, match="no area"):
        a_view().box(*box)


@pytest.mark.parametrize("box", [(-1, 5, 5, 9), (1, 1, 81, 9), (1, 1, 9, 49)])
def test_a_box_that_leaves_the_picture_is_refused(box):
    with pytest.raises(RegionError, match=r"leaves the picture.*80 x 48"):
        a_view().box(*box)


def test_pointing_at_nothing_is_refused():
    view = a_view()
    with pytest.raises(RegionError, match="nothing is pointed at"):
        view.segment(points=[(3, 3, 0)])
    with pytest.raises(RegionError, match="label"):
        view.segment(points=[(3, 3, 2)])


def test_a_click_that_segments_nothing_says_what_to_do():
    image = picture()
    image[:24] = 0
    with pytest.raises(RegionError, match="click again, or ask without a region"):
        tiny_assistant().encode(image).click(10, 10)


def test_a_region_of_another_size_names_both():
    view = a_view()
    other = torch.ones(48, 81, dtype=torch.bool)
    with pytest.raises(RegionError, match=r"81 x 48.*80 x 48"):
        view.region(other)
    with pytest.raises(RegionError, match=r"region 1 is 81 x 48.*80 x 48"):
        view.ask("what?", [Region(other, "region 1")])


def test_names_must_tell_regions_apart():
    view = a_view()
    full = torch.ones(48, 80, dtype=torch.bool)
    for name in (" ", PICTURE, UNION):
        with pytest.raises(RegionError, match="choose another name"):
            view.region(full, name)
    with pytest.raises(RegionError, match="two regions are called 'cup'"):
        view.ask("what?", [view.region(full, "cup"), view.region(full, "cup")])


def test_without_a_segmenter_region_masks_still_work():
    view = tiny_assistant(segmenter=False).encode(picture())
    with pytest.raises(RegionError, match="no segmenter"):
        view.click(3, 3)
    assert view.ask("what?", [view.region(torch.ones(48, 80, dtype=torch.bool))])


def test_small_regions_read_a_focal_crop_and_large_ones_do_not():
    view = a_view()
    small, large = view.box(30, 20, 36, 24), view.box(2, 2, 70, 46)
    view.ask("what?", [large])
    assert view.assistant.vision.encoded == 1
    view.ask("what?", [small, large])
    assert view.assistant.vision.encoded == 2
    view.ask("and why?", [small])
    assert view.assistant.vision.encoded == 2


def test_regions_asked_together_have_the_tokens_of_single_ones(kind):
    view = a_view(**kind)
    regions = {
        name: view.box(*box, name)
        for name, box in {"a": (3, 3, 7, 9), "b": (20, 5, 60, 40), "c": (70, 40, 74, 44)}.items()
    }
    instruction = view.instruction("which?", list(regions.values()), None)
    together = view.soft_tokens({PICTURE: None, **regions}, instruction)
    for name, source in {PICTURE: None, **regions}.items():
        view.drop_caches()
        single = view.soft_tokens({name: source}, instruction)[name]
        torch.testing.assert_close(together[name], single, atol=1e-5, rtol=0)


def test_caches_are_bounded():
    view = a_view()
    regions = {f"r{i}": view.box(i, 2, i + 4, 8, f"r{i}") for i in range(CACHED_REGIONS + 9)}
    assert len(view.soft_tokens(regions)) == CACHED_REGIONS + 9
    for cache in (view._tokens, view._crops, view._coverage):
        assert len(cache) == CACHED_REGIONS


# Answers


def test_answers_depend_on_picture_region_and_question(kind):
    assistant = tiny_assistant(**kind)
    view, other = assistant.encode(picture()), assistant.encode(picture(seed=5))
    boxes = [(2, 2, 40, 40), (42, 4, 78, 44)]
    answers = [view.ask("what is it?", [view.box(*box)]) for box in boxes]
    answers += [view.ask("what is it?"), other.ask("what is it?"), view.ask("how many?")]
    assert len(set(answers)) == len(answers)


def test_answers_are_the_same_with_all_caches_dropped(kind):
    kept = several_turns(a_view(**kind))

    def drop(conversation):
        conversation.drop_caches()
        conversation.view.drop_caches()

    assert several_turns(a_view(**kind), drop) == kept
    assert len(set(kept)) > 2


def test_answers_of_real_parts_are_the_same_with_all_caches_dropped(request):
    def drop(conversation):
        conversation.drop_caches()
        conversation.view.drop_caches()

    assistant = request.getfixturevalue("tiny_assistant")  # Hugging Face folders, instruct
    view, again = assistant.encode(picture()), assistant.encode(picture())
    assert several_turns(again, drop) == several_turns(view)


def test_a_model_that_keeps_no_prefix_reads_its_words_again(kind):
    class Rereads(TinyLanguage):
        def __init__(self):
            super().__init__(keeps_prefix=False)

    kept = several_turns(a_view(**kind))
    view = a_view(**kind, language=Rereads)
    again = several_turns(view)
    assert again[0] == kept[0]
    assert again[1] != view.ask("and its colour?", [view.click(20, 20)])


def test_the_prefix_spares_reading_the_past_again():
    view = a_view()
    conversation = view.converse()
    list(conversation.ask("what is to be seen here?"))
    view.assistant.language.read = 0
    list(conversation.ask("why?"))
    assert view.assistant.language.read <= len("Question: why? Answer:") + 7


def test_a_region_is_declared_once_unless_the_bridge_is_instruct():
    for instruct in (False, True):
        view = a_view(instruct=instruct)
        one, two = view.click(20, 20), view.click(50, 30)
        conversation = view.converse()
        list(conversation.ask("what?", [one]))
        plan = conversation.plan("which?", [one, two])
        assert list(plan.sources) == ([PICTURE, one.name, two.name] if instruct else [two.name])


def test_a_refined_region_is_declared_again_under_its_name():
    view = a_view()
    conversation = view.converse()
    list(conversation.ask("what?", [view.click(20, 20, "cup")]))
    assert list(conversation.plan("what?", [view.click(22, 20, "cup")]).sources) == ["cup"]


def test_a_follow_up_keeps_the_regions_unless_it_says_otherwise():
    view = a_view(instruct=True)
    one, two = view.click(20, 20), view.click(50, 30)
    conversation = view.converse()
    list(conversation.ask("what?", [one]))
    list(conversation.ask("which?", [two]))
    assert conversation.plan("and its colour?").regions == (two,)
    assert conversation.plan("how many are there?", ()).regions == ()
    assert conversation.plan("is Region 1 bigger?").regions == (one,)
    list(conversation.ask("how many are there?", ()))
    assert conversation.plan("and its colour?").regions == (two,)


def test_the_instruction_holds_the_previous_question():
    view = a_view(instruct=True)
    conversation = view.converse()
    list(conversation.ask("what?"))
    followed = conversation.plan("why?").instruction
    assert len(followed.input_ids) == len("Cwhat?why?")
    alone = view.converse().plan("why?", previous="what?").instruction
    assert torch.equal(followed.input_ids, alone.input_ids)


def test_the_text_composer_captions_each_region_and_shows_their_union():
    view = a_view(composer="text")
    one, two = view.click(20, 20), view.click(50, 30)
    plan = view.converse().plan("which?", [one, two])
    assert list(plan.sources) == [UNION]
    assert torch.equal(plan.sources[UNION].region_mask, one.region_mask | two.region_mask)
    assert f"region 1: {view.caption(one)}region 2: {view.caption(two)}" in plan.pieces[-1]


# Streaming


@pytest.mark.parametrize(
    "pieces",
    [
        [b" a", b" red", b" star", b" "],
        ["é".encode()[:1], "é".encode()[1:], b"t", b"\xc3\xa9"],
        [b"\n", b" ", b"x"],
        [b" "],
        [b"half \xc3"],
    ],
)
def test_streamed_pieces_join_to_exactly_the_answer(pieces):
    conversation = scripted(pieces).converse()
    streamed = list(conversation.ask("what?"))
    assert "".join(streamed) == b"".join(pieces).decode(errors="replace").strip()
    assert all(streamed)
    assert conversation.turns[0].answer == "".join(streamed)


def test_pieces_come_while_the_answer_is_written():
    view = a_view()
    answer = view.converse().ask("what?", decoding=Decoding(max_new_tokens=50, min_new_tokens=0))
    view.assistant.language.read = 0
    next(answer)
    first = view.assistant.language.read
    list(answer)
    assert view.assistant.language.read > first + 2


@pytest.mark.parametrize("turns_before", [0, 1])
@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_a_broken_turn_leaves_the_conversation_as_it_was(kind, how, turns_before):
    def answers(breaks):
        view = a_view(**kind)
        one, two = view.click(20, 20), view.box(40, 4, 70, 40)
        conversation = view.converse()
        for _ in range(turns_before):
            list(conversation.ask("what?", [one]))
        if breaks and how == "stopped":
            broken = conversation.ask("which?", [one, two])
            next(broken)
            broken.close()
        elif breaks:
            view.caption(one), view.caption(two)
            view.assistant.language.fail_after = 2
            with pytest.raises(RuntimeError, match="out of memory"):
                list(conversation.ask("which?", [one, two]))
            view.assistant.language.fail_after = None
        assert len(conversation.turns) == turns_before
        list(conversation.ask("which?", [two]))
        list(conversation.ask("why?"))
        return [turn.answer for turn in conversation.turns]

    assert answers(breaks=True) == answers(breaks=False)


def test_an_answer_dropped_at_its_last_piece_is_not_remembered():
    conversation = scripted([b"a", b"\xc3"]).converse()
    for turns in (0, 1):
        answer = conversation.ask("what?")
        assert [next(answer), next(answer)] == ["a", "\ufffd"]  # all is written, not yet heard
        answer.close()
        assert len(conversation.turns) == turns
        list(conversation.ask("what?"))
    assert [turn.remembers for turn in conversation.turns] == [0, 1]


def test_one_answer_at_a_time():
    view = a_view()
    conversation = view.converse()
    first = conversation.ask("what?")
    next(first)
    with pytest.raises(LoupeError, match="still answering"):
        next(conversation.ask("why?"))
    list(first)
    assert list(conversation.ask("why?"))


# Limits


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(question):
    with pytest.raises(QuestionError, match="empty"):
        a_view().converse().ask(question)


def test_a_question_longer_than_the_context_names_both_numbers():
    # 1 start id, 5 soft tokens, "Question: ... Answer:"
    with pytest.raises(QuestionError, match=r"takes 424 tokens.*reads 400"):
        a_view().converse().ask("w" * 400)


def test_a_full_context_forgets_the_oldest_turns_and_goes_on(kind):
    view = a_view(**kind)
    region = view.click(20, 20)
    conversation = view.converse()
    for index in range(25):
        list(conversation.ask(f"what is thing {index}?", [region]))
    remembers = [turn.remembers for turn in conversation.turns]
    assert remembers[:3] == [0, 1, 2]
    assert remembers.count(0) > 1
    # whoever starts anew reads the turn as a first one
    again = remembers.index(0, 1)
    if not view.assistant.bridge.config.instruct:
        expected = view.ask(f"what is thing {again}?", [region])
        assert conversation.turns[again].answer == expected


# Evidence


def test_evidence_of_a_region_lies_inside_it(kind):
    view = a_view(**kind)
    region = view.box(40, 8, 80, 40)
    maps = view.evidence("what is this?", [region])
    area = maps[UNION if kind["composer"] == "text" else region.name]
    assert area.shape == (6, 8)
    torch.testing.assert_close(area.sum(), torch.tensor(1.0))
    torch.testing.assert_close(area[1:5, 4:].sum(), torch.tensor(1.0))
    if kind["composer"] == "global+regions":
        assert 0 < maps[PICTURE].sum() < 1


def test_evidence_from_a_focal_crop_lies_where_the_crop_was_cut():
    view = a_view()
    area = view.evidence("what?", [view.box(33, 17, 38, 23, "dot")])["dot"]  # inside patch (2, 3)
    torch.testing.assert_close(area.sum(), torch.tensor(1.0))
    assert area[2, 3] > 0.6
    assert area[1:4, 2:5].sum() > 0.999
