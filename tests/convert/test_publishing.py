"""What is published of a run: weights to the last bit, settings, a card, and nothing of the machine."""

import json

import numpy as np
import pytest
import tiny
import yaml
from random_models import pretrained, written

import beit_jax
from beit_jax import config as configs
from beit_jax.convert import pushing
from beit_jax.data.sources import data_sets
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.tasks import create_task


@pytest.mark.parametrize("task", ["tokenizer", "vqkd", "kmeans", "probe", "pretrain", "pretrain_pixels", "segment"])
def test_every_task_is_published_to_the_last_bit(tmp_path, task):
    import jax

    from beit_jax.training import checkpoint
    from beit_jax.training.params import digest

    config = tiny.config(task)
    for part, key in {"tokenizer": "init_from", "encoder": "init_from", "teacher": "path"}.items():
        if part in config:
            config[part][key] = "/home/somebody/run"
    config.data.update(dict(source="folder:/home/somebody/images", eval_ops="decode|resize(16)|keep('image')"))
    params = run_once(create_task(config).init, jax.random.key(1))
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    published = pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit")
    model, again, theirs = beit_jax.from_pretrained(tmp_path / "out")
    assert (model is None) == (task == "kmeans")  # which is no network
    assert digest(again) == digest(params)
    assert theirs.task == published.task and theirs.model.to_dict() == config.model.to_dict()
    texts = [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".md")]
    assert not any("somebody" in text for text in texts)
    card = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---")[1])
    assert card["license"] == "mit" and "beit_jax" in card["tags"]
    assert card["library_name"] == ("transformers" if task == "pretrain" else "beit_jax")


@pytest.mark.parametrize("prefix", ["folder", *data_sets.PREFIXES])
def test_nothing_of_the_machine_is_published(tmp_path, prefix):
    _, params, config = pretrained("classify")
    config = config.copy_and_resolve_references()
    config.data.update(dict(source=f"{prefix}:/home/somebody/x", data_dir="/home/somebody", eval_ops="decode"))
    config.update(dict(loggers=("wandb",), project="somebody", init_from="/home/somebody/run"))
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", format="safetensors")
    for file in ("README.md", "config.json"):
        text = (tmp_path / "out" / file).read_text()
        assert "somebody" not in text and "wandb" not in text and prefix + ":" not in text


def test_evaluation_demands_the_part_that_is_not_published(tmp_path):
    import jax

    from beit_jax.convert import own_layout
    from beit_jax.convert.opening import open_checkpoint
    from beit_jax.training.params import flatten

    for task, key in {"probe": "encoder.init_from", "pretrain": "tokenizer.init_from", "vqkd": "teacher.path"}.items():
        config = tiny.config(task)
        config.update_from_flattened_dict({key: "/home/somebody/run"})
        config.data.eval_ops = "decode|resize(16)|keep('image')"
        shapes = jax.eval_shape(create_task(config).init, jax.random.key(1))
        zeros = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flatten(shapes).items()}
        (tmp_path / task).mkdir()
        own_layout.write(tmp_path / task, zeros, config, "5GB")
        opened = open_checkpoint(str(tmp_path / task)).config
        with pytest.raises(UserError, match=f"{key} is empty"):
            configs.validate(opened)


def test_card_of_a_converted_checkpoint_claims_no_data(tmp_path):
    written(tmp_path / "foreign")
    pushing.write_published(tmp_path / "out", tmp_path / "foreign", "me/it", license="mit")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "imagenet" not in text.lower() and "The images are not a published data set, or are not known." in text


def test_card_names_the_revision(tmp_path):
    written(tmp_path / "foreign")
    cases = {"hf": 'from_pretrained("me/it", revision="small")', "timm": 'create_model("hf-hub:me/it@small"'}
    for format, words in cases.items():
        folder, given = tmp_path / format, dict(license="mit", revision="small", format=format)
        pushing.write_published(folder, tmp_path / "foreign", "me/it", **given)
        text = (folder / "README.md").read_text()
        assert 'beit_jax.from_pretrained("me/it@small")' in text and words in text


def test_snippet_of_a_tokenizer_runs(tmp_path, monkeypatch):
    import re

    import jax

    from beit_jax.training import checkpoint

    config = tiny.config("kmeans")
    config.data.eval_ops = "decode|resize(16)|keep('image')"
    params = run_once(create_task(config).init, jax.random.key(1))
    checkpoint.save_params(tmp_path / "run", params, configs.to_json(config))
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/km", license="mit")
    (code,) = re.findall("```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").rename(tmp_path / "me-km")
    found = {}
    exec(code.replace("me/km", "me-km"), found)
    tokens = found["tokenizer"].targets(found["params"], np.zeros((2, 16, 16, 3), np.float32))
    assert tokens.shape == (2, 4, 4)


@pytest.mark.parametrize(
    "settings", [{"task": "classify", "model": 3}, {"task": 3}, {"task": "classify"}, {"task": ["classify"]}, [], 3]
)
def test_a_damaged_config_is_told_in_one_line(tmp_path, settings):
    written(tmp_path / "it", format="safetensors")
    text = json.dumps({"library_name": "beit_jax", "config": settings})
    (tmp_path / "it" / "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        beit_jax.from_pretrained(tmp_path / "it")
    assert all("config.json" in line and "\n" not in line for line in error.value.lines)


def test_a_format_without_a_layout_is_refused_before_the_weights_are_read(tmp_path, monkeypatch):
    _, params, config = pretrained("segment")
    config = config.copy_and_resolve_references()
    config.data.eval_ops = "decode"
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    monkeypatch.setattr(pushing, "read_pretrained", lambda *args, **given: pytest.fail("weights are read"))
    with pytest.raises(UserError, match="format='timm' has no layout"):
        pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", format="timm")
    with pytest.raises(UserError, match="expected a number of bytes"):
        pushing.write_published(tmp_path / "out", tmp_path / "run", "me/it", license="mit", max_shard_size="5")


def test_card_of_a_run(tmp_path):
    _, params, config = pretrained("classify")
    config = config.copy_and_resolve_references()
    beit_jax.save_pretrained(tmp_path / "run", params, config, format="beit_jax")
    lines = [{"step": 0, "eval/top1": 0.5, "eval/loss": 1.0}, {"step": 9, "eval/top1": 0.9}]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pushing.write_published(tmp_path / "out", tmp_path / "run", "me/digits", license="cc-by-4.0")
    text = (tmp_path / "out" / "README.md").read_text()
    card = yaml.safe_load(text.split("---")[1])
    assert card["pipeline_tag"] == "image-classification" and card["metrics"] == ["accuracy"]
    (result,) = card["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.5  # of the step of the checkpoint
    assert "| 50.0 |" in text and 'BeitForImageClassification.from_pretrained("me/digits")' in text
    assert 'beit_jax.from_pretrained("me/digits")' in text and "bao2022beit" in text


def test_wrong_pushes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(UserError) as error:
        pushing.check_push("digits", None, "unilm")
    assert len(error.value.lines) == 3
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in"):
        beit_jax.push_to_hub(tmp_path, "me/it", license="mit")
