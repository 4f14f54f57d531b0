"""How other libraries store the models of each task: one table for all of conversion."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from beit_jax.convert import preprocessing
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.models.label_maps import ADE20K_CLASSES
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.models.upernet import POOLED
from beit_jax.tasks import create_task

CODES = "quantize.embedding.weight"  # of a VQ-KD tokenizer

# Takes the name and the rank of one of our parameters; returns its shape in a checkpoint, or raises a UserError.
ShapeOf = Callable[[str, int], tuple[int, ...]]


class TaskLayout:
    """How other libraries store models of one task; the base class stands for a task that they do not have.

    Attributes:
      formats: of `save_pretrained`, beside "beit_jax".
      converts_to: tasks that `from_pretrained` can make such a model for.
      hf_class: of transformers.
      hf_norm: name of the encoder's final norm in the layout "hf".
      markers: tensors of which checkpoints of this task hold one, in the layouts "hf" and "unilm".
      unused: a regular expression of tensors that other models left behind, and that the model does not read.
      unilm_prefix: of the encoder's names in the layout "unilm".
      unilm_nest: key of the state dict in files of the official code.
      takes_mask: whether the model takes a mask after the images.
      hf_channels_first: whether transformers gives logits `[b, v, h, w]`.
    """

    formats: tuple[str, ...] = ()
    converts_to: tuple[str, ...] = ()
    hf_class = ""
    hf_norm = ""
    markers: tuple[str, ...] = ()
    unused = r"$."
    unilm_prefix = ""
    unilm_nest = "model"
    takes_mask = False
    hf_channels_first = False

    def formats_of(self, config: ConfigDict) -> tuple[str, ...]:
        """The formats for a model of this config."""
        return self.formats

    def unsupported(self, config: ConfigDict) -> str:
        """What other libraries lack for a model of this config; empty: nothing."""
        return ""

    def configure_head(self, config: ConfigDict, shape_of: ShapeOf, settings: Mapping[str, Any], where: str) -> None:
        """Sets the keys of a config that the tensors of the head determine.

        Args:
          config: to change; its encoder is known.
          shape_of: see `ShapeOf`.
          settings: a `config.json`, or empty.
          where: name of the checkpoint, for messages.

        Raises:
          UserError: a tensor is missing, or a setting is wrong.
        """
        raise NotImplementedError

    def retarget(self, changed: ConfigDict, config: ConfigDict, num_classes: int | None) -> None:
        """Sets the keys of this task in a config made from that of another model.

        Args:
          changed: to change; the encoder and its image size are set.
          config: of the present model.
          num_classes: asked for; None: as before.

        Raises:
          UserError: the task has no classes, or they are not known.
        """
        raise NotImplementedError

    def hf_settings(self, config: ConfigDict) -> dict[str, Any]:
        """What a `config.json` of transformers says of the head."""
        raise NotImplementedError

    def default_preprocess(self, size: int) -> ConfigDict:
        """The preprocessing of published checkpoints, for files that do not state it."""
        return preprocessing.official_section(size)

    def eval_ops(self, config: ConfigDict) -> str:
        """`data.eval_ops` that do what the section `preprocess` says, and make everything that the task needs.

        Raises:
          UserError: there are none for this task.
        """
        raise UserError(f"data.eval_ops is empty, expected ops: there is no default for the task {config.task!r}")

    def transformers_twin(self, model: nn.Module) -> nn.Module:
        """The model that computes what transformers computes with the same parameters."""
        return model

    def logits(self, output: Any) -> Any:
        """The logits in an output of our model."""
        return output


class _MaskedModelling(TaskLayout):
    takes_mask = True

    def mask_op(self, config: ConfigDict) -> str:
        """The op of `data.ops` that makes the official masks."""
        return "blockwise_mask(num_masked, min_block, grid)"

    def retarget(self, changed: ConfigDict, config: ConfigDict, num_classes: int | None) -> None:
        if num_classes is not None:
            raise UserError("num_classes is given, but the model is no classifier: give task='classify' too")
        changed.num_masked = 0


class _PretrainPixels(_MaskedModelling):
    converts_to = ("pretrain_pixels", "classify")

    def eval_ops(self, config: ConfigDict) -> str:
        resized, normalize = preprocessing.resized_ops(config.preprocess), preprocessing.normalize_op(config.preprocess)
        return f"{resized}|{normalize}|{self.mask_op(config)}|keep('image', 'mask')"


class _Pretrain(_MaskedModelling):
    formats = ("hf", "unilm")
    converts_to = ("pretrain", "classify")
    hf_class, hf_norm, markers = "BeitForMaskedImageModeling", "layernorm", ("lm_head.weight",)
    unused = r"beit\.pooler\.layernorm\."

    def formats_of(self, config: ConfigDict) -> tuple[str, ...]:
        return ("unilm",) if config.model.early_layer else self.formats

    def configure_head(self, config: ConfigDict, shape_of: ShapeOf, settings: Mapping[str, Any], where: str) -> None:
        config.tokenizer.vocab = shape_of("lm_head/kernel", 2)[0]

    def retarget(self, changed: ConfigDict, config: ConfigDict, num_classes: int | None) -> None:
        super().retarget(changed, config, num_classes)
        changed.tokenizer.update(config.tokenizer)

    def hf_settings(self, config: ConfigDict) -> dict[str, Any]:
        return {"vocab_size": create_task(config).tokenizer.vocab}

    def eval_ops(self, config: ConfigDict) -> str:
        section, size = config.preprocess, config.preprocess.size
        views = f"two_views_center({size}, tokenizer_size, {preprocessing.crop_fraction(size, section.resize)})"
        ending = f"{preprocessing.normalize_op(section)}|map_pixels('tokenizer_image')|{self.mask_op(config)}"
        return f"{preprocessing.decode_op(section)}|{views}|{ending}|keep('image', 'tokenizer_image', 'mask')"


class _Classify(TaskLayout):
    formats = ("hf", "unilm", "timm", "data2vec")
    converts_to = ("classify",)
    hf_class, hf_norm = "BeitForImageClassification", "beit.layernorm"
    markers = ("classifier.weight", "head.weight")
    unused = r"(beit\.embeddings\.)?mask_token$|lm_head\.|layernorm\."

    def configure_head(self, config: ConfigDict, shape_of: ShapeOf, settings: Mapping[str, Any], where: str) -> None:
        config.model.num_classes = shape_of("head/kernel", 2)[0]

    def retarget(self, changed: ConfigDict, config: ConfigDict, num_classes: int | None) -> None:
        before = config.model.num_classes if config.task == changed.task else 0
        changed.model.num_classes = num_classes or before
        if changed.model.num_classes < 1:
            raise UserError("the checkpoint has no classifier: give num_classes")
        if changed.model.relative_position == "shared" and config.task != changed.task:
            changed.model.relative_position = "per_block"
        if changed.model.num_classes == before:
            changed.labels = config.labels

    def hf_settings(self, config: ConfigDict) -> dict[str, Any]:
        return {"use_mean_pooling": config.model.pooling == "mean"} | _hf_labels(config)

    def eval_ops(self, config: ConfigDict) -> str:
        resized, normalize = preprocessing.resized_ops(config.preprocess), preprocessing.normalize_op(config.preprocess)
        return f"{resized}|{normalize}|keep('image', 'label')"


class _Segment(TaskLayout):
    formats = ("hf", "unilm", "data2vec")
    hf_class, markers = "BeitForSemanticSegmentation", ("decode_head.bottleneck.conv.weight",)
    unused = r"(backbone|beit\.embeddings)\.mask_token$|beit\.pooler\.layernorm\."
    unilm_prefix, unilm_nest = "backbone.", "state_dict"
    hf_channels_first = True

    def unsupported(self, config: ConfigDict) -> str:
        return "" if config.model.head == "upernet" else f"the head {config.model.head}"

    def configure_head(self, config: ConfigDict, shape_of: ShapeOf, settings: Mapping[str, Any], where: str) -> None:
        model, depth = config.model, variants.parse(config.model.variant)[0].depth
        model.num_classes = shape_of("decode_head/classifier/kernel", 4)[0]
        model.channels = shape_of("decode_head/bottleneck/conv/kernel", 4)[0]
        model.auxiliary_channels = shape_of("auxiliary_head/conv_0/conv/kernel", 4)[0]
        layers = settings.get("out_indices", [max(depth * twelfths // 12 - 1, 0) for twelfths in (4, 6, 8, 12)])
        valid = isinstance(layers, list) and all(type(layer) is int and 0 <= layer < depth for layer in layers)
        if not valid or len(layers) != 4:
            raise UserError(f"{where} has out_indices={layers!r}; expected four blocks of {depth}")
        model.layers = tuple(layers)

    def hf_settings(self, config: ConfigDict) -> dict[str, Any]:
        return {
            "out_indices": list(config.model.layers),
            "pool_scales": list(POOLED),
            "use_auxiliary_head": True,
            "auxiliary_channels": config.model.auxiliary_channels,
            "auxiliary_num_convs": 1,
            "use_mean_pooling": True,
        } | _hf_labels(config)

    def default_preprocess(self, size: int) -> ConfigDict:
        return preprocessing.preprocess_section(size, "bilinear", size, True, *STATISTICS["imagenet"])

    def eval_ops(self, config: ConfigDict) -> str:
        section, canvas = config.preprocess, "canvas_short, canvas_long"
        # Label 0 of ADE20K, of which the published checkpoints are, is no class.
        zero = "|reduce_zero_label" if config.model.num_classes == ADE20K_CLASSES else ""
        image = f"{preprocessing.decode_op(section)}{zero}|resize_within({canvas})"
        pad = f"pad_for_evaluation({canvas}, label_canvas)|keep('image', 'label_map', 'size', 'label_size')"
        return f"{image}|{preprocessing.normalize_op(section)}|{pad}"

    def transformers_twin(self, model: nn.Module) -> nn.Module:
        # transformers numbers hidden states from the embeddings on, and so takes the outputs of the blocks two below.
        return model.clone(layers=tuple(layer - 2 for layer in model.layers))

    def logits(self, output: Any) -> Any:
        return output[0]  # and not those of the auxiliary head


class _Tokenizer(TaskLayout):
    markers = (CODES,)
    unused = r"(teacher_model|scaling_layer)\."  # in checkpoints of the training of VQ-KD

    def formats_of(self, config: ConfigDict) -> tuple[str, ...]:
        return {"dvae": ("dalle",), "vqkd": ("unilm",)}.get(config.model.kind, ())

    def eval_ops(self, config: ConfigDict) -> str:
        scaled = "|map_pixels('image')" if config.model.kind == "dvae" else ""
        return f"{preprocessing.resized_ops(config.preprocess)}{scaled}|keep('image')"


def _hf_labels(config: ConfigDict) -> dict[str, Any]:
    labels = config.labels or [f"LABEL_{i}" for i in range(config.model.num_classes)]
    names = {str(i): label for i, label in enumerate(labels)}
    return {"id2label": names, "label2id": {label: int(i) for i, label in names.items()}}


_LAYOUTS = {
    "tokenizer": _Tokenizer(),
    "pretrain": _Pretrain(),
    "pretrain_pixels": _PretrainPixels(),
    "pretrain_features": _PretrainPixels(),
    "classify": _Classify(),
    "segment": _Segment(),
}


def task_layout(task: str) -> TaskLayout:
    """The layout of a task; one without formats for a task that other libraries do not have."""
    return _LAYOUTS.get(task, TaskLayout())


def detect_task(names: Mapping[str, Any]) -> str:
    """The task of a checkpoint with tensors of these names, in the layout "hf" or "unilm"."""
    tasks = "tokenizer", "segment", "classify", "pretrain"
    return next((task for task in tasks if names.keys() & {*_LAYOUTS[task].markers}), "classify")
