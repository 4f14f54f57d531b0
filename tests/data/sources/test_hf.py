"""`hf:FOLDER`: Parquet and Arrow files, and tables of file names, as `datasets` of Hugging Face has them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoded_sets import (
    check_refused,
    check_same_on_resume_and_by_two_processes,
    number_of,
    png,
    section,
)

from beit_jax import config as configs
from beit_jax.config import class_names
from beit_jax.data import fingerprint, pipeline
from beit_jax.data.sources import data_sets, hf_columns

NAMES = ["owl", "wren", "tit", "jay", "kite", "crow"]


def table(rows, names=NAMES, labels=None, **columns):
    """Images with the value of their number, in the columns and with the metadata of `datasets`."""
    images = [{"bytes": png(number), "path": f"../../{number}.png"} for number in rows]
    labels = [number // 10 for number in rows] if labels is None else labels
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kinds = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    found = pa.table({"image": pa.array(images, kinds), "label": pa.array(labels), **columns})
    return found.replace_schema_metadata(metadata)


def write_parquet(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data, path, row_group_size=7)


def save_to_disk(folder, *tables):
    folder.mkdir(parents=True)
    names = [f"data-{index:05d}-of-{len(tables):05d}.arrow" for index in range(len(tables))]
    for name, data in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, data.schema) as writer:
            writer.write_table(data, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


def write_files(folder, rows, kind="jsonl", label=lambda number: number // 10):
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in rows:
        (folder / "images" / f"{number}.png").write_bytes(png(number))
        lines.append({"file_name": f"images/{number}.png", "label": label(number)})
    if kind == "jsonl":
        text = "\n".join(map(json.dumps, lines))
    else:
        text = "\n".join(["file_name,label", *(f"{line['file_name']},{line['label']}" for line in lines)])
    (folder / f"metadata.{kind}").write_text(text)


def write(folder, kind):
    """60 images in six classes of ten, in several files."""
    if kind == "parquet":
        for index in range(3):
            write_parquet(folder / f"{index}.parquet", table(range(20 * index, 20 * index + 20)))
    elif kind == "arrow":
        save_to_disk(folder, table(range(35)), table(range(60)).slice(35))
    elif kind == "classes":
        for number in range(60):
            (folder / str(number // 10)).mkdir(parents=True, exist_ok=True)
            (folder / str(number // 10) / f"{number}.png").write_bytes(png(number))
    else:
        write_files(folder, range(60), kind)
    return f"hf:{folder}"


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "csv", "classes"])
def test_images_have_their_labels(tmp_path, kind):
    examples = data_sets.select(write(tmp_path / "set", kind), "train")
    found = [number_of(examples.images.read(position)) for position in range(examples.count)]
    assert sorted(found) == list(range(60))
    assert examples.labels.tolist() == [number // 10 for number in found]


def test_a_stream_continues_bit_for_bit_and_processes_share_it(tmp_path):
    check_same_on_resume_and_by_two_processes(write(tmp_path / "set", "parquet"))


def check_splits(source, names, counts):
    config = configs.set_source(configs.defaults("classify"), source)
    assert (config.data.split, config.data.eval_split) == ("train", "test")
    data = section(source, split="train", eval_split="test")
    assert pipeline.classes(data, "test") == (len(counts), tuple(names))
    assert list(fingerprint.describe_split(data, "test")["classes"].values()) == counts
    examples = data_sets.select(source, "test")
    assert [number_of(examples.images.read(row)) // 10 for row in range(10)] == examples.labels.tolist()


def test_splits_and_names_of_classes(tmp_path):
    train, test = table(range(60)), table(range(10, 20))
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", train)
    write_parquet(tmp_path / "hub" / "data" / "test-00000-of-00001.parquet", test)
    check_splits(f"hf:{tmp_path / 'hub'}", NAMES, [0, 10, 0, 0, 0, 0])
    save_to_disk(tmp_path / "saved" / "train", train)
    save_to_disk(tmp_path / "saved" / "test", test)
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    check_splits(f"hf:{tmp_path / 'saved'}", NAMES, [0, 10, 0, 0, 0, 0])
    write_files(tmp_path / "files" / "train", range(20), "csv", lambda number: NAMES[number // 10])
    write_files(tmp_path / "files" / "test", range(10), "csv", lambda number: "owl")
    check_splits(f"hf:{tmp_path / 'files'}", ["owl", "wren"], [10, 0])


def test_numbers_in_place_of_names_are_none(tmp_path):
    write_parquet(tmp_path / "a.parquet", table(range(20), names=["0", "1", "2"]))
    examples = data_sets.select(f"hf:{tmp_path}", "train")
    assert (examples.class_names, examples.num_classes) == ((), 3)
    assert not class_names._are_numbers(("0", "1"), "hf:x") and class_names._are_numbers(("0", "1"), "mnist")


def test_parquet_is_unpacked_once_and_a_copy_is_no_change(tmp_path, monkeypatch):
    source = write(tmp_path / "set", "parquet")
    before = fingerprint.fingerprint(section(source))
    unpack, unpacked = hf_columns._unpack, []
    monkeypatch.setattr(hf_columns, "_unpack", lambda path, *more: unpacked.append(path) or unpack(path, *more))
    assert fingerprint.fingerprint(section(source)) == before and not unpacked
    (tmp_path / "set").rename(tmp_path / "moved")
    assert fingerprint.fingerprint(section(f"hf:{tmp_path / 'moved'}")) == before and len(unpacked) == 3
    write_parquet(tmp_path / "moved" / "1.parquet", table(range(20)))
    assert fingerprint.fingerprint(section(f"hf:{tmp_path / 'moved'}")) != before and len(unpacked) == 4


def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path, monkeypatch):
    source = write(tmp_path / "set", "parquet")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BEIT_JAX_CACHE", str(tmp_path / "file" / "cache"))
    check_refused(source, "cannot be unpacked into .* set the environment variable BEIT_JAX_CACHE")


def test_images_of_plain_bytes_without_metadata(tmp_path):
    rows = range(60)
    plain = pa.table({"img": [png(number) for number in rows], "label": [NAMES[number // 10] for number in rows]})
    write_parquet(tmp_path / "a.parquet", plain)
    examples = data_sets.select(f"hf:{tmp_path}", "train")
    assert examples.class_names == tuple(sorted(NAMES)) and examples.images.read(17) == png(17)
    assert examples.class_names[examples.labels[17]] == "wren"
    assert examples.images.name(17) == f"{tmp_path}/a.parquet[17]"


WRONG = [
    (pa.table({"text": ["a"]}), "has the columns text; expected one called 'image'"),
    (pa.table({"a": [b"a"], "b": [b"a"]}), r"several columns of bytes \(a, b\)"),
    (table(range(3), labels=[0, None, 1]), r"1 of the 3 images .* have no label, the first of them .*\[1\]"),
    (table(range(3), labels=[0.5, 0.1, 1.0]), "labels of type double; expected numbers from 0 on, or names"),
    (table(range(3), labels=[0, 1, 7]), "has the label 7; expected numbers from 0 to 5"),
    (table(range(3), labels=[-1, -1, -1], names=["a"]), "3 of the 3 images of 'train' have the label -1"),
    (table(range(0), labels=pa.array([], pa.int64())), "has no rows"),
    (pa.table({"image": [{"bytes": b"a"}, {"bytes": None}], "label": [0, 1]}), r"\[1\] has no bytes of an image"),
]


@pytest.mark.parametrize("data, message", WRONG, ids=[message[:24] for _, message in WRONG])
def test_wrong_tables_are_refused_in_one_line(tmp_path, data, message):
    write_parquet(tmp_path / "a.parquet", data)
    check_refused(f"hf:{tmp_path}", message)


def test_damaged_tables_are_refused_in_one_line(tmp_path):
    parquet, arrow = write(tmp_path / "parquet", "parquet"), write(tmp_path / "arrow", "arrow")
    for source, file in ((parquet, "parquet/1.parquet"), (arrow, "arrow/data-00001-of-00002.arrow")):
        whole = (tmp_path / file).read_bytes()
        for cut in (len(whole) - 8, len(whole) // 2, 3, 0):
            (tmp_path / file).write_bytes(whole[:cut])
            check_refused(source, "is damaged or cut short, or no table")
    (tmp_path / "arrow" / "data-00001-of-00002.arrow").unlink()
    check_refused(arrow, r"data-00001-of-00002\.arrow is missing, which state\.json names")
    compressed = pa.ipc.IpcWriteOptions(compression="zstd")
    data = table(range(20))
    with pa.ipc.new_stream(
        str(tmp_path / "arrow" / "data-00001-of-00002.arrow"), data.schema, options=compressed
    ) as out:
        out.write_table(data)
    check_refused(arrow, "is compressed; write it without compression, or as Parquet")


def test_no_name_leads_out_of_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png(1))
    save_to_disk(tmp_path / "set", table(range(20)))
    state = tmp_path / "set" / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "../secret.png"}]}))
    check_refused(f"hf:{tmp_path / 'set'}", r"state\.json names no files of its folder")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": [".."]}')
    check_refused(f"hf:{tmp_path / 'set'}", r"dataset_dict\.json names no splits")
    write_files(tmp_path / "files", range(20))
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        (tmp_path / "files" / "link.png").unlink(missing_ok=True)
        (tmp_path / "files" / "link.png").symlink_to(tmp_path / "secret.png")
        (tmp_path / "files" / "metadata.jsonl").write_text(json.dumps({"file_name": name, "label": 0}))
        check_refused(f"hf:{tmp_path / 'files'}", "which lies outside of the folder")


def test_wrong_folders_are_refused_in_one_line(tmp_path):
    check_refused(f"hf:{tmp_path}/none", "there is no folder")
    check_refused(f"hf:{tmp_path}", "holds no images")
    write_files(tmp_path / "files", range(20))
    for text, message in (
        ('{"image": "a.png"}', "has the columns image in row 1; expected 'file_name'"),
        ('{"file_name": "a.png"}', "names 'a.png', which is not there"),
        ('{"file_name": "images/1.png", "label": 1}\n{"file_name": "images/2.png"}', "1 of the 2 images"),
        ("{", "is damaged"),
        ("", "has no rows"),
    ):
        (tmp_path / "files" / "metadata.jsonl").write_text(text)
        check_refused(f"hf:{tmp_path / 'files'}", message)
    for name in "ab":
        write_parquet(tmp_path / "two" / name / "train.parquet", table(range(20)))
    check_refused(f"hf:{tmp_path / 'two'}", r"the split 'train' lie in .*a and .*b, as those of several data sets")
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "0.tar").write_bytes(b"")
    check_refused(f"hf:{tmp_path / 'tars'}", "give tars:")
    write_parquet(tmp_path / "mixed" / "a.parquet", table(range(20)))
    write_parquet(tmp_path / "mixed" / "b.parquet", table(range(20), names=["a", "b"]))
    check_refused(f"hf:{tmp_path / 'mixed'}", "have other columns or names of classes")


def test_arrow_files_take_no_memory(tmp_path):
    """100 MB of images are mapped, and read one by one."""
    row = table([0])
    big = pa.array([{"bytes": bytes(2**20), "path": ""}], row.schema.field("image").type)
    save_to_disk(tmp_path / "set", pa.concat_tables([row.set_column(0, "image", big)] * 100))
    before = _private_mebibytes()
    images = data_sets.select(f"hf:{tmp_path / 'set'}", "train").images
    assert np.all(images.sizes == 2**20) and len(images.read(99)) == 2**20
    assert _private_mebibytes() - before < 50


def _private_mebibytes():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("RssAnon"))
