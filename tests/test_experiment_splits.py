"""A run does not score images that it learns: it is refused before anything is written."""

import re
import shutil

import pytest
from commands import command, refused

from beit_jax import train
from beit_jax.data.fingerprint import describe_change, describe_split
from beit_jax.experiment_splits import changed_since, describe_splits

pytestmark = pytest.mark.usefixtures("in_the_checkout")
DIGITS = ["--config.data.source=digits"]


@pytest.mark.parametrize("task", ["tokenizer", "pretrain", "finetune", "probe"])
def test_a_run_that_would_be_scored_on_what_it_learns(tmp_path, task):
    start = ["--config.tokenizer.init_from=random"] if task == "pretrain" else []
    splits = ["--config.data.split=train", "--config.data.eval_split=train[90%:]"]
    message = refused(command(task, tmp_path / "run", *DIGITS, *start, *splits))
    assert "data.split=train and data.eval_split=train[90%:] of digits have 144 images in common" in message
    advice = "such as data.split=train[:90%] and data.eval_split=train[90%:]"
    assert advice in message and "beit_jax.evaluate scores a run on any split" in message
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_advice_can_be_followed_with_a_stage_of_a_recipe(tmp_path):
    overrides = ["--config.from_beit_seed0.data.eval_split=train[90%:]"]
    message = refused(["--config=configs/quickstart.py", f"--workdir={tmp_path}/run", *overrides])
    assert message.startswith("stage from_beit_seed0: data.split=train and data.eval_split=train[90%:]")
    assert not (tmp_path / "run").exists()


def test_neighbours_do_not_vote_for_themselves():
    from tiny import config as tiny
    from tiny import experiment

    from beit_jax.errors import UserError

    config = tiny("probe")
    ops = "decode|resize(16)|normalize|keep('image', 'label')"
    config.data.update(dict(source="digits", split="train", eval_split="train[:9]", ops=ops, eval_ops=ops))
    config.evals.kinds = ("knn", "rankme")
    with pytest.raises(
        UserError, match=r"have 9 images in common, which would be learned and scored by knn of evals\.kinds"
    ):
        _ = experiment(config).data.evaluations


def test_what_changed_in_words():
    def split(images, digest="a", **classes):
        return {"images": images, "classes": classes, "hash": digest}

    for before, now, words in (
        (split(3, a=1, b=2), split(3, a=1, b=2), ""),
        (split(3, a=1, b=2), split(2, "b", a=1, b=1), "3 images then and 2 now, 'b' 2 then and 1 now"),
        (split(3, a=1, b=2), split(3, "b", a=1, c=2), "class 'c' new, class 'b' missing"),
        (split(3, a=1, b=2), split(3, "b", b=2, a=1), "the classes are in another order"),
        (split(3), split(3, "b"), "as many images, but files of other names or sizes"),
        (
            split(7, **dict.fromkeys("abcdefg", 1)),
            split(14, **dict.fromkeys("abcdefg", 2)),
            "7 images then and 14 now, " + "".join(f"{name!r} 1 then and 2 now, " for name in "abcde") + "...",
        ),
    ):
        assert describe_change(before, now) == words


def test_a_change_of_records_and_of_label_maps(tmp_path):
    from types import SimpleNamespace

    import numpy as np
    from PIL import Image

    for name in ("images", "annotations"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "scenes" / name / "a.png")
    config = SimpleNamespace(source=f"folder:{tmp_path}/scenes", data_dir="")
    before = describe_split(config, "train")
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "scenes" / "annotations" / "a.png")
    after = describe_split(config, "train")
    assert describe_change(before, after) == "as many images, but files of other names or sizes"
    assert (before["images"], before["classes"]) == (1, {})
    digits = SimpleNamespace(source="digits", data_dir="")
    one, part = (describe_split(digits, split) for split in ("train", "train[:90%]"))
    assert one["classes"].keys() == set("0123456789") and one["images"] == 1438
    assert describe_change(one, one) == "" and re.match("1438 images then and 1294 now", describe_change(one, part))


def test_what_changed_since_a_run_ended(tmp_path):
    """A finished run is skipped with a warning, and `evaluate` warns of the split that it reads."""
    import json

    import numpy as np
    from PIL import Image
    from tiny import config as tiny

    for split in ("train", "validation"):
        for name in "ab":
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photos" / split / name / "0.png")
    data = tiny("classify").data
    data.update(dict(source=f"folder:{tmp_path}/photos", split="train", eval_split="validation"))
    assert changed_since(data, tmp_path) == ""  # it is not known what they were
    (tmp_path / "data.json").write_text(json.dumps(describe_splits(data)))
    assert changed_since(data, tmp_path) == ""
    shutil.copy(tmp_path / "photos" / "train" / "a" / "0.png", tmp_path / "photos" / "train" / "a" / "1.png")
    assert changed_since(data, tmp_path) == "data.split=train: 2 images then and 3 now, 'a' 1 then and 2 now"
    assert changed_since(data, tmp_path, ["eval_split"]) == ""
    shutil.rmtree(tmp_path / "photos" / "validation" / "b")
    assert changed_since(data, tmp_path, ["eval_split"]).startswith(
        "data.eval_split=validation: 2 images then and 1 now"
    )
    (tmp_path / "photos").rename(tmp_path / "gone")
    assert "there is no folder" in changed_since(data, tmp_path)


def test_imagenet_22k_is_prepared_by_hand(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    message = refused(["--config=configs/finetune.py:recipe=22k", f"--workdir={tmp_path}/run"], train)
    assert "tensorflow-datasets cannot prepare it" in message
    assert f"beit_jax.shard_dataset --images PATH --out {tmp_path}/tfds --name imagenet21k" in message


@pytest.mark.parametrize(("names", "refused"), [(("a", "b"), ""), (("b", "c"), "class folder 'c' is new")])
def test_neighbours_in_a_pretraining_have_classes_by_name(tmp_path, names, refused):
    """Without a folder `train` each split numbers its own classes; a config of pre-training has no names of them."""
    import numpy as np
    from PIL import Image
    from tiny import config as tiny
    from tiny import experiment

    from beit_jax.errors import UserError

    for split, classes in (("validation", ("a", "b")), ("test", names)):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = np.full((16, 16, 3), 20 * index + 100 * ord(name) % 200, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    config = tiny("pretrain_pixels")
    config.data.update(dict(source=f"folder:{tmp_path}", split="validation", eval_split="test", eval_ops=""))
    config.evals.update(
        dict(kinds=("knn",), k=2, ops="decode|resize(image_size)|normalize(statistics)|keep('image', 'label')")
    )
    if refused:
        with pytest.raises(UserError, match=refused):
            _ = experiment(config).data.evaluations
    else:
        assert len(experiment(config).data.evaluations) == 1
