import threading

import pytest
import torch

from demo.serve import worker as turns
from demo.serve.worker import CLICKS_IN_A_ROW, Worker, take_turns


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


def queued(worker, calls):
    """Runs calls, each (name, quick), that all wait at the same time; the order they ran in."""
    begun, gate, ran = threading.Event(), threading.Event(), []
    first = lambda: (begun.set(), gate.wait())  # noqa: E731
    threads = [threading.Thread(target=worker.run, args=(first, "first"))]
    threads[0].start()
    assert begun.wait(10)  # it no longer waits itself
    for count, (name, quick) in enumerate(calls, 1):
        call = lambda name=name: ran.append(name)  # noqa: E731
        thread = threading.Thread(target=worker.run, args=(call, "part", quick))
        thread.start()
        threads.append(thread)
        while worker.waiting < count:  # they queue up in this order
            pass
    gate.set()
    for thread in threads:
        thread.join(10)
    return ran


def test_clicks_go_first_and_each_kind_in_its_order(worker):
    calls = [("answer 1", False), ("click 1", True), ("answer 2", False), ("click 2", True)]
    assert queued(worker, calls) == ["click 1", "click 2", "answer 1", "answer 2"]


def test_a_flood_of_clicks_does_not_hold_up_answers_for_good(worker):
    calls = [("answer", False), *(("click", True),) * (2 * CLICKS_IN_A_ROW)]
    assert queued(worker, calls).index("answer") <= CLICKS_IN_A_ROW


def test_an_error_reaches_the_one_who_called(worker):
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 / 0, "part")
    assert worker.run(lambda: 5, "part") == 5


def test_the_model_runs_in_one_thread_and_answers_the_same(tiny_assistant, image):
    view = tiny_assistant.encode(image)
    expected = view.ask("what is this?", [view.click(10, 10)])
    parts, threads = set(), set()

    def observe(part, seconds):
        parts.add(part)
        threads.add(threading.current_thread())

    worker = Worker(observe)
    try:
        take_turns(tiny_assistant, worker)
        view = tiny_assistant.encode(image)
        assert view.ask("what is this?", [view.click(10, 10)]) == expected
    finally:
        worker.close()
    assert parts == {"vision", "segmenter", "bridge", "language"}
    assert len(threads) == 1


def test_a_click_goes_between_two_steps_of_an_answer(tiny_assistant, image):
    """An answer holds the model for a token at a time, never for all of it."""
    worker = Worker()
    try:
        take_turns(tiny_assistant, worker)
        view = tiny_assistant.encode(image)
        pieces = view.converse().ask("what is this?")
        next(pieces)
        assert worker.waiting == 0
        assert view.click(10, 10).area > 0  # would wait for ever if the answer held the model
        assert list(pieces)
    finally:
        worker.close()


def test_models_of_other_packages_are_left_as_they_are(tiny_assistant, worker):
    take_turns(tiny_assistant, worker)
    taken = {
        type(module).__module__.split(".")[0]
        for module in tiny_assistant.modules()
        for value in vars(module).values()
        if isinstance(value, turns.Turn)
    }
    assert taken == {"adapters", "qformer"}


def test_a_closed_worker_gives_the_model_back(tiny_assistant, image):
    before = {id(m): dict(vars(m)) for m in tiny_assistant.modules()}
    worker = Worker()
    take_turns(tiny_assistant, worker)
    worker.close()
    for module in tiny_assistant.modules():
        assert vars(module).keys() == before[id(module)].keys()
    assert not torch.is_inference(tiny_assistant.encode(image).image_embeds)


def test_workers_that_close_in_any_order_give_the_model_back(tiny_assistant):
    before = {id(m): dict(vars(m)) for m in tiny_assistant.modules()}
    first, second, third = Worker(), Worker(), Worker()
    for worker in (first, second, third):
        take_turns(tiny_assistant, worker)
    for worker in (second, first, third):
        worker.close()
    for module in tiny_assistant.modules():
        assert vars(module).keys() == before[id(module)].keys()


def test_a_method_of_the_object_itself_is_given_back_too():
    class Part:
        pass

    part, first, second = Part(), Worker(), Worker()
    part.call = own = lambda: 7
    first.take(part, "call", "language")
    second.take(part, "call", "language")
    first.close()
    assert part.call() == 7
    second.close()
    assert part.call is own


def test_a_small_model_computes_on_one_core_and_a_large_one_on_all(
    worker, tiny_assistant, monkeypatch
):
    monkeypatch.setattr(turns, "CORES", 2)
    take_turns(tiny_assistant, worker)
    assert worker.run(torch.get_num_threads, "language") == 1
    monkeypatch.setattr(turns, "SMALL", 10)
    take_turns(tiny_assistant, worker)
    assert worker.run(torch.get_num_threads, "language") == 2
