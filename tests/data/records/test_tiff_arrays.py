"""TIFF files as arrays: what is in the files, splits and classes, and what is refused."""

import numpy as np
import pytest
import tifffile

from beit_jax import tiff_to_arrays
from beit_jax.data.records.tiff_arrays import read_tiff
from beit_jax.data.sources import data_sets, folder_checks
from beit_jax.errors import UserError


def bands(number, channels=13, dtype=np.uint16):
    return (np.arange(6 * 5 * channels).reshape(6, 5, channels) + number).astype(dtype)


def write(path, pixels, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, **({"photometric": "minisblack", "planarconfig": "contig"} | settings))


@pytest.mark.parametrize(
    ("pixels", "stored", "settings"),
    [
        (bands(0, 1, np.uint8), bands(0, 1, np.uint8)[..., 0], {}),
        (bands(0, 1, np.uint16), bands(0, 1, np.uint16)[..., 0], {}),
        (bands(0, 3, np.uint8), bands(0, 3, np.uint8), {"photometric": "rgb"}),
        (bands(0, 4, np.uint8), bands(0, 4, np.uint8), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (bands(0), bands(0), {}),
        (bands(0), bands(0), {"compression": "zlib"}),
        (bands(0), np.moveaxis(bands(0), -1, 0), {"planarconfig": "separate"}),  # a plane for each band
        (bands(0), np.moveaxis(bands(0), -1, 0), {"planarconfig": None}),  # a page for each band
        (bands(0, dtype=np.float32), bands(0, dtype=np.float64), {}),
        (bands(0), bands(0, dtype=np.int16), {}),
    ],
)
def test_the_pixels_of_every_kind(tmp_path, pixels, stored, settings):
    write(tmp_path / "a.tif", stored, **settings)
    found = read_tiff(str(tmp_path / "a.tif"))
    assert found.dtype == pixels.dtype and np.array_equal(found, pixels)


def test_a_folder_with_splits_and_classes_becomes_a_data_set(tmp_path, capsys):
    for split, names in (("train", "ab"), ("val", "b")):
        for name in names:
            for number in range(3):
                write(tmp_path / "tiffs" / split / name / f"{number}.tif", bands(number + 10 * (name == "b")))
    tiff_to_arrays.main([f"--images={tmp_path}/tiffs", f"--out={tmp_path}/arrays"])
    printed = capsys.readouterr().out
    assert "6 images in train, 3 images in validation, 6 x 5 pixels, 13 channels, uint16, 2 classes" in printed
    assert f"data=npy:{tmp_path}/arrays,channels=13" in printed
    source = f"npy:{tmp_path}/arrays"
    assert data_sets.default_splits(source) == ("train", "validation")
    train, held_out = (data_sets.select(source, split) for split in ("train", "validation"))
    assert train.class_names == held_out.class_names == ("a", "b")
    assert (train.labels.tolist(), held_out.labels.tolist()) == ([0, 0, 0, 1, 1, 1], [1, 1, 1])
    assert np.array_equal(train.images.load()[4], bands(11))
    with pytest.raises(UserError, match="is there already; choose another"):
        tiff_to_arrays.main([f"--images={tmp_path}/tiffs", f"--out={tmp_path}/arrays"])


def refused(tmp_path, message):
    with pytest.raises(UserError, match=message) as error:
        tiff_to_arrays.main([f"--images={tmp_path}/tiffs", f"--out={tmp_path}/arrays"])
    assert all("\n" not in line for line in error.value.lines)
    assert not (tmp_path / "arrays").exists()


def test_mistakes_are_told_in_one_line(tmp_path):
    refused(tmp_path, "there is no folder")
    write(tmp_path / "tiffs" / "a.tif", bands(0))
    write(tmp_path / "tiffs" / "b.tif", bands(0, 4))
    refused(tmp_path, r"b\.tif has the shape \[6, 5, 4\] and the type uint16, and .*a\.tif has \[6, 5, 13\]")
    whole = (tmp_path / "tiffs" / "a.tif").read_bytes()
    for content, message in (
        (whole[:200], "no TIFF file, or damaged"),
        (b"text", "no TIFF file, or damaged"),
        (b"", "no TIFF file, or damaged"),
    ):
        (tmp_path / "tiffs" / "b.tif").write_bytes(content)
        refused(tmp_path, message)
    for pixels, message in (
        (np.full((6, 5, 13), -1, np.int16), "has the value -1"),
        (np.full((6, 5, 13), np.nan, np.float32), "that are no numbers"),
        (bands(0, dtype=np.uint32), "found images of type uint32"),
    ):
        write(tmp_path / "tiffs" / "b.tif", pixels)
        refused(tmp_path, message)
    colours = dict(photometric="palette", colormap=np.zeros((3, 256), np.uint16), planarconfig=None)
    write(tmp_path / "tiffs" / "b.tif", bands(0, 1, np.uint8)[..., 0], **colours)
    refused(tmp_path, "pixels of the kind PALETTE")


def test_a_folder_of_tiffs_names_the_command(tmp_path):
    write(tmp_path / "a.tif", bands(0))
    with pytest.raises(UserError, match=rf"python -m beit_jax\.tiff_to_arrays --images {tmp_path} --out arrays"):
        folder_checks.check_folder(str(tmp_path))


def test_a_missing_decompressor_names_the_library(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", bands(0))

    def fail(self, *_, **__):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", fail)
    with pytest.raises(ModuleNotFoundError) as error:
        read_tiff(str(tmp_path / "a.tif"))
    assert error.value.name == "imagecodecs"
