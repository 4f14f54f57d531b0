"""Tokenizer, pre-training, fine-tuning, evaluation and prediction on tars, data sets of Hugging Face and arrays."""

import csv
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beit_jax import evaluate, predict, train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_the_checkout")]
COUNT, SIDE = 48, 16
LABELS = np.arange(COUNT) % 2


def make_pixels(channels, dtype=np.uint8):
    """Images of two classes, of which one is brighter in its last channel, `[n, h, w, c]`."""
    pixels = np.random.default_rng(0).random((COUNT, SIDE, SIDE, channels)) * 0.5
    pixels[LABELS == 1, ..., -1] += 0.5
    return pixels.astype(dtype) if dtype == np.float32 else (pixels * 255).astype(dtype)


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def write_tars(root):
    files = [encode(pixels) for pixels in make_pixels(3)]
    root.mkdir()
    for shard in range(3):
        with tarfile.open(root / f"{shard}.tar", "w") as tar:
            for number in range(shard, COUNT, 3):
                for name, content in (
                    (f"{number:03d}.png", files[number]),
                    (f"{number:03d}.cls", b"%d" % (number % 2)),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return f"tars:{root}", ()


def write_rgba_parquet(root):
    images = [{"bytes": encode(pixels), "path": None} for pixels in make_pixels(4)]
    root.mkdir()
    pq.write_table(pa.table({"image": images, "label": LABELS}), root / "train-00000-of-00001.parquet")
    return f"hf:{root}", ("channels=4",)


def write_grey_floats(root):
    np.savez(root.with_suffix(".npz"), image=make_pixels(1, np.float32), label=LABELS)
    return f"npz:{root}.npz", ("channels=1",)


def write_two_channels(root):
    root.mkdir()
    np.save(root / "image.npy", make_pixels(2, np.uint8).astype(np.uint16) * 100)
    np.save(root / "label.npy", LABELS)
    return f"npy:{root}", ("channels=2",)


@pytest.mark.parametrize(
    ("write", "values"),
    [
        (write_tars, ()),
        (write_rgba_parquet, ("--config.data.statistics=inception",)),
        (write_grey_floats, ("--config.data.max_value=1", "--config.data.statistics=inception")),
        (write_two_channels, ("--config.data.max_value=25500", "--config.data.statistics=inception")),
    ],
)
def test_from_tokenizer_to_predictions(tmp_path, capsys, write, values):
    source, arguments = write(tmp_path / "data")
    common = [
        f"--config.data.source={source}",
        "--config.data.split=train[:75%]",
        "--config.data.eval_split=train[75%:]",
    ]
    common += ["--config.batch_size=8", *values]

    def run(config, workdir, *more):
        config = ",".join((f"configs/{config}", *arguments))
        train.main([f"--config={config}", f"--workdir={tmp_path / workdir}", *common, *more])

    run("tokenizer.py:kind=kmeans,runlocal", "tokenizer", "--config.model.image_size=16", "--config.model.patch=4")
    token = f"--config.tokenizer.init_from={tmp_path}/tokenizer"
    network = ("--config.model.image_size=16", "--config.model.variant=Micro/4")
    run("pretrain.py:kind=kmeans,runlocal", "pretrain", token, *network, "--config.steps=10", "--config.num_masked=6")
    long = ("--config.steps=80", "--config.optimizer.lr=3e-3")
    run("finetune.py:runlocal", "finetune", f"--config.init_from={tmp_path}/pretrain", *network, *long)
    evaluate.main([f"--checkpoint={tmp_path}/finetune"])
    assert '"top1": 1.0' in capsys.readouterr().out  # the classes can be told apart
    if source.startswith("npy:"):
        images = f"--images={tmp_path}/data/image.npy"
        predict.main([f"--checkpoint={tmp_path}/finetune", images, f"--out={tmp_path}/classes.csv"])
        with open(tmp_path / "classes.csv") as file:
            assert len(list(csv.DictReader(file))) == COUNT
