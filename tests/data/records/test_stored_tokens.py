"""Files of tokens, and streams that read them instead of making the tokenizer's view."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from beit_jax.data import pipeline
from beit_jax.data.fingerprint import fingerprint
from beit_jax.data.records import stored_tokens
from beit_jax.data.records.stored_tokens import StoredTokens, mean_level
from beit_jax.errors import UserError

OPS = "decode|flip_lr|two_views(12, 8)|normalize|map_pixels|blockwise_mask(5, 2, 4)"
KEY = {"seed": 3, "data.ops": OPS, "image size of the tokenizer": (16, 32)}
BATCH, STEPS = 12, 13


@pytest.fixture(autouse=True)
def short_files(monkeypatch):
    """Five steps a file: the tests have several files, and several epochs in them."""
    monkeypatch.setattr(stored_tokens, "FILE_STEPS", 5)


def tokens_of(views):
    """A tokenizer that can be computed by hand: tokens `[b, g * g]` from the pixels of 2x2 squares."""
    squares = views.reshape(len(views), 4, 2, 4, 2, 3).sum(axis=(2, 4, 5))
    return np.rint(squares * 5000).astype(np.int32).reshape(len(views), 16)


def stream(config, start=0, index=0, count=1, tokens=None):
    return pipeline.make_train(
        config, seed=3, batch_size=BATCH, start_step=start, process_index=index, process_count=count, tokens=tokens
    )


def store(folder, config, steps=STEPS):
    stored = StoredTokens(folder, (4, 4), BATCH)
    stored.claim_folder(KEY)
    batches = stream(config)
    for start, stop in stored.file_ranges(steps):
        rows = np.empty((stop - start, BATCH), stored.row)
        for row, batch in zip(rows, batches):
            row["tokens"], row["level"] = tokens_of(batch["tokenizer_image"]), mean_level(batch["image"])
        stored.write_steps(start, rows)
    return stored


@pytest.fixture(params=["folder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("sharded", "repeated"))])
def config(request, data_config, class_folder, sharded_dir):
    if request.param == "sharded":
        return data_config(data_dir=sharded_dir, split="train[18%:23%]", ops=OPS, shuffle_buffer=40)
    return data_config(source=f"folder:{class_folder}", ops=OPS, repeats=2 if request.param == "repeated" else 1)


def test_every_image_gets_its_own_tokens(config, tmp_path):
    stored = store(tmp_path, config)
    assert np.load(stored.path(0, 5))["tokens"].dtype == np.uint16
    batches = list(itertools.islice(stream(config), STEPS))
    for start, count in ((0, 1), (7, 2)):
        parts = [stream(config, start, index, count, stored) for index in range(count)]
        for expected in batches[start:]:
            found = [next(part) for part in parts]
            found = {name: np.concatenate([rows[name] for rows in found]) for name in found[0]}
            assert found.keys() == {"image", "label", "mask", "tokens"}
            np.testing.assert_array_equal(found["image"], expected["image"])
            np.testing.assert_array_equal(found["mask"], expected["mask"])
            assert found["tokens"].shape == (BATCH, 4, 4) and found["tokens"].dtype == np.int32
            np.testing.assert_array_equal(found["tokens"].reshape(BATCH, 16), tokens_of(expected["tokenizer_image"]))
        with pytest.raises(UserError, match=r"has no tokens for step 13; run python -m beit_jax.tokenize_dataset with"):
            next(parts[0])


@pytest.mark.slow
def test_images_that_replace_unreadable_ones_bring_their_tokens(class_folder, tmp_path, data_config):
    images = tmp_path / "images"
    shutil.copytree(class_folder, images)
    for path in sorted(images.rglob("*.jpg"))[::2]:
        path.write_bytes(b"no image")
    config = data_config(source=f"folder:{images}", ops=OPS, max_bad_fraction=0.9)
    stored, replaced = store(tmp_path / "tokens", config), 0
    for index in range(2):
        plain, given = stream(config, 0, index, 2), stream(config, 0, index, 2, stored)
        for step in range(STEPS):
            expected, found = next(plain), next(given)
            right = tokens_of(expected["tokenizer_image"])
            np.testing.assert_array_equal(found["tokens"].reshape(-1, 16), right)
            # Another image replaces an unreadable one in the first row here than in a batch of one process.
            of_one_process = stored.read_steps(step // 5 * 5, min(step // 5 * 5 + 5, STEPS))[step % 5]["tokens"]
            replaced += int((of_one_process[6 * index : 6 * index + 6] != right).any(axis=1).sum())
    assert replaced


@pytest.mark.slow
def test_other_images_are_noticed(class_folder, tmp_path, data_config):
    images = tmp_path / "images"
    shutil.copytree(class_folder, images)
    config = data_config(source=f"folder:{images}", ops=OPS)
    stored = store(tmp_path / "tokens", config)
    with pytest.raises(UserError, match=r"step 4 in .* computed for other images \(1[0-2] of the 12 here differ\)"):
        pipeline.make_train(config, seed=4, batch_size=BATCH, start_step=4, tokens=stored).__next__()
    changed = images / "bee" / "03.jpg"
    before = fingerprint(config)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(changed)
    assert fingerprint(config) != before
    given = stream(config, 0, tokens=stored)
    with pytest.raises(UserError, match=r"were computed for other images \(1 of the 12 here differ\)"):
        for _ in range(5):
            next(given)


def test_a_fingerprint_is_that_of_names_and_sizes(class_folder, sharded_dir, tmp_path, data_config):
    shutil.copytree(class_folder, tmp_path / "copy")
    one, other = (data_config(source=f"folder:{folder}") for folder in (class_folder, tmp_path / "copy"))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(data_config(source=f"folder:{class_folder}", split="train[:90%]")) != fingerprint(one)
    (tmp_path / "copy" / "ant" / "01.jpg").rename(tmp_path / "copy" / "ant" / "1.jpg")
    assert fingerprint(one) != fingerprint(other)
    link = tmp_path / "copy" / "ant" / "nowhere.jpg"
    link.symlink_to(tmp_path / "nowhere")  # which training replaces
    assert len(fingerprint(other)) == 32
    shutil.copytree(sharded_dir, tmp_path / "records")
    one, other = (data_config(data_dir=str(folder)) for folder in (sharded_dir, tmp_path / "records"))
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(data_config(data_dir=sharded_dir, split="train[:50%]")) != fingerprint(one)


def test_pairs_are_known_by_their_images(tmp_path, data_config):
    for kind, extension in (("images", "jpg"), ("annotations", "png")):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / kind / f"1.{extension}")
    config = data_config(source=f"folder:{tmp_path}")
    before = fingerprint(config)
    Image.fromarray(np.ones((50, 50), np.uint8)).save(tmp_path / "annotations" / "1.png")
    assert fingerprint(config) == before
    Image.fromarray(np.ones((50, 50), np.uint8)).save(tmp_path / "images" / "1.jpg")
    assert fingerprint(config) != before


def test_a_longer_run_adds_to_the_files(tmp_path):
    stored = StoredTokens(tmp_path, (4, 4), BATCH)
    stored.claim_folder(KEY)
    rows = np.zeros((10, BATCH), stored.row)
    stored.write_steps(0, rows[:5])
    stored.write_steps(5, rows[:2])
    stored.check_length(7)
    with pytest.raises(UserError, match=r"tokens for the first 7 steps, expected the 8 of the run; run "):
        stored.check_length(8)
    assert stored.file_ranges(12) == [(0, 5), (5, 10), (10, 12)] and stored.missing_ranges(stored.file_ranges(12)) == [
        (5, 10),
        (10, 12),
    ]
    stored.write_steps(10, rows[:2])
    with pytest.raises(UserError, match="tokens for the first 7 steps"):
        stored.check_length(12)
    left = tmp_path / f"{stored.path(5, 10).name}.part-1234"
    left.write_bytes(b"by a process that was killed")
    stored.write_steps(5, rows[:5])
    stored.check_length(12)
    assert stored.stored_ranges() == {0: 5, 5: 10, 10: 12}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "key.json",
        "tokens-000000000-000000005.npy",
        "tokens-000000005-000000010.npy",
        "tokens-000000010-000000012.npy",
    ]


def test_differences_are_named(tmp_path):
    stored = StoredTokens(tmp_path / "tokens", (4, 4), BATCH)
    with pytest.raises(UserError, match=r"there are no tokens in .*tokens; run python -m beit_jax.tokenize_dataset"):
        stored.check_key(KEY)
    stored.claim_folder(KEY)
    stored.claim_folder(KEY)
    with pytest.raises(UserError, match=r"another stream or tokenizer: seed is 3 there and 4 now; use their settings"):
        stored.claim_folder(KEY | {"seed": 4})
    with pytest.raises(UserError, match=r"seed is 3 there and 4 now \(and 1 more differ\)"):
        stored.check_key({"seed": 4, "epochs": 1})
    (tmp_path / "tokens" / "key.json").write_text("{")
    with pytest.raises(UserError, match=r"key.json cannot be read .* delete "):
        stored.check_key(KEY)
    with pytest.raises(UserError, match=r"cannot write .*; choose another --out"):
        StoredTokens(tmp_path / "tokens" / "key.json", (4, 4), BATCH).claim_folder(KEY)
