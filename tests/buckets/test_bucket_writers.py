"""Records and tokens written into a bucket and read from it: the same bytes as on a disk."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import command, refused
from distributed.runs import numbers
from same_data import counted, forget, retries, save_images, upload

from beit_jax import shard_dataset, tokenize_dataset, train
from beit_jax.data.records import shard_writer, stored_tokens
from beit_jax.data.records.stored_tokens import StoredTokens
from beit_jax.errors import UserError
from beit_jax.runtime import bucket

SHARDS = 4
pytestmark = pytest.mark.usefixtures("short_patience")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    save_images(
        root, *(f"{part}/{name}/{number:02}.jpg" for part in ("train", "val") for name in "ab" for number in range(12))
    )
    return root


def write(images, out, shards=SHARDS, worker=0, workers=1):
    return shard_writer.write_dataset(str(images), out, "photos", shards, worker, workers)


def contents(folder):
    """The bytes of every file of a data set."""
    return {path.name: path.read_bytes() for path in (folder / "photos" / "1.0.0").iterdir()}


@pytest.fixture(scope="module")
def expected(images, tmp_path_factory):
    """What is written on a disk; of the metadata, the path of the folder is no part."""
    out = tmp_path_factory.mktemp("records")
    assert write(images, out).missing == 0
    return contents(out)


def test_the_same_bytes_with_few_requests(images, folder, store, expected):
    with counted(store) as counts:
        assert write(images, folder)[1:] == ({"train": 24, "validation": 24}, 2 * SHARDS, 0)
    assert contents(folder) == expected
    uploads = sum(count for kind, count in counts.items() if kind.startswith("POST"))
    assert uploads == len(expected) and sum(counts.values()) < 4 * len(expected), counts


def test_workers_and_images_in_a_bucket(images, folder, store, expected):
    upload(images, folder / "photos")
    assert write(folder / "photos", folder / "out", worker=1, workers=3).missing == 5
    assert write(folder / "photos", folder / "out", worker=0, workers=3).missing == 2
    before = retries()
    store.failing = 0.2
    assert write(folder / "photos", folder / "out").missing == 0
    store.failing = 0
    assert retries() > before and contents(folder / "out") == expected
    with pytest.raises(UserError, match=r"was started with 4 shards of 'train', found 3 now"):
        write(folder / "photos", folder / "out", shards=3)
    (folder / "photos/train/a/00.jpg").write_bytes(b"other")
    forget()
    with pytest.raises(UserError, match=r"gs://.*/1.0.0 was started for other images: 'train' had 24 with"):
        write(folder / "photos", folder / "out")


def test_the_command(images, folder, capsys):
    shard_dataset.main([f"--images={images}", f"--out={folder}", "--name=photos", "--shards=1"])
    assert f"--config.data.source=photos --config.data.data_dir={folder} " in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images={images}", "--out=gs://nowhere/records"], "there is no bucket gs://nowhere"),
        (["--images=gs://beit/nothing", "--out=gs://beit/records"], "there is no folder gs://beit/nothing"),
        (["--images={images}", "--out=s3://beit/records"], "--out=s3://beit/records is a URL"),
        (["--images=gs://beit/sub", "--out=gs://beit/sub/records"], "lies in the folder of the images"),
    ],
)
def test_wrong_arguments(images, store, arguments, message):
    bucket.blob("gs://beit/sub/1.jpg").upload_from_string(b"x")
    arguments = [argument.format(images=images) for argument in arguments]
    assert message in refused([*arguments, "--name=photos"], shard_dataset)


def test_no_rights_to_write(images, folder, store):
    store.refusal = 403
    assert "this account has no right to do that" in refused(
        [f"--images={images}", f"--out={folder}", "--name=x"], shard_dataset
    )


@pytest.mark.slow
def test_killed_and_run_again(images, folder, store, expected):
    """Killed at many moments, some of them within an upload."""
    arguments = [
        sys.executable,
        "-m",
        "beit_jax.shard_dataset",
        f"--images={images}",
        f"--out={folder}",
        "--name=photos",
    ]
    arguments.append(f"--shards={SHARDS}")
    environment = os.environ | store.environment() | {"BEIT_JAX_BUCKET_PATIENCE": "60"}
    for uploads in (1, 4, 9):
        start = len(store.requests)
        process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and sum(r.method == "POST" for r in store.requests[start:]) <= uploads:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(arguments, env=environment).returncode == 0
    assert contents(folder) == expected


BATCH = 6


@pytest.fixture
def short_files(monkeypatch):
    monkeypatch.setattr(stored_tokens, "FILE_STEPS", 5)


def rows_of(stored, start, stop):
    random, rows = np.random.default_rng(start), np.zeros((stop - start, BATCH), stored.row)
    rows["tokens"] = random.integers(0, 100, rows["tokens"].shape)
    rows["level"] = 0.25
    return rows


def fill(folder, steps=12):
    stored = StoredTokens(folder, (2, 2), BATCH)
    stored.claim_folder({"seed": 3})
    for start, stop in stored.missing_ranges(stored.file_ranges(steps)):
        stored.write_steps(start, rows_of(stored, start, stop))
    return stored


def test_tokens_have_the_same_bytes(folder, tmp_path, store, short_files):
    fill(tmp_path)
    store.failing, before = 0.2, retries()
    stored = fill(folder)
    store.failing = 0
    assert retries() > before
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert fill(folder, steps=17).stored_ranges() == {0: 5, 5: 10, 10: 15, 15: 17}  # a longer run: the last file grew
    with counted(store) as counts:
        stored.check_length(15)
        read = stored.reader(3, 0)
        for step in range(3, 17):
            assert read(np.arange(BATCH), np.full((BATCH, 4, 4, 3), 0.25, np.float32)).shape == (BATCH, 2, 2), step
    tokens = sum(count for kind, count in counts.items() if "tokens" in kind and kind.startswith("GET"))
    assert tokens <= 2 * 4 and sum(counts.values()) < 4 * 5, counts  # no request for a step


def test_tokens_that_are_damaged_or_of_others(folder, store, short_files, monkeypatch):
    stored = fill(folder)
    with pytest.raises(
        UserError, match=r"the tokens in gs://.* are of another stream or tokenizer: seed is 3 there and 4"
    ):
        stored.claim_folder({"seed": 4})
    with pytest.raises(UserError, match="has tokens for the first 12 steps, expected the 20"):
        stored.check_length(20)
    path = stored.path(5, 10)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"tokens-000000005-000000010.npy cannot be read \(it has .* bytes, expected"):
        stored.check_length(12)
    with pytest.raises(UserError, match=r"cannot be read \(it has .* bytes, expected"):
        stored.read_steps(5, 10)
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match=r"npy is damaged at step 9"):
        stored.reader(9, 0)(np.arange(BATCH), np.full((BATCH, 4, 4, 3), 0.25, np.float32))
    with pytest.raises(UserError, match=r"there are no tokens in gs://.*/nothing; run python -m beit_jax.tokenize"):
        stored_tokens.check_folder(folder / "nothing")
    monkeypatch.setenv("BEIT_JAX_BUCKET_PATIENCE", "0.5")
    store.is_gone = True
    with pytest.raises(UserError, match=r"^gs://beit.*: the store did not do what it was asked within 0.5 s") as error:
        stored.reader(2, 0)(np.arange(BATCH), np.full((BATCH, 4, 4, 3), 0.25, np.float32))
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("in_the_checkout")
def test_a_run_on_data_and_tokens_in_a_bucket(folder, tmp_path, monkeypatch):
    """The numbers of a run are those of the same run on a disk, bit for bit."""
    monkeypatch.setenv("BEIT_JAX_CACHE", str(tmp_path / "cache"))
    short = ["--config.steps=8", "--config.log_every=1", "--config.eval_every=8"]
    found = []
    for number, root in enumerate((tmp_path, folder)):
        data = f"--config.data.data_dir={root}/sets"
        tokenize_dataset.main(["--config=configs/pretrain.py:runlocal", f"--out={root}/tokens", data, *short])
        workdir = tmp_path / f"run{number}"
        train.main(command("pretrain", workdir, data, f"--config.tokens={root}/tokens", *short))
        found.append(numbers(workdir))
    assert found[0] == found[1] and len(found[0]) >= 8
