import dataclasses

import pytest
import torch

from demo import regions as module
from demo.regions import MAX_REGIONS, Regions, painted
from qformer.contracts import RegionError
from qformer.view import View


@pytest.fixture
def regions(tiny_assistant, image):
    return Regions(tiny_assistant.encode(image))


def area(mark):
    return mark.region.region_mask


def test_a_number_is_never_used_twice(regions):
    assert regions.click(10, 10).number == 1
    assert regions.box(5, 5, 30, 30).number == 2
    regions.delete(2)
    assert regions.click(30, 20).number == 3
    regions.clear()
    assert regions.click(30, 20).number == 4
    regions.undo()
    assert regions.click(30, 20).number == 5


def test_refining_feeds_back_the_logits_and_every_point(regions, monkeypatch):
    mark = regions.click(10, 10)
    asked = []
    segment = View.segment

    def spy(view, points=(), box=None, logits=None):
        asked.append((points, box, logits))
        return segment(view, points, box, logits)

    monkeypatch.setattr(View, "segment", spy)
    refined = regions.click(30, 20, positive=False, number=1)
    ((points, box, fed),) = asked
    assert points == ((10, 10, 1), (30, 20, 0))
    assert box is None
    assert fed is mark.logits
    assert (refined.number, refined.region.name) == (1, "region 1")
    assert refined.region is not mark.region
    assert refined.corrected


def test_a_refinement_that_fails_leaves_the_region(regions):
    mark = regions.click(10, 10)
    with pytest.raises(RegionError, match="outside the picture"):
        regions.click(999, 10, number=1)
    assert regions.marks[1] is mark


def test_a_box_may_be_dragged_from_any_corner(regions):
    assert regions.box(30, 30, 5, 5).box == (5, 5, 30, 30)


def test_the_readings_of_a_click_are_gone_through_in_turn(regions):
    first = regions.click(10, 10)
    assert first.readings == 3
    seen = [regions.cycle(1) for _ in range(first.readings)]
    assert [mark.reading for mark in seen] == [1, 2, 0]
    assert torch.equal(area(seen[-1]), area(first))
    for mark in seen:
        assert torch.equal(area(mark), mark.found.region_masks[mark.reading])
    regions.click(30, 20, number=1)
    with pytest.raises(RegionError, match="one reading"):
        regions.cycle(1)


def test_a_reading_without_a_pixel_is_passed_over(regions):
    mark = regions.click(10, 10)
    areas = list(mark.found.region_masks)
    found = dataclasses.replace(mark.found, region_masks=[areas[0], areas[1] & False, areas[2]])
    regions.marks[1] = dataclasses.replace(mark, found=found)
    assert [regions.cycle(1).reading for _ in range(2)] == [2, 0]


def test_a_stroke_makes_adds_and_erases(regions):
    mark = regions.paint([(10, 10), (30, 10)], 4)
    assert area(mark)[10, 20]
    assert not area(mark)[30, 20]
    more = regions.paint([(20, 30)], 4, number=1)
    assert area(more)[30, 20]
    less = regions.paint([(20, 10)], 4, positive=False, number=1)
    assert not area(less)[10, 20]
    assert area(less)[10, 30]
    with pytest.raises(RegionError, match="delete it instead"):
        regions.paint([(20, 20)], 60, positive=False, number=1)
    with pytest.raises(RegionError, match="nothing to erase"):
        regions.paint([(20, 20)], 5, positive=False)


def test_a_click_on_a_painted_region_adds_what_is_there(regions):
    painted_only = regions.paint([(10, 10)], 3)
    joined = regions.click(40, 30, number=1)
    assert (area(joined) & area(painted_only)).equal(area(painted_only))
    assert joined.region.area > painted_only.region.area


def test_the_smallest_stroke_covers_a_pixel():
    assert painted([(0, 0)], 0, (7, 5))[0, 0]
    assert painted([(0, 0)], 0, (7, 5)).shape == (5, 7)


