import json

import pytest

from beit_jax.benchmarks import largest_batch, sweep
from beit_jax.config import load
from beit_jax.errors import UserError


def test_combinations():
    assert sweep.combinations(["a=1,2", "b.c=x"]) == [["a=1", "b.c=x"], ["a=2", "b.c=x"]]
    assert sweep.combinations([]) == [[]]


@pytest.mark.parametrize("setting", ["model.unroll", "=1", "model.unroll=", "model.unroll=1,,2"])
def test_a_setting_of_another_form(setting):
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        sweep.combinations([setting])


def test_a_row_for_each_combination(capsys, repository):
    config = load(str(repository / "configs" / "pretrain.py"))

    def measure(config):
        if config.batch_size == 4096:
            raise UserError("batch_size=4096 is too much")
        figures = dict(step_ms=12.34, share_of_peak=0.5, images_per_second=1000.0, fits=True, compile_seconds=3.0)
        figures["batch_size"] = config.batch_size
        return {**figures, "memory": {"peak": 2**30 * config.model.unroll}}

    sweep.run(config, ["batch_size=8,4096", "model.unroll=2,3"], measure, as_json=True)
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[2] == "| batch_size=8 model.unroll=2 | 8 | 12.3 | 50.0% | 1,000 | 2.00 | yes | 3 |"
    assert lines[4] == f"| batch_size=4096 model.unroll=2 | batch_size=4096 is too much |{' |' * 6}"
    assert [row["settings"] for row in json.loads(last)["rows"]][1] == "batch_size=8 model.unroll=3"
    assert config.batch_size == 2048  # the config itself is left as it was


def test_a_key_that_does_not_exist_is_found_before_anything_is_compiled(repository):
    config = load(str(repository / "configs" / "pretrain.py"))
    with pytest.raises(UserError, match=r"model\.unrol"):
        sweep.run(config, ["batch_size=8,16", "model.unrol=3"], lambda config: pytest.fail("compiled"), False)


@pytest.mark.parametrize("bent", [0.0, 0.02])
@pytest.mark.parametrize("refuses", [True, False])
def test_the_largest_batch(bent, refuses):
    tried = []

    def planned(batch):
        tried.append(batch)
        size = 1000 + 3.7 * batch + bent * batch**1.1
        return None if refuses and size > 9000 else int(size)

    found = largest_batch.find(planned, 2, 9000)
    assert found in tried and found % 16 == 0
    assert 0.93 * 2162 / (1 + bent) < found <= 2162
    assert len(tried) <= largest_batch.MEASUREMENTS + 1


def test_not_even_the_smallest_batch():
    with pytest.raises(UserError, match="even a batch of 32, 8 examples a device, does not fit"):
        largest_batch.find(lambda batch: None, 4, 2**30)
