"""`tars:PATTERN`: tar files of images and labels, as WebDataset writes them, through the pipeline and its checks."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from encoded_sets import (
    check_every_image_once,
    check_refused,
    check_same_on_resume_and_by_two_processes,
    first,
    numbers,
    png,
    section,
)

from beit_jax import config as configs
from beit_jax import local_files, own_images
from beit_jax.data import fingerprint, pipeline
from beit_jax.data.sources import data_sets, tar_index
from beit_jax.errors import UserError


def sample(number, label=None, as_json=None):
    members = {f"{number:04d}.png": png(number)}
    if label is not None:
        members[f"{number:04d}.cls"] = str(label).encode()
    if as_json is not None:
        members[f"{number:04d}.json"] = json.dumps(as_json).encode()
    return members


def write_tar(path, *samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in (item for members in samples for item in members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path):
    """60 images in three tar files, in six classes of ten."""
    for shard in range(3):
        numbers = range(20 * shard, 20 * shard + 20)
        write_tar(tmp_path / "shards" / f"{shard:03d}.tar", *(sample(number, number // 10) for number in numbers))
    return tmp_path / "shards"


def test_every_image_once_with_its_label(shards):
    check_every_image_once(f"tars:{shards}")


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_stream_continues_bit_for_bit_and_processes_share_it(shards, repeats):
    source = f"tars:{shards}/{{000..002}}.tar"
    check_same_on_resume_and_by_two_processes(source, repeats=repeats)
    parts = [
        next(iter(pipeline.make_eval(section(source), batch_size=6, process_index=index, process_count=2)))["image"]
        for index in range(2)
    ]
    assert len(np.unique(np.concatenate(parts)[:, 0, 0, 0])) == 6


def test_splits_by_name_and_names_of_classes(tmp_path):
    write_tar(
        tmp_path / "birds-train-0.tar", *(sample(n, as_json=dict(label="wren" if n % 2 else "owl")) for n in range(20))
    )
    write_tar(tmp_path / "birds-val-0.tar", *(sample(n, "wren") for n in range(20, 24)))
    source = f"tars:{tmp_path}"
    config = configs.set_source(configs.defaults("classify"), source)
    assert (config.data.split, config.data.eval_split) == ("train", "validation")
    local_files.check_data(config)
    data = section(source, split="train", eval_split="validation", labels="2 per class")
    assert pipeline.classes(data, "validation") == (2, ("owl", "wren"))
    assert fingerprint.describe_split(data, "validation")["classes"] == dict(owl=0, wren=4)
    assert sorted(first(pipeline.make_train(data, seed=0, batch_size=4), 1)[0]["label"]) == [0, 0, 1, 1]
    assert own_images.look_at(source)[:5] == ("train", "validation", 20, 4, ("owl", "wren"))
    write_tar(tmp_path / "birds-val-0.tar", *(sample(n, "crow") for n in range(20, 24)))
    check_refused(source, "has the label 'crow', which is no class", "validation")


def test_numbers_have_names_in_a_file_beside_the_tars(shards):
    (shards / "classnames.txt").write_text("\n".join("abcdef"))
    assert data_sets.select(f"tars:{shards}", "train").class_names == tuple("abcdef")
    (shards / "classnames.txt").write_text("a\nb\n")
    check_refused(f"tars:{shards}", "has the label 5; expected numbers from 0 to 1")


def test_headers_are_read_once(shards, monkeypatch):
    before = fingerprint.fingerprint(section(f"tars:{shards}"))
    read, reads = tar_index._read, []
    monkeypatch.setattr(tar_index, "_read", lambda path: reads.append(path) or read(path))
    assert fingerprint.fingerprint(section(f"tars:{shards}")) == before and not reads
    write_tar(shards / "001.tar", *(sample(number, 0) for number in range(20)))
    assert fingerprint.fingerprint(section(f"tars:{shards}")) != before
    assert reads == [str(shards / "001.tar")]


def test_a_copy_is_no_change(shards, tmp_path):
    copy = tmp_path / "elsewhere"
    shards.rename(copy)
    moved = fingerprint.fingerprint(section(f"tars:{copy}"))
    copy.rename(shards)
    assert fingerprint.fingerprint(section(f"tars:{shards}")) == moved


def test_an_image_that_is_damaged_is_replaced_and_named(shards):
    write_tar(shards / "003.tar", {"9.jpg": b"no image", "9.cls": b"0"})
    data = section(f"tars:{shards}", split="train", eval_split="train", max_bad_fraction=0.5)
    evaluated = pipeline.make_eval(data, batch_size=61)
    assert sum(batch["valid"].sum() for batch in evaluated) == 60
    with pytest.raises(UserError, match=r"003\.tar/9\.jpg"):
        list(pipeline.make_eval(section(f"tars:{shards}", eval_split="train"), batch_size=61))


def test_names_in_an_archive_are_no_paths(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(png(1))
    names = ("../outside.png", str(outside), "a/../../b.png", "\x1b[31m.png")
    write_tar(tmp_path / "in" / "0.tar", *({name: png(40)} for name in names))
    with tarfile.open(tmp_path / "in" / "0.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
    data = section(f"tars:{tmp_path / 'in'}", split="train", eval_split="train")
    assert numbers(pipeline.make_eval(data, batch_size=4)) == [[40] * 4]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.tar", "in", "outside.png"]


WRONG = [
    ([{"a.txt": b"x", "a.001.jpg": b"x"}], r"holds no images; found the extensions 001\.jpg, txt, expected KEY\.jpg"),
    ([sample(0, 0), sample(1), sample(2)], r"2 of the 3 images .* have no label, .*0\.tar/0001\.png; add KEY\.cls"),
    ([sample(0), sample(1)], "have no labels; give them labels"),
    ([sample(0, 0), sample(1, "")], r"0001\.cls holds ''; expected the number or the name"),
    ([sample(0, as_json=dict(label=[1]))], r"0000\.json has the label \[1\]"),
    ([{"0.png": png(0), "0.json": b"{"}], r"0\.json is no JSON"),
    ([{"0.png": png(0), "0.jpg": png(0)}], r"two images 0\.png and 0\.jpg"),
    ([sample(0, "x" * 2000)], r"has 2,000 bytes; expected at most 1,024"),
]


@pytest.mark.parametrize("samples, message", WRONG, ids=[message[:24] for _, message in WRONG])
def test_wrong_archives_are_refused_in_one_line(tmp_path, samples, message):
    write_tar(tmp_path / "in" / "0.tar", *samples)
    check_refused(f"tars:{tmp_path / 'in'}", message)


def test_damaged_archives_are_refused_in_one_line(shards):
    file, source = shards / "000.tar", f"tars:{shards}"
    whole = file.read_bytes()
    with tarfile.open(file) as tar:
        ends = [member.offset_data + 512 * -(-member.size // 512) for member in tar]
    wrong = bytearray(whole)
    wrong[ends[3] + 150] ^= 255  # of the checksum of a header
    cases = (
        (whole[: ends[5]], "cut short: it has no end mark"),
        (whole[: ends[4] + 100], "cut short"),
        (whole[: ends[4] + 520], "cut short"),
        (bytes(wrong), "is damaged: found no header at byte"),
        (whole + whole, "goes on behind its end"),
        (b"", "is no tar file"),
        (b"text" * 1000, "is no tar file"),
        (gzip.compress(whole), r"is compressed \(gzip\).* decompress it once"),
    )
    for content, message in cases:
        file.write_bytes(content)
        check_refused(source, message)


def test_wrong_paths_and_names_are_refused(shards, tmp_path):
    check_refused("tars:", "names no path; expected tars:")
    check_refused(f"tars:{tmp_path}/none", "there is no file")
    check_refused(f"tars:{shards}/{{000..003}}.tar", r"there is no file .*003\.tar")
    (tmp_path / "empty").mkdir()
    check_refused(f"tars:{tmp_path}/empty", r"holds no \.tar files")
    (shards / "000.tar").rename(shards / "train-000.tar")
    check_refused(f"tars:{shards}", r"001\.tar has no split in its name")
    (shards / "train-000.tar").rename(shards / "train-test.tar")
    check_refused(f"tars:{shards}", "has the words of the splits test and train")
