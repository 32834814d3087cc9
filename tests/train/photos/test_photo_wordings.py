"""How people ask about photos."""

import numpy as np
import pytest

from train.photos.wordings import TEST, TRAIN, ask, bare


def test_six_test_wordings_of_each_type_are_never_learned():
    assert set(TEST) == set(TRAIN)
    learned = {bare(wording) for wordings in TRAIN.values() for wording in wordings}
    for kind, wordings in TEST.items():
        assert len({bare(wording) for wording in wordings}) == 6, kind
        assert not {bare(wording) for wording in wordings} & learned, kind


@pytest.mark.parametrize("kind", TRAIN)
def test_there_are_many_wordings_to_learn(kind):
    assert len({bare(wording) for wording in TRAIN[kind]}) >= 14


def test_the_wordings_of_one_fact_differ():
    for seed in range(20):
        asked = ask(np.random.default_rng(seed), "what", 3)
        assert len(set(asked)) == 3


def test_what_is_asked_for_stands_in_every_wording_of_its_type():
    for wordings in (TRAIN, TEST):
        for kind in ("exist", "count", "colour of", "kind", "statement"):
            for wording in wordings[kind]:
                assert "{" in wording, wording


def test_a_region_is_named_only_where_there_is_one():
    for seed in range(200):
        assert "region" not in ask(np.random.default_rng(seed), "what", 1, marked=False)[0].lower()
