"""The model card of a checkpoint: the README.md that the hub shows, with its metadata in front."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from beit_jax import config as configs
from beit_jax.config.schema import declared_keys
from beit_jax.config.tokenizer_kinds import kind_of
from beit_jax.convert.own_layout import without_paths
from beit_jax.convert.saving import run_config
from beit_jax.runtime.checkpoint_folder import find_checkpoint, holds_checkpoint
from beit_jax.runtime.paths import as_path
from beit_jax.tasks import create_task
from beit_jax.training.metrics import EVALUATION, FILE, read_metrics

LIBRARIES = {"hf": "transformers", "data2vec": "transformers", "timm": "timm", "safetensors": "beit_jax"}
PIPELINES = {"classify": "image-classification", "segment": "image-segmentation"}  # others give features
DATASETS = {"imagenet2012": "imagenet-1k", "cifar10": "cifar10", "cifar100": "cifar100"}  # ids on the hub
NO_SETTINGS = ("labels", "task", "data.source")  # which stand elsewhere in the card
METRICS = {"top1": "accuracy", "miou": "mean_iou"}
WORDS = {
    "tokenizer": "a visual tokenizer, which gives a token for each patch of an image",
    "pretrain": "a vision transformer, pre-trained by predicting the visual tokens of masked patches",
    "pretrain_pixels": "a vision transformer, pre-trained by predicting the pixels of masked patches",
    "pretrain_features": "a vision transformer, pre-trained by predicting the features of masked patches",
    "classify": "an image classifier",
    "segment": "a semantic segmentation",
    "probe": "linear classifiers on the layers of a frozen encoder, without that encoder",
}
TRANSFORMERS = {"classify": "BeitForImageClassification", "segment": "BeitForSemanticSegmentation"}
CITATION = """@inproceedings{bao2022beit,
  title={{BEiT}: {BERT} Pre-Training of Image Transformers},
  author={Hangbo Bao and Li Dong and Songhao Piao and Furu Wei},
  booktitle={International Conference on Learning Representations},
  year={2022}
}"""
CITATION_V2 = """@article{peng2022beitv2,
  title={{BEiT} v2: Masked Image Modeling with Vector-Quantized Visual Tokenizers},
  author={Zhiliang Peng and Li Dong and Hangbo Bao and Qixiang Ye and Furu Wei},
  journal={arXiv preprint arXiv:2208.06366},
  year={2022}
}"""
CARD = """---
{metadata}
---

# {name}

This is {words}, trained or converted with beit_jax, in the format `{format}`{size}.

## Data

{data}

## Results

{results}

## Settings

{settings}

## How to load it

{load}

{elsewhere}

## Citation

