"""What is read below a folder, and how what is not is told."""

import json
import os

import pytest

from beit_jax.data.sources.folder import list_folder
from beit_jax.data.sources.folder_checks import check_classes
from beit_jax.data.sources.image_files import find_images
from beit_jax.data.sources.image_walk import ImageWalk, holds_images
from beit_jax.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def read(root):
    return sorted(os.path.relpath(path, root) for path in list_folder(str(root), "train").paths)


HIDDEN = (
    *("a/.ipynb_checkpoints/1.png", "a/.Trash/2.png", "b/@eaDir/3.png", "b/.thumbnails/4.png", "a/__MACOSX/5.png"),
    *("$RECYCLE.BIN/6.png", "a/._1.jpg", "a/.hidden.png", "b/System Volume Information/7.png"),
)


def test_hidden_files_and_folders_of_systems_are_not_read(tmp_path, caplog):
    touch(tmp_path, "a/1.jpg", "b/2.jpg", "a/.DS_Store", "b/Thumbs.db", *HIDDEN)
    assert read(tmp_path) == ["a/1.jpg", "b/2.jpg"]
    check_classes(str(tmp_path), "train")
    (record,) = caplog.records
    for name in ("$RECYCLE.BIN", ".ipynb_checkpoints", ".Trash", ".*.jpg", ".*.png", "@eaDir", "__MACOSX"):
        assert f"1 {name}" in record.getMessage()
    assert "DS_Store" not in caplog.text and "Thumbs" not in caplog.text
    assert [file.name for file in find_images([str(tmp_path)])] == ["a/1.jpg", "b/2.jpg"]


def test_kinds_of_files(tmp_path, caplog):
    """The extensions of JPEG files are read; tables and texts beside images are nothing to tell."""
    touch(tmp_path, "a/1.JFIF", "a/2.jpe", "b/3.webp", "a/4.txt", "a/5.json", "b/LICENSE", "b/x.csv", "b/y.XML")
    assert read(tmp_path) == ["a/1.JFIF", "a/2.jpe", "b/3.webp"]
    assert not caplog.records
    touch(tmp_path, "b/6.zip", "b/7", "b/8.tif", "b/9.TIF")
    read(tmp_path)
    assert "4 files that are no images by the extension (2 .tif, 1 without extension, 1 .zip;" in caplog.text


def test_links_are_followed_once(tmp_path, caplog):
    """To other disks, but neither in a circle nor twice; real folders come first."""
    touch(tmp_path / "data", "a/1.png", "b/2.png", "b/deep/3.png")
    touch(tmp_path, "other/4.png")
    (tmp_path / "data" / "a" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "a" / "again").symlink_to(tmp_path / "data" / "b")
    (tmp_path / "data" / "b" / "deep" / "self").symlink_to(".")
    assert read(tmp_path / "data") == ["a/1.png", "a/more/4.png", "b/2.png", "b/deep/3.png"]
    for name in ("a/up", "a/again", "b/deep/self"):
        assert f"{tmp_path}/data/{name}" in caplog.text
    assert "a/more" not in caplog.text
    (tmp_path / "data" / "c").symlink_to(tmp_path / "data" / "b")
    with pytest.raises(UserError, match=r"the class folders .*data/b and .*data/c are one folder"):
        check_classes(str(tmp_path / "data"), "train")


def test_links_in_a_circle_without_images(tmp_path):
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").symlink_to(tmp_path / other)
        (tmp_path / name / "y").symlink_to(tmp_path / other)
    assert not holds_images(tmp_path)


@pytest.mark.parametrize("config", [{"task": "classify", "data": {}, "optimizer": {}}, {"stages": ["x"], "x": {}}])
def test_runs_are_no_classes(tmp_path, caplog, config):
    touch(tmp_path, "a/1.png", "b/2.png", "old/pictures/x.png", "a/inner/pictures/y.png")
    for run in ("old", "a/inner"):
        (tmp_path / run / "config.json").write_text(json.dumps(config))
    assert read(tmp_path) == ["a/1.png", "b/2.png"]
    check_classes(str(tmp_path), "train")
    assert f"folders of runs ({tmp_path}/a/inner, {tmp_path}/old)" in caplog.text
    with pytest.raises(UserError, match="old is the folder of a run, whose pictures are no data"):
        list_folder(str(tmp_path / "old"), "train")


def test_a_config_of_another_program_does_not_matter(tmp_path):
    touch(tmp_path, "a/1.png", "b/2.png")
    for text in ('{"model_type": "vit"}', "[1]", "no JSON", '{"stages": 3}'):
        (tmp_path / "a" / "config.json").write_text(text)
        assert read(tmp_path) == ["a/1.png", "b/2.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"the folder .*/b cannot be read: Permission denied"):
        read(tmp_path)


def test_what_is_no_file_is_skipped_by_name(tmp_path, caplog):
    """Reading a pipe would wait for ever; a broken link is a file that cannot be read."""
    (tmp_path / "a.png").write_bytes(b"a")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to(os.devnull)
    (tmp_path / "broken.png").symlink_to(tmp_path / "missing.png")
    (tmp_path / "endless.png").symlink_to(tmp_path / "endless.png")
    walk = ImageWalk()
    found = sorted(os.path.basename(path) for _, path in walk.images([tmp_path]))
    assert found == ["a.png", "broken.png", "endless.png"]
    walk.skipped.warn(tmp_path)
    names = ", ".join(f"{tmp_path}/{name}" for name in ("link.png", "null.png", "pipe.png"))
    assert f"pipes, sockets and devices ({names})" in caplog.text


def test_control_characters_of_names_are_shown(tmp_path, caplog):
    folder = tmp_path / "red\x1b[31m"
    folder.mkdir()
    (folder / "a.weird\x07").write_bytes(b"a")
    walk = ImageWalk()
    list(walk.images([folder]))
    walk.skipped.warn(folder)
    assert "\x1b" not in caplog.text and "\x07" not in caplog.text and r"red\x1b[31m" in caplog.text
