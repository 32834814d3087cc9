"""How language models write: parity with transformers' generate, and the cached prefix."""

import itertools

import pytest
import torch

from adapters.registry import LANGUAGE_MODELS
from qformer.contracts import Decoding

WAYS = {
    "greedy": {},
    "greedy, no repeats, at least 5": {"repetition_penalty": 1.3, "min_new_tokens": 5},
    "beams": {"beams": 3},
    "VQA": {"beams": 5, "length_penalty": -1.0, "max_new_tokens": 8, "min_new_tokens": 1},
    "InstructBLIP": {"beams": 5, "repetition_penalty": 1.5},
    "caption": {"beams": 5, "min_new_tokens": 6},
    "long": {"beams": 4, "length_penalty": 2.0},
}


@pytest.fixture(scope="module", params=["llama", "opt", "gemma", "t5"])
def language(request, tiny_folder):
    kind = "encoder-decoder" if request.param == "t5" else "decoder"
    return LANGUAGE_MODELS[kind](tiny_folder(request.param))


@pytest.fixture(scope="module")
def decoder(tiny_folder):
    return LANGUAGE_MODELS["decoder"](tiny_folder("llama"))


def embeds(language, n, seed=0):
    return torch.randn(n, language.width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:Passing `repetition_penalty`")
@pytest.mark.parametrize("way", WAYS)
def test_answers_equal_those_of_transformers(language, way):
    for seed, often in itertools.product(range(3), (False, True)):
        inputs_embeds = embeds(language, 6, seed)
        decoding = Decoding(**{"max_new_tokens": 10, **WAYS[way]})
        # An id that the model writes of itself stands in for an end that comes early.
        stop = list(language.generate(inputs_embeds, decoding))[-1] if often else None
        theirs = language.model.generate(
            inputs_embeds=read_by_theirs(language, inputs_embeds)[None],
            max_new_tokens=decoding.max_new_tokens,
            min_new_tokens=decoding.min_new_tokens,
            num_beams=decoding.beams,
            do_sample=False,
            length_penalty=decoding.length_penalty,
            repetition_penalty=decoding.repetition_penalty,
            eos_token_id=[*language.stop_ids, *([stop] if stop is not None else [])],
        )[0].tolist()
        if not language.keeps_prefix:
            theirs = theirs[1:]  # the id that starts the decoder
        ours = list(language.generate(inputs_embeds, decoding, answer_stop=stop))
        rest = theirs[len(ours) :]
        assert theirs[: len(ours)] == ours
        assert not rest or rest[0] in {*language.stop_ids, stop}


def read_by_theirs(language, inputs_embeds):
    """T5 reads its text up to a closing </s>."""
    if language.keeps_prefix:
        return inputs_embeds
    return torch.cat([inputs_embeds, language.embed(torch.tensor([language.eos_id]))])


@pytest.mark.parametrize("beams", [1, 3])
def test_a_second_turn_from_the_prefix_equals_one_long_prompt(decoder, beams):
    decoding = Decoding(max_new_tokens=7, beams=beams)
    first, second = embeds(decoder, 6), embeds(decoder, 4, seed=1)
    prefix = decoder.new_prefix()
    ids = list(decoder.generate(first, decoding, prefix))
    assert len(prefix) == 6 + len(ids) + (len(ids) < 7)  # with the EOS, where there was one
    answer = list(decoder.generate(second, decoding, prefix))

    spoken = ids + [decoder.eos_id] * (len(ids) < 7)
    whole = torch.cat([first, decoder.embed(torch.tensor(spoken)), second])
    assert list(decoder.generate(whole, decoding)) == answer


def test_an_end_that_is_written_is_kept_in_the_prefix(decoder):
    decoding = Decoding(max_new_tokens=5)
    first, second = embeds(decoder, 6), embeds(decoder, 4, seed=1)
    stop = list(decoder.generate(first, decoding))[2]
    prefix = decoder.new_prefix()
    ids = list(decoder.generate(first, decoding, prefix, answer_stop=stop))
    assert len(prefix) == 6 + len(ids) + 1
    answer = list(decoder.generate(second, decoding, prefix))
    whole = torch.cat([first, decoder.embed(torch.tensor([*ids, stop])), second])
    assert list(decoder.generate(whole, decoding)) == answer


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stopped_or_failed_answer_leaves_the_prefix_as_it_was(decoder, beams):
    decoding = Decoding(max_new_tokens=6, beams=beams)
    prefix = decoder.new_prefix()
    list(decoder.generate(embeds(decoder, 5), decoding, prefix))
    length = len(prefix)
    follow_up = embeds(decoder, 3, seed=1)

    writing = decoder.generate(follow_up, decoding, prefix)
    next(writing)
    writing.close()
    assert len(prefix) == length

    with pytest.raises(RuntimeError):
        list(decoder.generate(torch.zeros(3, decoder.width + 1), decoding, prefix))
    assert len(prefix) == length

    answer = list(decoder.generate(follow_up, decoding, prefix))
    fresh = decoder.new_prefix()
    list(decoder.generate(embeds(decoder, 5), decoding, fresh))
    assert answer == list(decoder.generate(follow_up, decoding, fresh))


def test_greedy_ids_come_one_by_one(decoder, monkeypatch):
    read = []
    original = type(decoder)._read
    monkeypatch.setattr(
        type(decoder), "_read", lambda self, x, cache: read.append(x) or original(self, x, cache)
    )
    writing = decoder.generate(embeds(decoder, 5), Decoding(max_new_tokens=6))
    next(writing)
    assert len(read) == 1
    next(writing)
    assert len(read) == 2


def test_answers_end_where_the_context_does(decoder):
    long = embeds(decoder, decoder.context - 3)
    assert len(list(decoder.generate(long, Decoding(max_new_tokens=32)))) <= 3


def test_an_encoder_decoder_keeps_no_prefix(tiny_folder):
    assert LANGUAGE_MODELS["encoder-decoder"](tiny_folder("t5")).new_prefix() is None


def test_opt_opens_with_its_end_token_and_ends_with_its_own(tiny_folder):
    opt = LANGUAGE_MODELS["decoder"](tiny_folder("opt"))
    assert opt.start_ids().tolist() == [2]
    assert opt.eos_id == 5


def test_the_head_is_given_states_with_memory_of_their_own(decoder):
    """A cut of a longer tensor makes torch copy the whole table of words."""
    seen = []
    head = decoder.model.get_output_embeddings()
    watch = head.register_forward_pre_hook(lambda _, states: seen.append(states[0]))
    list(decoder.generate(embeds(decoder, 6), Decoding(max_new_tokens=3)))
    prompts = [embeds(decoder, 6), embeds(decoder, 4)]
    decoder.generate_together(prompts, Decoding(max_new_tokens=2))
    watch.remove()
    assert [tuple(states.shape[:2]) for states in seen] == [(1, 1)] * 3 + [(2, 1)] * 2
    assert all(states.stride() == torch.empty(states.shape).stride() for states in seen)
