"""A stream is shuffled block by block, and what stands at a place follows from the seed alone."""

import numpy as np
import pytest

from qformer.contracts import LoupeError
from train.data import draw
from train.data.draw import Streamed
from train.data.pictures import MemoryPicture
from train.data.sample import Sample


def stream(count: int, seed: int = 0) -> Streamed:
    """Samples "0", "1", ... of a picture each."""
    return Streamed(
        lambda: (Sample(str(n), MemoryPicture(str(n), b""), ()) for n in range(count)), seed
    )


def names(streamed: Streamed, places) -> list[str]:
    return [streamed.at(place)[1][0].id for place in places]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(draw, "BLOCK", 4)


def test_a_stream_shows_each_picture_once_before_any_comes_again():
    seen = names(stream(10), range(20))
    assert sorted(seen[:10]) == sorted(seen[10:]) == [str(n) for n in range(10)]
    assert seen[:10] != [str(n) for n in range(10)]
    assert seen[:10] != seen[10:]


def test_a_resumed_run_reads_a_stream_on_from_where_it_stood():
    seen = names(stream(10), range(25))
    assert names(stream(10), range(17, 25)) == seen[17:]
    assert names(stream(10, seed=1), range(25)) != seen


def test_a_stream_that_is_asked_for_an_earlier_place_begins_again():
    streamed = stream(10)
    late = names(streamed, range(8, 12))
    early = names(streamed, range(4))
    assert early == names(stream(10), range(4))
    assert names(streamed, range(8, 12)) == late


def test_another_in_place_of_a_bad_one_is_of_the_block_in_memory():
    streamed = stream(10)
    block = {streamed.at(place)[1][0].id for place in range(4)}
    rng = np.random.default_rng(0)
    assert {streamed.other(rng)[1][0].id for _ in range(40)} == block


def test_a_stream_without_a_good_sample_says_what_to_do():
    with pytest.raises(LoupeError, match="loupe data check"):
        stream(0).at(0)
