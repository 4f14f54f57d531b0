"""Who is silent, for how long, and who is not blamed for it."""

import threading
import time

import pytest
from patience import PATIENCE_S

from beit_jax.runtime import sign_of_life


class Service:
    """What a run's processes share, without processes; while `stopped` it does not answer."""

    def __init__(self):
        self.values, self.stopped = {}, threading.Event()

    def key_value_set(self, key, value, allow_overwrite):
        self._answer()
        self.values[key] = value

    def key_value_dir_get(self, folder):
        self._answer()
        return [(key, value) for key, value in self.values.items() if key.startswith(f"{folder}/")]

    def _answer(self):
        while self.stopped.is_set():
            time.sleep(0.01)


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(sign_of_life, "SIGN_S", 0.02)
    monkeypatch.setattr(sign_of_life, "UNANSWERED_S", 0.2)
    monkeypatch.setattr(sign_of_life, "SILENCE_S", 0.6)


@pytest.fixture
def watch(fast):
    """A function that starts to watch; returns the object, and what it reports."""
    started = []

    def start(service, this=0, count=2):
        reports = []
        others = sign_of_life.Others(service, "run", this, count)
        others.watch(lambda text: reports.append(text), lambda *silent: reports.append(silent))
        started.append((others, service))
        return others, reports

    yield start
    for others, service in started:
        service.stopped.clear()
        others.stop()


def wait_for(reports):
    deadline = time.monotonic() + PATIENCE_S
    while not reports and time.monotonic() < deadline:
        time.sleep(0.01)
    return reports[0]


def test_processes_that_give_signs_are_left_alone(watch):
    service = Service()
    (first, of_first), (second, of_second) = watch(service, 0), watch(service, 1)
    time.sleep(1.2)
    assert not of_first and not of_second
    assert first.host(1) and second.host(0)


def test_the_silent_one_of_three_is_named(watch):
    service = Service()
    watch(service, 1, count=3)
    _, reports = watch(service, 0, count=3)
    process, seconds = wait_for(reports)
    assert process == 2 and seconds >= 0.6


def test_a_service_that_does_not_answer_is_process_0(watch):
    service = Service()
    watch(service, 2, count=3)
    _, reports = watch(service, 1, count=3)
    time.sleep(0.1)
    service.stopped.set()
    assert wait_for(reports)[0] == 0


def test_what_another_process_posts_is_passed_on(watch):
    service = Service()
    service.values["run/failed/0"] = "2 own"
    service.values["run/failed/1"] = "2 wrong"
    _, reports = watch(service)
    assert wait_for(reports) == "2 wrong"


def test_the_time_in_which_a_process_is_stopped_itself_does_not_count(watch, monkeypatch):
    """All clocks jump, as they do for a process that was stopped for an hour."""
    service = Service()
    jump, monotonic = [0.0], time.monotonic
    monkeypatch.setattr(sign_of_life.time, "monotonic", lambda: monotonic() + jump[0])
    (_, of_first), (_, of_second) = watch(service, 0), watch(service, 1)
    time.sleep(0.2)
    jump[0] = 3600.0
    time.sleep(0.3)
    assert not of_first and not of_second
