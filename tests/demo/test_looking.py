"""Everything, describing and words: what a Session does with all that a segmenter proposes."""

import dataclasses

import pytest
import torch
from inside import answered, entries, regions

from qformer.contracts import RegionError, StoppedError
from qformer.finding import Found
from qformer.proposals import Proposal
from qformer.view import View


@pytest.fixture
def things(monkeypatch, image):
    """What the segmenter finds: two things, a twin of one, a part, and the background."""

    def area(x0, y0, x1, y1):
        made = torch.zeros(40, 60, dtype=torch.bool)
        made[y0:y1, x0:x1] = True
        return made

    areas = [(0, 0, 20, 20), (30, 5, 50, 30), (30, 5, 50, 29), (0, 0, 10, 10), (0, 0, 60, 39)]
    scores = [0.9, 0.8, 0.7, 0.95, 0.99]

    def everything(view, settings=None, progress=None, cancel=None):
        for step in range(3):
            if cancel():
                raise StoppedError("stopped")
            progress(step + 1, 3)
        return [Proposal.of(area(*box), score) for box, score in zip(areas, scores, strict=True)]

    monkeypatch.setattr(View, "everything", everything)


def test_everything_leaves_candidates_to_pick_from(session, things):
    seen = []
    for _ in session.everything():
        seen.append(session.progress)
    assert ("looking", 3, 3) in seen
    assert session.progress is None
    assert not session.busy
    boxes = [one.box for one in regions(session).candidates]
    assert boxes == [(0, 0, 10, 10), (0, 0, 20, 20), (30, 5, 50, 30)]
    mark = regions(session).pick(2)
    assert mark.region.box == (30, 5, 50, 30)
    assert mark.region.score == 0.8


def test_words_become_the_region_that_fits_them_best(session, things, monkeypatch):
    def fit(view, proposals, words):
        assert words == "the red mug"
        return [Found(one, 1.0 if one.box == (30, 5, 50, 30) else -1.0) for one in proposals]

    monkeypatch.setattr("demo.session.by_likelihood", fit)
    before = session.version
    for _ in range(2):  # the second time the label is taken
        list(session.find("the red mug"))
    marks = list(regions(session).marks.values())
    assert [(mark.name, mark.region.box) for mark in marks] == [
        ("the red mug", (30, 5, 50, 30)), ("region 2", (30, 5, 50, 30)),
    ]  # fmt: skip
    assert session.version > before
    assert not session.busy
    regions(session).undo()
    assert len(regions(session).marks) == 1


def test_words_that_fit_nothing_well_are_not_the_name_of_what_is_nearest(
    session, things, tiny_assistant, monkeypatch
):
    def fit(view, proposals, words):
        return [Found(one, 1.0) for one in proposals]

    config = tiny_assistant.config
    asks = dataclasses.replace(config.suggestions, region=("what is this?",))
    monkeypatch.setattr(tiny_assistant, "config", dataclasses.replace(config, suggestions=asks))

    likely = {"a star": -0.1, "a fish": -1.0, "a mug": -1.2}
    monkeypatch.setattr("demo.session.by_likelihood", fit)
    monkeypatch.setattr(View, "ask", lambda *args: "a star")
    monkeypatch.setattr(View, "log_likelihood", lambda view, asked, regions, said: likely[said])
    list(session.find("the fish"))
    assert (regions(session).marks[1].name, entries(session)) == ("the fish", [])
    list(session.find("the mug"))
    assert regions(session).marks[2].name == "region 2"
    (notice,) = entries(session)
    assert notice.role == "notice"
    assert "Region 2 is nearest: the model calls it 'a star'" in notice.text


def test_words_that_fit_nothing_are_said_to(session, things, monkeypatch):
    def nothing(view, proposals, words):
        return [Found(one, -0.1) for one in proposals]

    monkeypatch.setattr("demo.session.by_likelihood", nothing)
    with pytest.raises(RegionError, match="nothing here looks like 'a unicorn'"):
        list(session.find("a unicorn"))
    assert regions(session).marks == {}
    assert not session.busy


def test_describing_names_each_thing_once_and_is_undone_at_once(session, things):
    before = session.version
    list(session.describe())
    question, answer = entries(session)
    assert (question.text, answer.state) == ("Describe everything", "done")
    assert [number for number, _ in answer.rows] == [1, 2]
    marks = regions(session).marks
    assert [mark.region.box for mark in marks.values()] == [(0, 0, 10, 10), (30, 5, 50, 30)]
    assert answer.rows[0][1] == session.picture().view.caption(marks[1].region)
    assert regions(session).asked == []
    assert session.version > before
    answered(session)  # the table is not among what the model remembers
    assert len(session.picture().talk.conversation().turns) == 1
    regions(session).undo()
    assert regions(session).marks == {}


def test_describing_takes_the_regions_that_are_there_already(session, things):
    regions(session).box(0, 0, 1, 1)
    list(session.describe())
    regions(session).delete(1)
    list(session.describe())
    assert [number for number, _ in entries(session)[-1].rows] == [2, 3]
    assert list(regions(session).marks) == [2, 3]


def test_describing_can_be_cancelled_while_it_looks_and_while_it_writes(session, things):
    for steps in (1, 6):
        task = session.describe()
        for _ in range(steps):
            next(task)
        session.stop()
        list(task)
        assert entries(session)[-1].state == "stopped"
        assert len(entries(session)[-1].rows) == (steps > 1)
        assert not session.busy


def test_finding_nothing_is_said(session, monkeypatch):
    monkeypatch.setattr(View, "everything", lambda *args, **kwargs: [])
    with pytest.raises(RegionError, match="found nothing"):
        list(session.everything())
    list(session.describe())
    assert entries(session)[-1].state == "failed"
    assert not session.busy