def test_everything_is_undone_and_redone(regions):
    first = regions.click(10, 10)
    regions.click(30, 20, number=1)
    regions.rename(1, "cup")
    regions.delete(1)
    for label, same in (("cup", False), ("", False), ("", True)):
        regions.undo()
        assert regions.marks[1].label == label
        assert (regions.marks[1] is first) == same
    regions.undo()
    assert regions.marks == {}
    with pytest.raises(RegionError, match="nothing to undo"):
        regions.undo()
    for _ in range(3):
        regions.redo()
    assert regions.marks[1].label == "cup"
    regions.click(50, 30)
    assert not regions.redoable


def test_what_is_grouped_is_undone_at_once(regions):
    with regions.grouped():
        for _ in range(3):
            regions.click(10, 10)
    regions.undo()
    assert regions.marks == {}


def test_undo_is_bounded_by_the_pixels_it_holds(regions, monkeypatch):
    monkeypatch.setattr(module, "HISTORY", 3 * 40 * 60)
    regions.click(10, 10)
    for _ in range(10):
        regions.click(30, 20, number=1)
    undone = 0
    while regions.undoable:
        regions.undo()
        undone += 1
    assert 1 <= undone <= 4


@pytest.mark.parametrize(
    "act",
    [
        lambda r: r.click(60, 10),
        lambda r: r.click(float("nan"), 1),
        lambda r: r.box(5, 5, 5, 30),
        lambda r: r.click(3, 3, positive=False),
        lambda r: r.click(3, 3, number=7),
        lambda r: r.delete(7),
        lambda r: r.choose(7, True),
        lambda r: r.rename(7, "a"),
        lambda r: r.pick(0),
    ],
    ids=[
        "outside",
        "nan",
        "no-area",
        "exclude-from-nothing",
        "refine",
        "delete",
        "choose",
        "rename",
        "pick",
    ],
)
def test_bad_pointing_is_a_region_error_and_changes_nothing(regions, act):
    with pytest.raises(RegionError):
        act(regions)
    assert regions.marks == {}
    assert not regions.undoable


def test_a_picture_holds_a_bounded_number_of_regions(regions):
    for _ in range(MAX_REGIONS):
        regions.paint([(10, 10)], 2)
    for act in (lambda: regions.click(10, 10), lambda: regions.paint([(9, 9)], 2)):
        with pytest.raises(RegionError, match="delete one first"):
            act()


def test_new_regions_are_asked_about_until_a_question_is_put(regions):
    regions.click(10, 10)
    regions.click(30, 20)
    assert regions.asked == [1, 2]
    regions.fresh = True
    regions.click(50, 35)
    assert regions.asked == [3]
    regions.choose(1, True)
    assert regions.asked == [3, 1]
    regions.choose(3, False)
    assert regions.asked == [1]


def test_a_label_is_unique_and_of_bounded_length(regions):
    regions.click(10, 10)
    regions.click(30, 20)
    assert regions.rename(1, "  red   mug ").label == "red mug"
    with pytest.raises(RegionError, match="region 1 is called"):
        regions.rename(2, "Red Mug")
    with pytest.raises(RegionError, match="longer than"):
        regions.rename(2, "x" * 61)
    assert regions.rename(2, "region 1").label == ""
    assert regions.rename(1, "").name == "region 1"


def test_regions_are_named_by_number_or_label(regions):
    regions.click(10, 10)
    regions.click(30, 20)
    regions.rename(2, "mug")
    assert regions.spoken("is the mug left of #1?") == ("is region 2 left of region 1?", [2, 1])
    assert regions.spoken("what is Region 1?")[1] == [1]
    assert regions.spoken("are mugs red?") == ("are mugs red?", [])


def test_another_model_reads_the_same_areas(regions, tiny_assistant, image):
    mark = regions.click(10, 10)
    view = tiny_assistant.encode(image)
    regions.read_by(view)
    assert regions.marks[1].region is mark.region
    assert regions.marks[1].logits is None
    regions.click(40, 30, number=1)
    assert regions.view is view
