"""However a command ends, its process ends: after errors, while threads of libraries go on, and by Ctrl-C."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from patience import PATIENCE_S

STUCK = """
import sys, threading, time
from beit_jax import command, errors
from beit_jax.runtime import membership
membership.END_S = 1
def main(arguments):
    threading.Thread(target=time.sleep, args=(60,)).start()
    raise {error}
command.run(main)
"""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        ("errors.UserError('wrong')", 2, "error: wrong"),
        ("ZeroDivisionError('broken')", 1, "ZeroDivisionError: broken"),
        ("KeyboardInterrupt", 130, "interrupted; run the same command again to continue"),
    ],
)
def test_a_thread_that_does_not_end(error, status, line):
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STUCK.format(error=error)], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr.splitlines()[-1]) == (status, line)
    assert time.monotonic() - start < 30


def test_a_library_that_hangs_while_it_is_torn_down():
    """Python then runs no other thread, and so no timer."""
    hanging = "class Hanging:\n    def __del__(self, sleep=time.sleep): sleep(60)\nkept = Hanging()\ncommand.run"
    program = STUCK.format(error="errors.UserError('wrong')").replace("command.run", hanging).replace("(60,)", "(0,)")
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stderr) == (2, "error: wrong\n")
    assert time.monotonic() - start < 30


def test_ctrl_c_twice():
    program = STUCK.format(error="KeyboardInterrupt").replace("END_S = 1", f"END_S = {2 * PATIENCE_S}")
    program = program.replace("(60,)", f"({2 * PATIENCE_S},)")
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline() == "interrupted; run the same command again to continue\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_S) == 130 and process.stderr.read() == ""


HANGUP = """
import sys, time
from beit_jax.runtime import preemption
preemption.handle_signals()
preemption.defer_exit()
print("ready", flush=True)
while not preemption.should_stop():
    time.sleep(0.05)
print("to a terminal that is gone", flush=True)
open(sys.argv[1], "w").write(preemption.describe_signal())
"""


def test_a_closed_terminal(tmp_path):
    """The process leads the session of a terminal, which is then closed: the kernel sends SIGHUP."""
    terminal, end = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-c", HANGUP, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    while not shown.endswith(b"ready\r\n"):  # all of it: a terminal that is closed earlier breaks off the writing
        shown += os.read(terminal, 1000)
    os.close(terminal)
    assert process.wait(PATIENCE_S) == 0 and (tmp_path / "file").read_text() == "SIGHUP"


def test_nohup_ignores_a_closed_terminal(tmp_path):
    command = ["nohup", sys.executable, "-c", HANGUP, str(tmp_path / "file")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0 and (tmp_path / "file").read_text() == "SIGTERM"
