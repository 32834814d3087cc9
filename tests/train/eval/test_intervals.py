"""Intervals cover, and paired tests find, what they should."""

import numpy as np
import pytest

from train.eval.stats import Measure, compare


def test_a_mean_has_the_interval_that_theory_gives():
    rng = np.random.default_rng(0)
    measure = Measure.mean(rng.random(2000) < 0.3)
    low, high = measure.interval(range(2000))
    assert low < measure.value < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 2000), rel=0.1)


def test_questions_about_one_picture_widen_the_interval():
    values = np.repeat(np.random.default_rng(0).random(100) < 0.5, 10)
    measure = Measure.mean(values)
    alone = np.diff(measure.interval(range(1000)))
    together = np.diff(measure.interval(np.repeat(np.arange(100), 10).tolist()))
    assert together > 2.5 * alone


def test_a_share_is_of_sums_not_a_mean_of_shares():
    assert Measure.share([1, 0, 3], [1, 0, 9]).value == pytest.approx(0.4)
    assert Measure.share([0], [0]).value == 0


def test_a_paired_test_sees_a_small_steady_difference():
    rng = np.random.default_rng(0)
    second = rng.random(500) < 0.5
    first = second | (rng.random(500) < 0.08)
    found = compare(Measure.mean(first), Measure.mean(second), range(500))
    assert found.p < 0.01
    assert 0 < found.low < found.difference < found.high


def test_a_paired_test_finds_nothing_between_equals():
    values = np.random.default_rng(0).random(200)
    same = compare(Measure.mean(values), Measure.mean(values), range(200))
    assert same.p == 1
    assert same.low == same.high == 0


def test_no_items_give_no_score():
    empty = Measure(np.zeros((0, 2)))
    assert np.isnan(empty.value)
    assert all(map(np.isnan, empty.interval([])))
