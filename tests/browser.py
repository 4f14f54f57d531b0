"""A browser without a screen, for pages that were made here."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def console(page: Path, profile: Path, width: int = 1000, query: str = "") -> list[str]:
    """What a page writes to the console, errors among it; the test is skipped where there is no Chromium."""
    said = _open(page.resolve().as_uri() + query, profile, f"--window-size={width},800")[1]
    return re.findall(r"CONSOLE[:(]\d+\)?\] (.*)", said)


def document(address: str, profile: Path, seconds: int = 20) -> str:
    """The HTML of a page once its scripts had this many seconds of its own time; see `console`."""
    return _open(address, profile, f"--virtual-time-budget={1000 * seconds}")[0]


def _open(address: str, profile: Path, *more: str) -> tuple[str, str]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium; looked for {', '.join(NAMES)}")
    switches = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={profile}"]
    command = [program, *switches, *more, "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0 and "</body>" in done.stdout, done.stderr[-2000:]
    return done.stdout, done.stderr
