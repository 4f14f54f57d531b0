import threading
import time

from beit_jax.runtime.watchdog import Watchdog


def wait_here(event):
    event.wait(30)


def told(path, seconds=0.0):
    deadline = time.monotonic() + seconds
    while "all threads" not in path.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # for the stacks
    return path.read_text()


def test_the_stacks_of_all_threads_once(tmp_path):
    release = threading.Event()
    threading.Thread(target=wait_here, args=(release,)).start()
    with (tmp_path / "out").open("w") as out, Watchdog(5.0, least_s=0.1, to=out) as watchdog:
        for _ in range(10):
            watchdog.step()
            time.sleep(0.02)
        assert watchdog.limit() >= 5 * 0.02
        text = told(tmp_path / "out", 10)
        assert "no step has completed for" in text and "wait_here" in text and "told" in text
        time.sleep(0.5)
        assert told(tmp_path / "out").count("no step has completed") == 1  # once for each standstill
        watchdog.step()
        time.sleep(0.5)
        assert told(tmp_path / "out").count("no step has completed") == 2
    release.set()


def test_silent_while_steps_come_and_while_it_is_asleep(tmp_path):
    with (tmp_path / "out").open("w") as out, Watchdog(5.0, least_s=0.3, to=out) as watchdog:
        for _ in range(20):
            watchdog.step()
            time.sleep(0.01)
        with watchdog.asleep():
            time.sleep(0.6)
        for _ in range(6):
            time.sleep(0.1)
            watchdog.beat()
    assert not (tmp_path / "out").read_text()


def test_slow_first_steps_and_no_watchdog(tmp_path):
    with (tmp_path / "out").open("w") as out:
        with Watchdog(5.0, least_s=0.1, first_s=60.0, to=out) as watchdog:
            watchdog.step()
            time.sleep(0.4)
        with Watchdog(0.0, least_s=0.01, first_s=0.01, to=out):
            time.sleep(0.1)
    assert not (tmp_path / "out").read_text()
