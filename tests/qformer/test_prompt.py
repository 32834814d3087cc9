import pytest
import torch
from fakes import TinyLanguage, letters, tiny_assistant

from qformer.contracts import QuestionError
from qformer.prompt import (
    PICTURE,
    UNION,
    PromptConfig,
    SoftTokens,
    StartIds,
    assemble,
    count_tokens,
    declarations,
    instruction,
    lay_out,
    sources,
)

WORDED = PromptConfig(
    start="hello. ",
    picture="picture: {tokens}",
    region=" {name}: {tokens}",
    question=" question: {question} answer:",
    turn="\n",
)


@pytest.mark.parametrize(
    ("composer", "regions", "declared", "expected"),
    [
        ("global+regions", [], [], [PICTURE]),
        ("global+regions", ["a", "b"], [], [PICTURE, "a", "b"]),
        ("global+regions", ["a", "b"], [PICTURE, "a"], ["b"]),
        ("regions", ["a"], [], ["a"]),
        ("regions", [], [], [PICTURE]),
        ("regions", [], ["a"], [PICTURE]),
        ("regions", ["a"], ["a"], []),
        ("text", ["a", "b"], [], [UNION, "a", "b"]),
        ("text", ["a", "b"], ["a"], [UNION, "b"]),
        ("text", [], [], [PICTURE]),
        ("text", ["a"], ["a"], []),
    ],
)
def test_each_composer_declares_what_is_new(composer, regions, declared, expected):
    assert declarations(composer, regions, declared) == expected


def test_a_first_turn_names_its_soft_tokens():
    assert lay_out(WORDED, "same kind?", [PICTURE, "region 1", "region 2"]) == [
        StartIds(),
        "hello. picture: ",
        SoftTokens(PICTURE),
        " region 1: ",
        SoftTokens("region 1"),
        " region 2: ",
        SoftTokens("region 2"),
        " question: same kind? answer:",
    ]


def test_a_later_turn_only_says_what_is_new():
    assert lay_out(WORDED, "why?", [], first=False) == ["\n question: why? answer:"]


def test_published_models_read_the_picture_before_their_start_ids():
    config = PromptConfig(start_ids="after picture")
    expected = [SoftTokens(PICTURE), StartIds(), "Question: why? Answer:"]
    assert lay_out(config, "why?", [PICTURE]) == expected
    assert lay_out(config, "why?", ["a"])[:2] == [StartIds(), "a: "]


def test_the_text_composer_says_regions_in_words():
    pieces = lay_out(WORDED, "why?", [UNION, "a"], captions={"a": "a cat"})
    assert sources(pieces) == [UNION]
    assert pieces[-1] == " a: a cat question: why? answer:"


@pytest.mark.parametrize("words", ["{tokens}", "{name}", "{question}", "{}"])
def test_braces_in_a_name_or_question_stay_words(words):
    pieces = lay_out(WORDED, words, [words])
    assert sources(pieces) == [words]
    assert pieces[-1] == f" question: {words} answer:"


def test_assembling_gives_what_was_counted():
    language = TinyLanguage()
    pieces = lay_out(WORDED, "why?", [PICTURE, "a"])
    soft = {PICTURE: torch.zeros(5, 20), "a": torch.ones(5, 20)}
    inputs_embeds = assemble(language, pieces, soft)
    assert len(inputs_embeds) == count_tokens(language, pieces, 5)
    assert torch.equal(inputs_embeds[0], language.words[2])
    start = 1 + len("hello. picture: ")
    assert torch.equal(inputs_embeds[start : start + 5], soft[PICTURE])


def test_the_instruction_says_where_each_name_stands():
    config = tiny_assistant(instruct=True).bridge.config
    ids, spans = instruction(letters, config, "what?", ["r 1", "r 22"], "same?")
    assert ids == [1, *letters("what?r 1r 22same?")]
    assert [letters("?r 1r 22s")[start - 5 : end - 5] for start, end in spans] == [
        letters("r 1"),
        letters("r 22"),
    ]


def test_a_long_history_is_cut_before_the_question_is():
    config = tiny_assistant(instruct=True).bridge.config
    ids, _ = instruction(letters, config, "x" * 47 + "y", ["r"], "why?")
    assert len(ids) == config.max_instruction
    assert ids == [1, *letters("x" * 41 + "yrwhy?")]
    assert instruction(letters, config, "xyz", [], "w" * 47)[0] == [1, *letters("w" * 47)]


def test_a_question_too_long_for_the_qformer_names_both_numbers():
    config = tiny_assistant(instruct=True).bridge.config
    with pytest.raises(QuestionError, match=r"50 tokens .* reads 48"):
        instruction(letters, config, None, ["r"], "w" * 48)


@pytest.mark.parametrize(
    "wrong",
    [
        {"composer": "all"},
        {"picture": "no place"},
        {"region": "{tokens}"},
        {"question": "why?"},
        {"caption": " "},
    ],
)
def test_prompt_config_checks_itself(wrong):
    with pytest.raises(ValueError, match=r"composer|needs one|empty"):
        PromptConfig(**wrong)
