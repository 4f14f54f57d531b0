"""What a newcomer may type: all that is wrong is told at once, before a heavy library is imported."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from beit_jax import benchmark, train
from beit_jax.convert import __main__ as convert
from beit_jax.errors import UserError
from beit_jax.visualize import __main__ as visualize

TOO_FEW = "holds 2 images to train on; expected at least 10"
TOKENIZER = "configs/tokenizer.py"
HEAVY = ("jax", "tensorflow", "orbax", "flax", "matplotlib", "torch")
RUN = """
import runpy, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
sys.argv = {argv!r}
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
finally:
    print("imported:", *(name for name in {heavy!r} if name in sys.modules))
"""


def run(module, *arguments, blocked=(), cwd=None):
    """The exit status, the lines of standard error, and the heavy libraries that a command imported."""
    code = RUN.format(blocked=blocked, argv=["command", *arguments], module=f"beit_jax.{module}", heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment)
    imported = done.stdout.rpartition("imported:")[2].split()
    return done.returncode, done.stderr.strip().splitlines(), imported


def refused(program, *arguments):
    with pytest.raises(UserError) as error:
        program.main(arguments)
    return error.value.lines


@pytest.fixture
def pictures(tmp_path):
    """A folder of images, in which tests also put others, with a space in its name."""
    folder = tmp_path / "my pictures"
    write_images(folder / "cats")
    return folder


def write_images(folder):
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (20, 20)).save(folder / f"{name}.png")


MISSING = {
    "train": ["--config=configs/pretrain.py", "--workdir=w", "--config.tokenizer.init_from=nowhere"],
    "evaluate": ["--checkpoint=nowhere"],
    "benchmark": ["--config=configs/pretrain.py", "--real", "--config.data.source=folder:nowhere"],
    "tokenize_dataset": ["--config=configs/pretrain.py", "--out=o", "--config.tokenizer.init_from=nowhere"],
    "shard_dataset": ["--images=nowhere", "--out=o"],
    "tiff_to_arrays": ["--images=nowhere", "--out=o"],
    "visualize report": ["nowhere"],
    "visualize attention": ["--checkpoint=nowhere", "--image=docs/index.md", "--out=o"],
    "visualize tokens": ["--checkpoint=nowhere", "--image=docs/index.md", "--out=o"],
    "visualize predictions": ["--checkpoint=nowhere", "--image=docs/index.md", "--out=o", "--tokenizer=nowhere2"],
    "convert": ["nowhere", "target", "--to=hf"],
}


@pytest.mark.parametrize("command", MISSING)
def test_what_is_missing_is_told_before_heavy_libraries_are_imported(command, repository):
    module, *subcommand = command.split()
    status, lines, imported = run(module, *subcommand, *MISSING[command], cwd=repository)
    assert status == 2 and any("nowhere" in line for line in lines), lines
    assert lines[0].startswith("error: ") and not any("Traceback" in line for line in lines)
    assert imported == []
    if "--image=docs/index.md" in MISSING[command]:
        assert any("--image=docs/index.md cannot be read as a picture" in line for line in lines)


@pytest.mark.parametrize(
    ("library", "command", "install"),
    [
        ("tensorflow", ["train", f"--config={TOKENIZER}:runlocal", "--workdir=w"], ".[data]"),
        ("matplotlib", ["train", f"--config={TOKENIZER}:runlocal", "--workdir=w"], ".[data]"),
        ("tensorflow_datasets", ["shard_dataset", "--images=docs", "--out=o"], ".[data]"),
        ("tensorflow", ["evaluate", "--checkpoint=nowhere"], ".[data]"),
        ("tensorflow", ["tokenize_dataset", "--config=configs/pretrain.py:runlocal", "--out=o"], ".[data]"),
        ("tensorflow", ["benchmark", "masks"], ".[data]"),
        ("skimage", ["benchmark", "input"], ".[test]"),
        ("torch", ["benchmark", "--config=configs/pretrain.py:runlocal", "--vs=torch"], ".[parity]"),
        ("matplotlib", ["evaluate", "--checkpoint=x", "--pictures=y"], ".[data]"),
        ("matplotlib", ["visualize", "report", "nowhere"], ".[data]"),
        ("matplotlib", ["visualize", "tokens", "--checkpoint=x", "--image=y", "--out=o"], ".[data]"),
        ("huggingface_hub", ["convert", "owner/name", "o", "--to=beit_jax"], ".[convert]"),
        ("huggingface_hub", ["visualize", "attention", "--checkpoint=a/b", "--image=y", "--out=o"], ".[convert]"),
        ("safetensors", ["convert", "configs", "o", "--to=hf"], ".[convert]"),
        ("torch", ["convert", "configs", "o", "--to=unilm"], ".[parity]"),
        ("torch", ["convert", "configs", "o", "--to=beit_jax", "--verify"], ".[parity]"),
    ],
)
def test_a_missing_library_is_named_with_the_command_that_installs_it(library, command, install, repository):
    status, lines, _ = run(*command, blocked=(library,), cwd=repository)
    assert status == 2 and not any("Traceback" in line for line in lines), lines
    (line,) = [line for line in lines if "not installed" in line]
    assert library in line and line.endswith(f"pip install -e '{install}'")


def test_the_clone_is_named_elsewhere(tmp_path, repository):
    command = ["visualize", "report", "nowhere"]
    _, lines, _ = run(*command, blocked=("matplotlib",), cwd=tmp_path)
    assert f"pip install -e '{repository}[data]'" in lines[-1]


def test_without_arguments_a_command_prints_its_help(repository, capsys):
    status, lines, _ = run("visualize", cwd=repository)
    assert (status, lines) == (2, [])
    for program, text in (
        (train, "beit_jax.train"),
        (convert, "SRC DST"),
        (visualize, "COMMAND"),
        (benchmark, "--real"),
    ):
        with pytest.raises(SystemExit) as end:
            program.main([])
        assert end.value.code == 2 and text in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        visualize.main(["report"])
    assert end.value.code == 2 and "WORKDIR" in capsys.readouterr().out


@pytest.mark.usefixtures("in_the_checkout")
class TestTrain:
    def test_everything_is_told_at_once(self, tmp_path):
        overrides = ["model.vocabulary=3", "batch_size=abc", "init_from=nowhere", "data.source=folder:PATH"]
        lines = refused(
            train,
            f"--config={TOKENIZER}:runlocal",
            f"--workdri={tmp_path}",
            *(f"--config.{override}" for override in overrides),
        )
        assert [line.partition("; ")[0] for line in lines] == [
            "there is no flag --workdri",
            "unknown config key '--config.model.vocabulary'",
            "--workdir is missing",
            "batch_size='abc' is str",
            "data.source=folder:PATH: there is no folder PATH",
            "init_from=nowhere holds no checkpoint: there is no such folder",
        ]
        assert lines[0].endswith("did you mean --workdir?") and lines[1].endswith("did you mean --config.model.vocab?")

    def test_one_mistake_of_many_stages_is_one_line(self, tmp_path):
        config = "--config=configs/label_efficiency.py:init=nowhere,data=folder:also_nowhere"
        data, start = refused(train, config, f"--workdir={tmp_path}")
        assert data.startswith("stages ") and "data.source=folder:also_nowhere: there is no folder" in data
        assert start.startswith("stages ") and "init_from=nowhere holds no checkpoint" in start

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            (["configs/quickstart.py"], "--config is missing; write --config=configs/quickstart.py"),
            ([f"--config={TOKENIZER}", "data=folder:x"], "follow a colon: --config=FILE:name=value"),
            ([f"--config={TOKENIZER},runlocal"], f"follow a colon: {TOKENIZER}:runlocal"),
            ([f"--config={TOKENIZER}", "--batch_size=3"], "keys of the config are set with --config.batch_size=3"),
            ([f"--config={TOKENIZER}", "-workdir=x"], "there is no flag -workdir; did you mean --workdir?"),
            (["--confg=x.py"], "there is no flag --confg; did you mean --config?"),
        ],
    )
    def test_arguments_in_a_wrong_form(self, arguments, part, tmp_path):
        lines = refused(train, *arguments, f"--workdir={tmp_path}")
        assert any(part in line for line in lines), lines

    @pytest.mark.parametrize(
        ("source", "part"),
        [
            ("folder:PATH", "there is no folder PATH; write the path of your own images in its place"),
            ("folder:", "names no folder; expected folder:PATH"),
            ("folder:pictures", "the path starts from {here}: check it, or give all of it"),
            ("folder:/no/such/place", "there is no folder /no/such/place; check the path"),
            ("folder:{pictures}/cats/a.png", "a.png is a file; expected the folder that the images lie in"),
            ("folder:C:\\Users\\me", "this system separates folders with /, not with \\"),
            ("folder:{empty}", "holds no images; expected .jpg"),
            ("{pictures}", "is a path, and names of data sets are expected; to read a folder of images, write folder:"),
            ("~/pictures", "write folder:~/pictures"),
            ("docs", "data.source=docs is a folder here", ),
        ],
    )  # fmt: skip
    def test_a_folder_that_is_written_wrong(self, source, part, pictures, tmp_path, repository, monkeypatch):
        monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
        (tmp_path / "empty").mkdir()
        known = dict(pictures=pictures, empty=tmp_path / "empty", here=repository)
        source = source.format(**known) if "{" in source else source
        (line,) = refused(train, f"--config={TOKENIZER}:data={source}", f"--workdir={tmp_path}/run")
        assert part.format(**known) in line, line

    @pytest.mark.parametrize("end", ["", "/", "//"])
    def test_folders_that_are_right(self, end, pictures, tmp_path):
        """They get as far as the images, which are too few."""
        (line,) = refused(train, f"--config={TOKENIZER}:data=folder:{pictures}{end}", f"--workdir={tmp_path}/run")
        assert line.startswith(f"{pictures}") and line.endswith(TOO_FEW)

    def test_the_home_folder(self, pictures, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (line,) = refused(train, f"--config={TOKENIZER}:data=folder:~/{pictures.name}", "--workdir=~/run")
        assert line == f"{pictures} {TOO_FEW}" and not (tmp_path / "run").exists()
        (line,) = refused(train, f"--config={TOKENIZER}:runlocal", "--workdir=~/run", "--config.init_from=~/old")
        assert "~/old holds no checkpoint: there is no such folder" in line

    @pytest.mark.parametrize("name", ["a,b", "a=b", "a:b"])
    def test_characters_that_arguments_have(self, name, tmp_path):
        write_images(tmp_path / name)
        (line,) = refused(train, f"--config={TOKENIZER}:data=folder:{tmp_path / name}", f"--workdir={tmp_path}/run")
        assert ("A comma ends the value of data" if "," in name else f"{tmp_path / name} {TOO_FEW}") in line
        key = f"--config.data.source=folder:{tmp_path / name}"
        (line,) = refused(train, f"--config={TOKENIZER}", key, f"--workdir={tmp_path}/run")
        assert f"{tmp_path / name} has no split folders" in line
        assert "data.split=train[:90%] and data.eval_split=train[90%:] or, to evaluate a run on all images" in line

    def test_a_checkpoint_of_another_library(self, tmp_path):
        (tmp_path / "hf").mkdir()
        (tmp_path / "hf" / "model.safetensors").touch()
        start = f"--config.resume_from={tmp_path}/hf"  # `init_from` may name it
        (line,) = refused(train, f"--config={TOKENIZER}:runlocal", f"--workdir={tmp_path}/run", start)
        assert f"python -m beit_jax.convert {tmp_path}/hf runs/converted --to beit_jax" in line

    def test_a_folder_of_prepared_data_sets(self, tmp_path):
        command = [f"--config={TOKENIZER}:data=birds", f"--workdir={tmp_path}/run"]
        (line,) = refused(train, *command, f"--config.data.data_dir={tmp_path}/none")
        assert line.endswith("none is not there; expected the folder of prepared data sets")
        (tmp_path / "fish").mkdir()
        (line,) = refused(train, *command, f"--config.data.data_dir={tmp_path}")
        assert line.endswith("has no data set birds; found fish")


def test_unknown_flags_are_told_with_what_is_missing(tmp_path):
    flag, source, target = refused(convert, "./nowhere", str(tmp_path), "--to=hf", "--verfy")
    assert flag == "there is no flag --verfy; did you mean --verify?"
    assert source.startswith("./nowhere does not exist") and target.startswith(f"{tmp_path} exists")
    flag, *others = refused(convert, "./nowhere", "b", "--ot=hf")
    assert flag.endswith("did you mean --to?") and any(line.startswith("--to is missing") for line in others)
    (flag, *others) = refused(visualize, "attention", "--checkpoint=./no", "--image=no", "--out=o", "--pont=3")
    assert flag == "there is no flag --pont; did you mean --points?" and len(others) == 2


def test_a_run_that_does_not_exist_beside_others(tmp_path):
    (tmp_path / "tokenizer" / "checkpoints").mkdir(parents=True)
    (line,) = refused(convert, f"{tmp_path}/tokeniser", "out", "--to=hf")
    assert line == f"{tmp_path}/tokeniser does not exist; {tmp_path} has tokenizer"
