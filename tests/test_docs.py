"""Pages: links and anchors lead somewhere, and commands are understood; tests/test_site.py builds them."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from beit_jax import benchmark, cli, foreign_weights, own_images
from beit_jax import config as configs
from beit_jax.config import validate
from beit_jax.convert import locate, opening
from beit_jax.training import checkpoint

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "launch" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
names = [str(page.relative_to(ROOT)) for page in PAGES]
each_page = pytest.mark.parametrize("page", PAGES, ids=names)

IMAGES = own_images.Images("train[:90%]", "train[90%:]", 900, 100, ("ant", "bee"), 64, 64 * 64)  # of the folder PATH
FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in FENCED.findall(page.read_text()) if name == language]


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text())


def inline(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
        # The site holds what is in docs/ alone.
        assert page.parent.name != "docs" or ROOT / "docs" in target.resolve().parents, link


@each_page
def test_files_that_are_named_exist(page):
    for code in inline(page):
        found = re.match(r"(?:launch|configs|tests|docs)/[\w/.]*\w", code)
        assert not found or (ROOT / found[0]).exists(), code


def test_files_of_the_package_that_are_named_exist():
    named = [code for code in inline(ROOT / "docs" / "organisation.md") if re.fullmatch(r"[\w/]+(?:\.py|/)", code)]
    missing = [code for code in named if not any((folder / code).exists() for folder in (ROOT, ROOT / "beit_jax"))]
    assert len(named) > 50 and set(missing) == {"tasks/NAME.py", "config/NAME.py"}


@each_page
def test_presets_and_keys_that_are_named_exist(page, in_the_checkout):
    known = {key for task in configs.task_names() for key in configs.flatten(configs.defaults(task))}
    for code in inline(page):
        preset = re.fullmatch(r"(configs/\w+\.py)(?::([\w=,/]+))?", code)
        if preset:
            configs.load(f"{ROOT / preset[1]}:{preset[2]}") if preset[2] else configs.python_file(preset[1])
        for key in re.findall(r"^--config\.([\w.]+)", code):
            of_a_stage = key.partition(".")[2]
            assert any(name in (key, of_a_stage) or name.startswith(f"{key}.") for name in known), code


def commands() -> list:
    """Of shell blocks, and those in prose that are whole."""
    found = []
    for page, name in zip(PAGES, names):
        shell = re.sub(r"\\\n\s*|python -c \"[^\"]*\"", "", "\n".join(blocks(page, "sh")))
        lines = filter(str.strip, shell.splitlines())
        found += [(name, part) for line in lines for part in line.split(" && ")]
        found += [(name, code) for code in inline(page) if re.match(r"python -m beit_jax\.\w+ ", code)]
    whole = [(name, line.strip()) for name, line in found if not re.search(r"\[-|\[:|\.\.\.(?!\w)|FILE", line)]
    return [pytest.param(line, id=f"{name}:{line[:70]}") for name, line in whole]


class ParsedError(Exception):
    """Raised in place of running a command."""


@pytest.fixture
def parse_only(monkeypatch, registries):
    """Ends a command where its arguments are read; gives its config."""
    override, parse_args = cli.override, cli.Parser.parse_args

    def overridden(config, arguments):
        override(config, arguments)
        raise ParsedError(config)

    def parsed_args(self, *arguments):
        parse_args(self, *arguments)
        raise ParsedError(None)

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "override", overridden)
    monkeypatch.setattr(cli.Parser, "parse_args", parsed_args)
    monkeypatch.setattr(cli.Parser, "check", lambda *_: None)  # the files of the pages are not there
    monkeypatch.setattr(benchmark, "_choose_devices", lambda args: None)  # those of the tests are chosen already
    monkeypatch.setattr(locate, "check_name", Path)
    monkeypatch.setattr(own_images, "look_at", lambda source: IMAGES)
    monkeypatch.setattr(foreign_weights, "config_of", lambda name: configs.defaults("pretrain"))
    monkeypatch.setattr(opening, "holds_checkpoint", lambda path: True)
    monkeypatch.setattr(opening, "find_checkpoint", lambda path: Path(path, "checkpoints", "1"))
    monkeypatch.setattr(checkpoint, "load_config", lambda path: configs.to_json(config_of(path.parents[1])))

    def run(module, arguments):
        program = importlib.import_module(module)
        if not hasattr(program, "main"):
            program = importlib.import_module(f"{module}.__main__")
        with pytest.raises(ParsedError) as error:
            program.main(arguments)
        return error.value.args[0]

    return run


def config_of(workdir: Path):
    """The config of a run that a page evaluates, by the name of its folder."""
    file = ROOT / "configs" / f"{workdir.name}.py"
    return configs.load(str(file if file.exists() else ROOT / "configs" / "finetune.py"))


@pytest.mark.parametrize("line", commands())
def test_commands_are_understood(line, parse_only):
    program, *arguments = shlex.split(line)
    if program == "python" and arguments[0] == "-m" and arguments[1].startswith("beit_jax"):
        config = parse_only(arguments[1], arguments[2:])
        if arguments[1] == "beit_jax.train":
            assert config is not None and any(re.match("--workdir|--help", argument) for argument in arguments)
            validate(config)
    elif program == "python":
        assert (ROOT / arguments[0]).is_file()
    elif program.startswith("launch/"):
        at = arguments.index("--") if "--" in arguments else len(arguments)
        command = [str(ROOT / program), *arguments[:at], "--dry-run", *arguments[at:]]
        environment = os.environ | {"PYTHON": sys.executable}
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0 and done.stdout, done.stderr
    elif program == "pip":
        extras = set(re.findall(r"\[([\w,]+)\]", line)[0].split(","))
        assert extras <= set(re.findall(r'^        "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE))
    else:
        assert program in ("pytest", "mkdocs", "mike"), line


def test_wrong_commands_are_not_understood(parse_only):
    for wrong in (
        "beit_jax.train --config configs/pretrain.py:colour=red --workdir runs/a",
        "beit_jax.train --config configs/pretrain.py --workdir runs/a --config.optimizer.speed=1",
        "beit_jax.visualize reports runs/a",
    ):
        module, *arguments = wrong.split()
        with pytest.raises(cli.UserError):
            importlib.import_module(module if module != "beit_jax.visualize" else f"{module}.__main__").main(arguments)


def test_python_in_pages_is_python():
    found = [text for page in PAGES for text in blocks(page, "python")]
    assert len(found) >= 2
    for text in found:
        compile(text, "page", "exec")


def test_every_config_is_in_the_table():
    named = set(re.findall(r"`configs/(\w+\.py)`", (ROOT / "docs" / "recipes.md").read_text()))
    assert {path.name for path in (ROOT / "configs").glob("*.py")} == named


def test_arithmetic_of_large_runs():
    done = subprocess.run([sys.executable, ROOT / "docs" / "large_runs.py"], capture_output=True, text=True, check=True)
    assert done.stdout in (ROOT / "docs" / "pod.md").read_text() and done.stdout.count("\n") > 3


def test_picture_is_small():
    assert (ROOT / "docs" / "quickstart.png").stat().st_size < 100_000


def test_supported_versions_are_those_of_the_installation():
    table = prose(ROOT / "docs" / "index.md").partition("## Supported versions")[2]
    stated = dict(re.findall(r"^\| ([\w-]+)(?:, [^|]*)? \| (>=[\d.]+(?:,<[\d.]+)?) \|", table, re.MULTILINE))
    setup = (ROOT / "setup.py").read_text()
    required = dict(re.findall(r'"(jax|flax|optax|orbax-checkpoint|tensorflow)(>=[\d.,<]+)', setup.replace('f"', '"')))
    required["Python"] = re.search(r'python_requires="(.+)"', setup)[1]
    assert stated == required and len(stated) == 6
    tested = re.search(r"for version in ([\d. ]+); do", (ROOT / ".ci" / "run").read_text())[1]
    assert f"| Python | {required['Python']} | {' and '.join(tested.split())} |" in table
