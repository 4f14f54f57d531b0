import signal
import subprocess
import sys
import threading
import time

from beit_jax.runtime.watchdog import Watchdog


def wait_here(event):
    event.wait(30)


def printed(path, seconds=0.0):
    deadline = time.monotonic() + seconds
    while "all threads" not in path.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # for the stacks
    return path.read_text()


def test_the_stacks_of_all_threads_once(tmp_path):
    release = threading.Event()
    threading.Thread(target=wait_here, args=(release,)).start()
    with (tmp_path / "out").open("w") as out, Watchdog(5.0, min_limit_s=0.1, output=out) as watchdog:
        for _ in range(10):
            watchdog.step_done()
            time.sleep(0.02)
        assert watchdog.limit() >= 5 * 0.02
        text = printed(tmp_path / "out", 10)
        assert "no step has completed for" in text and "wait_here" in text and "printed" in text
        time.sleep(0.5)
        assert printed(tmp_path / "out").count("no step has completed") == 1  # once for each stall
        watchdog.step_done()
        time.sleep(0.5)
        assert printed(tmp_path / "out").count("no step has completed") == 2
    release.set()


def test_silent_while_steps_complete_and_while_paused(tmp_path):
    with (tmp_path / "out").open("w") as out, Watchdog(5.0, min_limit_s=0.3, output=out) as watchdog:
        for _ in range(20):
            watchdog.step_done()
            time.sleep(0.01)
        with watchdog.pause():
            time.sleep(0.6)
        for _ in range(6):
            time.sleep(0.1)
            watchdog.reset()
    assert not (tmp_path / "out").read_text()


def test_first_steps_may_be_slow(tmp_path):
    with (
        (tmp_path / "out").open("w") as out,
        Watchdog(5.0, min_limit_s=0.1, first_limit_s=60.0, output=out) as watchdog,
    ):
        watchdog.step_done()
        time.sleep(0.4)
    assert not (tmp_path / "out").read_text()


SUSPENDED = """
import sys, time
from beit_jax.runtime import watchdog
watchdog.SUSPENDED_S = 0.5
with watchdog.Watchdog(5.0, min_limit_s=1.5) as watched:
    for _ in range(10):
        watched.step_done()
    print("ready", flush=True)
    sys.stdin.readline()
    time.sleep(0.6)
"""


def test_silent_after_the_process_was_suspended():
    command = [sys.executable, "-c", SUSPENDED]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        assert process.communicate("\n", 20)[1] == "" and process.returncode == 0
