"""Our models against numbers that the reference libraries computed, where these are not installed."""

import beit_golden as golden
import jax
import numpy as np
import pytest

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def expected(repository):
    with np.load(repository / "tests" / "golden" / "beit.npz") as stored:
        return dict(stored)


def test_masked_image_model(expected):
    model, images, mask = golden.masked_image_model(), golden.images(), golden.mask()
    logits = jax.jit(model.apply)({"params": golden.parameters(model, images, mask)}, images, mask)
    np.testing.assert_allclose(logits, expected["masked_image_model"], atol=TOLERANCE)


def test_classifier(expected):
    model, images = golden.classifier(), golden.images()
    logits = jax.jit(model.apply)({"params": golden.parameters(model, images)}, images)
    np.testing.assert_allclose(logits, expected["classifier"], atol=TOLERANCE)


def test_tokenizer(expected):
    model, variables = golden.tokenizer(), {"params": golden.tokenizer_parameters()}
    logits = jax.jit(lambda x: model.apply(variables, x, method=model.encode))(golden.pixels())
    np.testing.assert_allclose(logits, expected["tokenizer_logits"], atol=TOLERANCE)
    tokens = expected["tokenizer_logits"].argmax(axis=-1)
    outputs = jax.jit(lambda x: model.apply(variables, x, method=model.decode_tokens))(tokens)
    np.testing.assert_allclose(outputs, expected["tokenizer_outputs"], atol=TOLERANCE)
