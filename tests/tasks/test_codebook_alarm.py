import logging

import numpy as np
import pytest
import tiny

from beit_jax import tasks


@pytest.mark.parametrize(("task", "advice"), [("tokenizer", "loss.kl_weight"), ("vqkd", "loss.revive_below=0.1")])
def test_a_collapsed_codebook_is_told(task, advice, caplog):
    config = tiny.config(task)
    config.model.vocab = 100
    made, counts = tasks.create_task(config), np.zeros(100)
    counts[:2] = 50
    with caplog.at_level(logging.WARNING, "beit_jax"):
        found = made.summarize({"codes": counts})
    assert found == {"perplexity": pytest.approx(2), "perplexity_fraction": pytest.approx(0.02), "codes_used": 2}
    assert "images use 2 of 100 tokens, with a perplexity of 2.0" in caplog.text and advice in caplog.text
    caplog.clear()
    made.summarize({"codes": np.ones(100)})
    assert not caplog.text
