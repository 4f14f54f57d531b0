"""After its error line, a command ends: where a file stands in place of a folder, and where the disk takes no more."""

import subprocess
import sys
import threading
import time

import pytest
from patience import PATIENCE_S

from beit_jax.workdir import FILES, FOLDERS

pytestmark = [pytest.mark.usefixtures("in_the_checkout"), pytest.mark.slow]
END_S = 20  # between the error line and the end of the process
TRAIN = [sys.executable, "-m", "beit_jax.train", "--config=configs/pretrain.py:runlocal", "--config.batch_size=8"]


class Command:
    """A command in a process of its own, whose output is collected."""

    def __init__(self, arguments, limit_kb=None):
        limit = [] if limit_kb is None else ["bash", "-c", f'ulimit -f {limit_kb}; exec "$@"', "bash"]
        self.lines, self.error_at = [], None
        self.process = subprocess.Popen(
            [*limit, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("error: ") and self.error_at is None:
                self.error_at = time.monotonic()

    def wait_for(self, text):
        deadline = time.monotonic() + PATIENCE_S
        while text not in "".join(self.lines):
            assert time.monotonic() < deadline and self.process.poll() is None, "".join(self.lines)
            time.sleep(0.02)

    def end(self):
        """The status and the output; a process that lives 20 s after its error is killed, and the test fails."""
        started = time.monotonic()
        try:
            while self.process.poll() is None:
                now = time.monotonic()
                assert self.error_at is None or now - self.error_at < END_S, f"still alive: {''.join(self.lines)}"
                assert now - started < PATIENCE_S, "".join(self.lines)
                time.sleep(0.05)
        finally:
            self.process.kill()
            self.reader.join(5)
        output = "".join(self.lines)
        assert "Traceback" not in output, output
        return self.process.returncode, output


@pytest.mark.parametrize("name", ["", *FOLDERS, *FILES])
def test_a_file_in_place_of_a_folder_or_the_reverse(tmp_path, name):
    path = tmp_path / "run" / name
    if name in FILES:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    status, output = Command([*TRAIN, f"--workdir={tmp_path}/run"]).end()
    assert status == 2 and f"{path}" in output.splitlines()[-1], output


def test_a_file_in_place_of_the_data(tmp_path):
    (tmp_path / "photos").write_text("")
    data = f"--config.data.source=folder:{tmp_path}/photos"
    status, output = Command([*TRAIN, data, f"--workdir={tmp_path}/run"]).end()
    assert status == 2 and "photos" in output.splitlines()[-1], output


@pytest.mark.parametrize(("name", "status"), [("checkpoints", 2), ("tensorboard", 0)])
def test_a_file_that_takes_the_place_of_a_folder_in_mid_run(tmp_path, name, status):
    """What a run can do without does not end it."""
    steps = ["--config.steps=400", "--config.save_every=20", "--config.log_every=20", "--config.eval_every=0"]
    command = Command([*TRAIN, *steps, f"--workdir={tmp_path}"])
    command.wait_for(" 40/400 ")
    (tmp_path / name).rename(tmp_path / "aside")
    (tmp_path / name).write_text("")
    found, output = command.end()
    assert found == status, output
    assert status == 0 or f"{tmp_path}/{name}" in output.splitlines()[-1], output


@pytest.mark.parametrize(
    ("module", "arguments", "limit_kb", "said"),
    [
        ("train", [*TRAIN[3:], "--workdir"], 20, "File too large"),
        ("tokenize_dataset", [*TRAIN[3:], "--config.steps=200", "--out"], 8, "cannot write"),  # in NumPy's words
        ("convert", ["tests/golden/official.pth", "--to=beit_jax"], 1, "File too large"),
        ("convert", ["tests/golden/official.pth", "--to=hf"], 8, "File too large"),
    ],
)
def test_files_that_cannot_grow(tmp_path, module, arguments, limit_kb, said):
    """The kernel refuses longer files, as on a full disk, also to libraries that write in threads."""
    target = [f"{arguments[-1]}={tmp_path}/new"] if arguments[-1] in ("--workdir", "--out") else [tmp_path / "new"]
    arguments = arguments[:-1] + target if module != "convert" else [arguments[0], *target, arguments[1]]
    status, output = Command([sys.executable, "-m", f"beit_jax.{module}", *arguments], limit_kb).end()
    assert status == 2 and said in output.splitlines()[-1], output
