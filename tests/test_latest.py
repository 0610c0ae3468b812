"""The worker behind the explorer: the newest request wins, and nothing ends its thread."""

import threading
import time

import pytest

from medrobust_utils.explorer.latest import Latest

LONG = 20  # seconds; nobody waits that long unless something is broken


def nobody(request, error):
    raise AssertionError(f"{request}: {error}")


@pytest.fixture
def gate():
    """Work that waits inside until told to go on; what it did is in ``done``."""

    class Gate:
        def __init__(self):
            self.entered, self.open = threading.Event(), threading.Event()
            self.begun, self.done, self.checks = [], [], []

        def work(self, request, go_on):
            self.begun.append(request)
            self.checks.append(go_on)
            self.entered.set()
            assert self.open.wait(LONG)
            if go_on():
                self.done.append(request)

    return Gate()


def test_a_request_is_done_in_another_thread(gate):
    where = []
    latest = Latest(lambda request, go_on: where.append(threading.current_thread()), nobody)
    latest.ask("a")
    assert latest.wait(LONG)
    assert where and where[0] is not threading.current_thread() and where[0].daemon


def test_asking_returns_at_once_and_only_the_newest_of_those_waiting_is_begun(gate):
    latest = Latest(gate.work, nobody)
    latest.ask("first")
    assert gate.entered.wait(LONG)
    start = time.perf_counter()
    for number in range(1000):
        latest.ask(number)
    assert time.perf_counter() - start < 1
    gate.open.set()
    assert latest.wait(LONG)
    assert gate.begun == ["first", 999] and gate.done == [999]


def test_a_quick_drag_is_one_request(gate):
    gate.open.set()
    latest = Latest(gate.work, nobody)
    for number in range(13):
        latest.ask(number)
    assert latest.wait(LONG)
    assert gate.begun == [12]


def test_work_under_way_learns_that_it_is_outdated_for_good(gate):
    latest = Latest(gate.work, nobody)
    latest.ask("old")
    assert gate.entered.wait(LONG)
    assert gate.checks[0]()
    latest.ask("new")
    assert not gate.checks[0]()
    gate.open.set()
    assert latest.wait(LONG)
    assert not gate.checks[0]() and gate.checks[1]() and gate.done == ["new"]


def test_what_was_dropped_is_not_done(gate):
    latest = Latest(gate.work, nobody)
    latest.ask("running")
    assert gate.entered.wait(LONG)
    latest.ask("waiting")
    latest.drop()
    gate.open.set()
    assert latest.wait(LONG)
    assert gate.begun == ["running"] and gate.done == []
    latest.ask("after")
    assert latest.wait(LONG) and gate.done == ["after"]


def test_a_request_dropped_before_it_began_leaves_the_thread_at_rest(gate):
    gate.open.set()
    latest = Latest(gate.work, nobody)
    latest.ask("a")
    latest.drop()
    assert latest.wait(LONG) and gate.begun == []


def test_waiting_ends_with_the_timeout(gate):
    latest = Latest(gate.work, nobody)
    assert latest.wait(0)  # nothing was asked for
    latest.ask("slow")
    assert not latest.wait(0.2)
    gate.open.set()
    assert latest.wait(LONG)


def test_an_error_goes_to_the_handler_and_the_thread_lives_on():
    told, done = [], []

    def work(request, go_on):
        if request == "bad":
            raise ValueError("no")
        done.append(request)

    def trouble(request, error):
        told.append((request, str(error)))
        raise RuntimeError("the handler fails too")

    latest = Latest(work, trouble)
    latest.ask("bad")
    assert latest.wait(LONG)
    latest.ask("good")
    assert latest.wait(LONG)
    assert told == [("bad", "no")] and done == ["good"]


def test_nobody_hears_of_an_error_in_outdated_work(gate):
    told = []

    def work(request, go_on):
        gate.work(request, go_on)
        if request == "old":
            raise ValueError("no")

    latest = Latest(work, lambda request, error: told.append(request))
    latest.ask("old")
    assert gate.entered.wait(LONG)
    latest.ask("new")
    gate.open.set()
    assert latest.wait(LONG) and gate.done == ["new"] and told == []


def test_one_thread_serves_many_requests():
    threads = set()
    latest = Latest(lambda request, go_on: threads.add(threading.get_ident()), nobody)
    before = threading.active_count()
    for number in range(5):
        latest.ask(number)
        assert latest.wait(LONG)
    assert len(threads) == 1 and threading.active_count() == before + 1
