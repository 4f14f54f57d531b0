"""Wrong paths in buckets: one line each, before a command spends time."""

import re

import pytest
from commands import refused
from image_models import make_images
from stored_runs import BUCKET
from test_command_line import run as run_blocked

from beit_jax import embed, evaluate, predict, push, tiff_to_arrays
from beit_jax.convert import __main__ as convert
from beit_jax.visualize import __main__ as visualize

pytestmark = pytest.mark.usefixtures("in_the_checkout")
MISTAKES = [
    (predict, ["--checkpoint=gs://nowhere/run", "--images={images}"], "there is no bucket gs://nowhere; make it"),
    (predict, ["--checkpoint={bucket}/images/nothing", "--images={images}"], "/nothing does not exist; expected a run"),
    (
        predict,
        ["--checkpoint=s3://beit/x", "--images={images}"],
        "s3://beit/x is a URL; expected a folder, or",
    ),
    (predict, ["--checkpoint={run}", "--images={bucket}/nothing"], "nothing does not exist; expected an image"),
    (predict, ["--checkpoint={run}", "--images=gs://nowhere"], "there is no bucket gs://nowhere"),
    (predict, ["--checkpoint={run}", "--images", "{images}", "{disk}/images"], "images on a disk and in a bucket"),
    (predict, ["--checkpoint={run}", "--images={images}", "--out={images}"], "it is a folder; expected a file"),
    (predict, ["--checkpoint={run}", "--images={images}", "--out=gs://nowhere/x"], "--out=gs://nowhere/x: there is no"),
    (embed, ["--checkpoint={run}", "--images={images}", "--out={bucket}/images.npy"], "expected a file that ends in"),
    (
        embed,
        ["--checkpoint={run}", "--images={images}", "--out={bucket}/file.txt"],
        "expected a file that ends",
    ),
    (evaluate, ["--checkpoint={run}", "--pictures={bucket}/file.txt"], "it is a file; expected a folder"),
    (evaluate, ["--checkpoint={run}", "--config={bucket}/x.py"], "would be run from a URL; expected a file here"),
    (
        evaluate,
        ["--checkpoint={run}", "--config={bucket}/x.json"],
        "read (gs://beit/x.json does not exist)",
    ),
    (convert, ["{bucket}/hf", "{bucket}/own", "--to=hf"], "/own exists; choose another folder"),
    (convert, ["{bucket}/hf", "gs://nowhere/own", "--to=hf"], "there is no bucket gs://nowhere"),
    (push, ["gs://nowhere/x", "me/x", "--license=mit"], "there is no bucket gs://nowhere"),
    (visualize, ["report", "gs://nowhere/x"], "--workdir=gs://nowhere/x: there is no bucket"),
    (visualize, ["report", "{bucket}/images.npy"], "images.npy holds no run: it is a file"),
    (visualize, ["report", "{bucket}/images"], "images holds no run; expected"),
    (visualize, ["report", "{run}", "--out={images}"], "it is a folder; expected a file"),
    (visualize, ["attention", "--checkpoint={run}", "--image={images}", "--out=x"], "is a folder; expected the file"),
    (tiff_to_arrays, ["--images={bucket}/nothing", "--out=x"], "there is no folder gs://beit/nothing"),
    (tiff_to_arrays, ["--images={bucket}/tiffs", "--out={bucket}/tiffs/x"], "lies in the folder of the images"),
]


@pytest.mark.parametrize(("program", "arguments", "words"), MISTAKES, ids=str)
def test_one_line(disk, program, arguments, words):
    names = dict(bucket=BUCKET, run=f"{BUCKET}/recipe/seed0", images=f"{BUCKET}/images", disk=disk)
    assert words in refused([argument.format(**names) for argument in arguments], program)


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (predict, ["--checkpoint={disk}/recipe/seed0", "--images={disk}/images", "--out={folder}/x.csv"]),
        (convert, ["{disk}/hf", "{folder}/x", "--to=hf"]),
        (visualize, ["report", "{disk}/recipe/seed0", "--out={folder}/x.html"]),
    ],
)
def test_no_right_to_write(store, disk, folder, monkeypatch, program, arguments):
    monkeypatch.setattr(store, "refusal", 403)
    message = refused([argument.format(disk=disk, folder=folder) for argument in arguments], program)
    assert "this account has no right to do that; give it roles/" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "--checkpoint=gs://beit/run", "--images=images"],
        ["convert", "gs://beit/run", "out", "--to=hf"],
        ["visualize", "report", "gs://beit/run"],
        ["measure_statistics", "--config=gs://beit/run/config.json"],
    ],
)
def test_without_the_extra(tmp_path, arguments):
    make_images(tmp_path / "images", ("1.png",))
    status, lines, _ = run_blocked(*arguments, blocked=("gcsfs", "google"), cwd=tmp_path)
    assert status == 2 and re.search(r"error: gcsfs is not installed; run: pip install .*\[gcs\]'", lines[-1]), lines
    assert len(lines) == 1
