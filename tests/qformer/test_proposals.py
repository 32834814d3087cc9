import pytest
import torch
from fakes import picture, tiny_assistant

from qformer import RegionError
from qformer.proposals import Proposal, from_runs, run_lengths


@pytest.mark.parametrize("seed", range(30))
def test_run_lengths_hold_all_of_an_area(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(1, 9, (2,), generator=generator).tolist()
    region_mask = torch.rand(height, width, generator=generator) < seed / 29
    runs = run_lengths(region_mask)
    assert runs.sum() == height * width
    assert (runs[1:] > 0).all()
    assert (from_runs(runs, (height, width)) == region_mask).all()


@pytest.mark.parametrize("corner", [(0, 0), (3, 2), (6, 0), (0, 5)])
def test_a_window_costs_its_columns_and_says_the_same(corner):
    x, y = corner
    window = torch.rand(3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    window[0, 0] = window[-1, -1] = True
    whole = torch.zeros(8, 10, dtype=torch.bool)
    whole[y : y + 3, x : x + 4] = window
    assert run_lengths(window, corner, (8, 10)).tolist() == run_lengths(whole).tolist()
    one = Proposal.within(window, corner, (8, 10), 0.5)
    assert (one.region_mask == whole).all()
    assert one.area == whole.sum()


def test_a_view_finds_everything_and_makes_regions_of_it():
    view = tiny_assistant().encode(picture())
    (found,) = view.everything()
    region = view.region(found.region_mask, score=found.score)
    assert region.box == found.box
    assert len(view.find("bright")) == 1


def test_a_proposal_is_refined_by_further_clicks():
    view = tiny_assistant().encode(picture())
    found = view.segment([(20, 20, 1)])
    again = view.refine(found, 0, [(30, 30, 0)])
    assert again.prompt.points == ((20, 20, 1), (30, 30, 0))
    assert again.prompt.logits is not None
    with pytest.raises(RegionError, match="there is no proposal 3"):
        view.refine(found, 3, [(30, 30, 0)])
    assert view.assistant.segmenter.encoded == 1


def test_without_a_segmenter_nothing_is_found():
    view = tiny_assistant(segmenter=False).encode(picture())
    for ask in (view.everything, lambda: view.find("a cat")):
        with pytest.raises(RegionError, match="there is no segmenter"):
            ask()
