"""Files of tokens that are damaged, or belong to other tokens: one line names them before a batch is trained on."""

import io
import json
import shutil

import numpy as np
import pytest

from beit_jax.data.records.stored_tokens import StoredTokens
from beit_jax.errors import UserError

KEY = {"seed": 3, "parameters of the tokenizer": "a"}
BATCH, STEPS = 12, 5
IMAGES = np.full((BATCH, 8, 8, 3), 0.25, np.float32)
ROWS = np.arange(BATCH)


def store(folder, key=KEY, seed=0):
    stored = StoredTokens(folder, (4, 4), BATCH)
    stored.claim_folder(key)
    rows = np.zeros((STEPS, BATCH), stored.row)
    rows["tokens"] = np.random.default_rng(seed).integers(0, 32, (STEPS, BATCH, 16))
    rows["level"] = 0.25
    stored.write_steps(0, rows)
    return stored


def read(stored):
    """All steps, by a reader that has seen nothing before."""
    reader = StoredTokens(stored.folder, (4, 4), BATCH).reader(0, 0)
    return [reader(ROWS, IMAGES) for _ in range(STEPS)]


def archive(rows):
    file = io.BytesIO()
    np.savez(file, rows=rows)
    return file.getvalue()


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data, rows: data[:-1], r"it has .* bytes, expected 2,400 and a header"),
        (lambda data, rows: b"", r"it has 0 bytes, expected 2,400 and a header"),
        (lambda data, rows: data * 3, r"expected 2,400 and a header"),
        (lambda data, rows: saved(rows[:3]), r"expected 2,400 and a header"),
        (lambda data, rows: b"x" * len(data), r"cannot be read \("),
        (lambda data, rows: data[:10] + b"(" * 100 + data[110:], r"cannot be read \("),
        (lambda data, rows: saved(np.zeros((STEPS, BATCH, 20), np.uint16)), r"holds uint16 \[5, 12, 20\], expected "),
        (lambda data, rows: archive(rows), r"holds NpzFile, expected |expected 2,400"),
        (lambda data, rows: saved(np.array([{"a": 1}] * 700, object)), r"(Object arrays|expected 2,400)"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, message):
    stored = store(tmp_path)
    file = stored.path(0, STEPS)
    file.write_bytes(damage(file.read_bytes(), np.load(file)))
    with pytest.raises(UserError, match=rf"tokens-000000000-000000005.npy .*{message}.*; delete it, and run python -m"):
        read(stored)


def test_sizes_are_compared_before_a_run_starts(tmp_path):
    stored = store(tmp_path)
    stored.check_length(STEPS)
    file = stored.path(0, STEPS)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"expected 2,400 and a header\); delete it, and run python -m"):
        stored.check_length(STEPS)


@pytest.mark.parametrize(("field", "value"), [("tokens", 31), ("tokens", 60000), ("level", np.nan), ("level", 0.2501)])
def test_a_changed_value_is_noticed_at_its_step(tmp_path, field, value):
    stored = store(tmp_path)
    rows = np.load(stored.path(0, STEPS))
    rows[field][2, 7] = value
    np.save(stored.path(0, STEPS), rows)
    reader = stored.reader(0, 0)
    for step in range(2):
        np.testing.assert_array_equal(reader(ROWS, IMAGES).reshape(BATCH, 16), rows["tokens"][step])
    with pytest.raises(UserError, match=r"005.npy is damaged at step 2, or was written for another key.json"):
        reader(ROWS, IMAGES)


def test_zeros_of_a_file_that_was_not_written_completely(tmp_path):
    stored = store(tmp_path)
    data = bytearray(stored.path(0, STEPS).read_bytes())
    data[-2400:] = bytes(2400)
    stored.path(0, STEPS).write_bytes(data)
    with pytest.raises(UserError, match="is damaged at step 0"):
        stored.reader(0, 0)(ROWS, np.zeros_like(IMAGES))


def test_a_file_of_another_tokenizer(tmp_path):
    """The images, and so the levels, are the same."""
    one, other = store(tmp_path / "one"), store(tmp_path / "other", KEY | {"parameters of the tokenizer": "b"}, seed=1)
    assert not np.array_equal(read(one), read(other))
    shutil.copy(other.path(0, STEPS), one.path(0, STEPS))
    with pytest.raises(UserError, match=r"is damaged at step 0, or was written for another key\.json than"):
        read(one)


def test_a_file_that_is_cut_short_while_a_run_reads_it(tmp_path):
    """A file that is mapped into memory would end the process with SIGBUS."""
    stored = store(tmp_path)
    reader, expected = stored.reader(0, 0), read(stored)
    np.testing.assert_array_equal(reader(ROWS, IMAGES), expected[0])
    stored.path(0, STEPS).write_bytes(b"")
    np.testing.assert_array_equal([reader(ROWS, IMAGES) for _ in range(STEPS - 1)], expected[1:])


def test_a_folder_that_goes_away(tmp_path):
    stored = store(tmp_path / "tokens")
    (tmp_path / "tokens").rename(tmp_path / "gone")
    with pytest.raises(UserError, match=r"the tokens in .* cannot be read \(No such file or directory\); restore them"):
        stored.reader(0, 0)(ROWS, IMAGES)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, json.dumps({"seed": 3})])
def test_a_damaged_key(tmp_path, text):
    stored = store(tmp_path)
    (tmp_path / "key.json").write_text(text)
    message = r"parameters of the tokenizer is None there" if "seed" in text else r"key.json cannot be read .*; delete "
    with pytest.raises(UserError, match=message):
        stored.check_key(KEY)
