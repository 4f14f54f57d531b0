"""The commands of gcloud, in the scripts and in docs/pod.md, checked by its own linter, which needs no network."""

import json
import os
import re
import shutil
import subprocess

import pytest
from test_docs import ROOT, blocks
from test_scripts import DRY_RUNS

POD = ROOT / "docs" / "pod.md"


def of_the_page():
    text = "\n".join(blocks(POD, "bash")).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def of_the_scripts():
    return [line for _, output in DRY_RUNS.values() for line in output.splitlines() if line.startswith("gcloud ")]


def lint(commands, folder):
    """What gcloud says against each of the commands; it answers once for two that are the same."""
    commands, file = set(commands), folder / "commands.json"
    file.write_text(json.dumps([{"command_string": command} for command in commands]))
    line = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"]
    settings = os.environ | {"CLOUDSDK_CONFIG": str(folder / "settings")}
    found = json.loads(subprocess.run(line, capture_output=True, text=True, check=True, env=settings).stdout)
    assert len(found) == len(commands)
    return {entry["command_string"]: entry["error_message"] for entry in found if not entry["success"]}


def test_commands_of_the_page_are_of_gcloud():
    commands = of_the_page()
    assert len(commands) > 10 and all(re.match("gcloud [a-z]", command) for command in commands), commands


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_understands_them(tmp_path):
    assert lint([*of_the_page(), *of_the_scripts()], tmp_path) == {}
    wrong = lint(["gcloud storage buckets create gs://b --lokation=us"], tmp_path)
    assert "unrecognized arguments: --lokation" in next(iter(wrong.values()))
