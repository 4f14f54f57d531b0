"""The block of docs/checkpoints.md that writes ONNX: a run, as transformers reads it, in ONNX' own runtime."""

import jax
import numpy as np
import pytest
from image_models import save
from test_docs import ROOT, blocks

import beit_jax
from beit_jax.convert import __main__ as convert

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.mark.usefixtures("torchvision_without_its_binary")
def test_a_run_in_onnx(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs", "classify", name="finetune")
    convert.main(["runs/finetune", "published", "--to=hf"])
    (text,) = [text for text in blocks(ROOT / "docs" / "checkpoints.md", "python") if "onnx" in text]
    made = {}
    exec(compile(text, "page", "exec"), made)
    model, params, _ = beit_jax.from_pretrained("runs/finetune")
    images = np.random.default_rng(0).normal(size=(5, 16, 16, 3)).astype(np.float32)  # not as many as were exported
    found = made["session"].run(None, {"pixel_values": np.moveaxis(images, -1, 1)})[0]
    expected = jax.jit(model.apply)({"params": params}, images)
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-5)
