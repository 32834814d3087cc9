"""A few of the kills of `python tests/train/kills.py --kills 50`."""

import pytest
from kills import SAVE_EVERY, survive


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_loses_nothing_but_what_it_had_not_saved(processes):
    said = []
    hit, lost = survive(1, processes, said.append)
    assert hit == 1
    assert lost <= SAVE_EVERY