```bibtex
{citation}
```
"""


class Results(NamedTuple):
    """The last evaluation of a run.

    Attributes:
      step: after which it was.
      values: by name; empty: there was none.
    """

    step: int = 0
    values: Mapping[str, float] = {}


def results_of(source: str) -> Results:
    """The last evaluation of a run before a checkpoint, from the `metrics.jsonl` of the run; none of other sources."""
    path = as_path(source)
    if not path.is_dir() or not holds_checkpoint(path):
        return Results()
    found = find_checkpoint(source)
    last, step = Results(), int(found.name) if found.name.isdigit() else 0
    for line in read_metrics(found.parent.parent / FILE):
        values = {name.removeprefix(EVALUATION): value for name, value in line.items() if name.startswith(EVALUATION)}
        if values and last.step <= line["step"] <= step:
            last = Results(line["step"], {**(last.values if last.step == line["step"] else {}), **values})
    return last


def model_card(
    id: str,
    config: ConfigDict,
    format: str,
    license: str,
    results: Results,
    parameters: int,
    revision: str | None = None,
) -> str:
    """The text of the card.

    Args:
      id: on the hub.
      config: of the model, as `from_pretrained` returns it.
      format: of the files.
      license: the hub's key of the licence of the weights.
      results: of the run.
      parameters: their number.
      revision: branch that it is on; None: `main`.
    """
    config = without_paths(run_config(config))
    return CARD.format(
        metadata=_metadata(id, config, format, license, results),
        name=id.partition("/")[2],
        words=WORDS.get(config.task, f"a model of the task {config.task}"),
        format=format,
        size=f", with {parameters:,} parameters",
        data=_data(config),
        results=_table(("metric", "value"), _results(config, results), f"After step {results.step}:"),
        settings=_table(("key", "value"), _settings(config), "What differs from the defaults of the task:"),
        load=_load(f"{id}@{revision}" if revision else id, config),
        elsewhere=_elsewhere(id, config, format, revision),
        citation=CITATION + ("\n\n" + CITATION_V2 if _is_v2(config) else ""),
    )


def _metadata(id: str, config: ConfigDict, format: str, license: str, results: Results) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline, source = PIPELINES.get(config.task, "image-feature-extraction"), _source(config)
    evaluations = [
        EvalResult(
            task_type=pipeline,
            dataset_type=DATASETS.get(source, "images"),
            dataset_name=source or "images of its own",
            metric_type=metric,
            metric_value=results.values[name],
        )
        for name, metric in METRICS.items()
        if name in results.values
    ]
    more: dict[str, Any] = dict(model_name=id.partition("/")[2], eval_results=evaluations) if evaluations else {}
    return ModelCardData(
        license=license,
        library_name=LIBRARIES[format],
        pipeline_tag=pipeline,
        tags=["beit_jax", "jax", "vision", "beit_v2" if _is_v2(config) else "beit", config.task],
        datasets=[DATASETS[source]] if source in DATASETS else None,
        metrics=[metric for name, metric in METRICS.items() if name in results.values] or None,
        **more,
    ).to_yaml()


def _is_v2(config: ConfigDict) -> bool:
    model = config.get("model", {})
    return bool(model.get("early_layer", 0)) or model.get("kind", "") == "vqkd"


def _source(config: ConfigDict) -> str:
    return config.get("data", {}).get("source", "")


def _data(config: ConfigDict) -> str:
    source, labels = _source(config), tuple(config.get("labels", ()))
    data = config.get("data", {})
    lines = [
        f"Trained on `{source}`, split `{data.split}`, and evaluated on `{data.eval_split}`."
        if source
        else "The images are not a published data set, or are not known."
    ]
    if labels:
        shown = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
        lines.append(f"It has {len(labels)} classes: {shown}.")
    return "\n".join(lines)


def _results(config: ConfigDict, results: Results) -> list[tuple[str, str]]:
    headlines = [line for line in create_task(config).report.headlines if line.metric in results.values]
    if headlines:
        return [(line.words, line.form.format(line.factor * results.values[line.metric])) for line in headlines]
    return [(name, f"{value:.4g}") for name, value in results.values.items()]


def _settings(config: ConfigDict) -> list[tuple[str, str]]:
    defaults = configs.flatten(configs.defaults(config.task, kind_of(config)))
    known = declared_keys(config)
    return [
        (f"`{name}`", f"`{str(value).replace('|', chr(92) + '|')}`")
        for name, value in configs.flatten(config).items()
        if name in known and not known[name].is_path and name not in NO_SETTINGS and value != defaults.get(name)
    ]


def _table(titles: tuple[str, str], rows: list[tuple[str, str]], before: str) -> str:
    if not rows:
        return "None are known."
    lines = [f"| {' | '.join(row)} |" for row in (titles, ("---", "---"), *rows)]
    return "\n".join([before, "", *lines])


def _load(name: str, config: ConfigDict) -> str:
    if config.task != "tokenizer":
        return _python(f'import beit_jax\n\nmodel, params, config = beit_jax.from_pretrained("{name}")')
    return _python(  # some kinds are no network: their `model` is None
        "import beit_jax\nfrom beit_jax.tasks import create_task\n\n"
        f'_, params, config = beit_jax.from_pretrained("{name}")\n'
        "tokenizer = create_task(config).tokenizer  # tokenizer.targets(params, images) gives tokens"
    )


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _elsewhere(id: str, config: ConfigDict, format: str, revision: str | None) -> str:
    if format == "safetensors":
        parts = {"probe": "encoder", "pretrain": "tokenizer"}
        part = parts.get(config.task, "teacher" if "teacher" in config else "")
        needs = f" To evaluate it, give the {part} that it was trained with: `--config.{part}." if part else ""
        needs += ("path" if part == "teacher" else "init_from") + "=RUN`." if part else ""
        return (
            "The tensors have the names of beit_jax, and `config.json` holds its config; no other library has a class "
            f"for the model.{needs}"
        )
    if format == "timm":
        name = f"{id}@{revision}" if revision else id
        return (
            f'With timm:\n\n```python\nimport timm\n\nmodel = timm.create_model("hf-hub:{name}", pretrained=True)\n```'
        )
    name = TRANSFORMERS.get(config.task, "BeitForMaskedImageModeling")
    name = name.replace("Beit", "Data2VecVision") if format == "data2vec" else name
    given = f'"{id}", revision="{revision}"' if revision else f'"{id}"'
    lines = [
        f"from transformers import AutoImageProcessor, {name}\n",
        f"processor = AutoImageProcessor.from_pretrained({given})",
        f"model = {name}.from_pretrained({given})",
    ]
    return "With transformers, in PyTorch:\n\n" + _python("\n".join(lines))
