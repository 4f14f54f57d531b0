"""Wrong arguments of `shard_dataset`: one line each, and nothing is written."""

import subprocess
import sys

import pytest
from commands import refused

from beit_jax import shard_dataset


def write_images(folder, classes):
    """An image in a folder of each class."""
    for name in classes:
        (folder / name).mkdir(parents=True)
        (folder / name / "0.jpg").write_bytes(b"image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images=nowhere", "--out=out"], "there is no folder nowhere"),
        (["--images=empty", "--out=out"], "empty holds no images"),
        (["--images=images"], "--out"),
        (["--images=images", "--out=images/out"], "--out=images/out lies in the folder of the images"),
        (["--images=records/photos", "--out=records"], "--out=records/photos lies in the folder of the images"),
        (["--images=images", "--out=file"], "cannot write file/images/1.0.0: Not a directory; choose another --out"),
        (["--images=images", "--out=taken"], "taken/images/1.0.0 has other files than shards"),
        (["--images=images", "--out=s3://bucket"], "is a URL"),
        (["--images=images", "--out=out", "--worker=2/2"], "found --worker=2/2, expected I/N with I from 0 to N - 1"),
        (["--images=images", "--out=out", "--name=mnist"], "mnist is the name of another data set"),
        (["--images=images", "--out=out", "--name=1st/photos"], "found the name '1st/photos'"),
        (["--images=Фото", "--out=out"], "the folder 'Фото' gives the data set no name"),
        (["--images=café 1", "--out=out"], "the folder 'café 1' gives the data set no name"),
        (["--images=1st", "--out=out"], "the folder '1st' gives the data set no name"),
        (["--images=mixed", "--out=out"], "beside the folder other/ with images, too"),
        (["--images=apart", "--out=out"], "the class folders of validation and test in apart differ"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", "ab")
    for folder in ("empty", "taken/images/1.0.0/mine", "apart"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").touch()
    for folder in ("records/photos", "Фото", "café 1", "1st", "mixed/train", "mixed/other"):
        write_images(tmp_path / folder, "ab")
    for split, classes in (("val", "ab"), ("test", "a")):
        write_images(tmp_path / "apart" / split, classes)
    assert message in refused(arguments, shard_dataset)
    assert not (tmp_path / "out").exists()


def test_the_name_that_follows_from_the_folder_is_told(tmp_path, capsys):
    write_images(tmp_path / "My Photos-2 (new)", "ab")
    shard_dataset.main([f"--images={tmp_path}/My Photos-2 (new)", f"--out={tmp_path}/out"])
    assert (tmp_path / "out" / "my_photos_2_new" / "1.0.0" / "features.json").is_file()
    assert "for the data set my_photos_2_new\n" in capsys.readouterr().out


def test_one_line_for_each_mistake_on_the_command_line(tmp_path):
    arguments = [sys.executable, "-m", "beit_jax.shard_dataset", "--images=x", "--out=y", "--worker=1/1"]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 3)
    first, folder, worker = done.stderr.splitlines()
    assert first == "error: 2 things are wrong:" and folder.startswith("  there is no folder x")
    assert worker.startswith("  found --worker=1/1")
