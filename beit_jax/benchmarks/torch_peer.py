"""The pre-training step in transformers' BEiT, in eager PyTorch; the only file that imports them."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.tasks.task import Rows

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class TorchPeer:
    """A contestant of `timing.in_turns`: forward, backward, clipping and AdamW on the same rows with given tokens."""

    def __init__(self, config: ConfigDict, dtype: str, rows: Rows):
        """Builds the model, from random weights.

        Args:
          config: of the pre-training.
          dtype: of the matrix products, float32 or bfloat16 (autocast over float32 parameters, as in training).
          rows: `image`, `mask` and `tokens`.

        Raises:
          UserError: torch or transformers is missing, or has not the device that JAX runs on.
        """
        self._torch, transformers = _libraries()
        torch, backend = self._torch, jax.default_backend()
        if backend not in DEVICES or (backend == "gpu" and not torch.cuda.is_available()):
            raise UserError(f"--vs=torch: JAX runs on {backend}, but torch cannot; expected a CPU, or a GPU for both")
        self._device, self._clip = DEVICES[backend], config.optimizer.clip_norm
        torch.manual_seed(config.seed)
        model = transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**_fields(config)))
        self._model = model.to(self._device).train()
        opt = config.optimizer
        self._optimizer = torch.optim.AdamW(
            model.parameters(), lr=opt.lr, betas=(opt.b1, opt.b2), eps=opt.eps, weight_decay=opt.weight_decay
        )
        self._autocast = dict(device_type=self._device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
        mask = rows["mask"].reshape(len(rows["mask"]), -1)
        tokens = rows["tokens"].reshape(mask.shape)
        self._batch = {
            "pixel_values": self._tensor(rows["image"].transpose(0, 3, 1, 2)),
            "bool_masked_pos": self._tensor(mask),
            "labels": self._tensor(tokens[mask].astype(np.int64)),
        }
        attention = model.config._attn_implementation
        self.name = (
            f"transformers {transformers.__version__} (attention: {attention}), torch {torch.__version__}, not compiled"
        )
        self.loss = float("nan")

    def __call__(self, first: int, count: int) -> None:
        """Makes `count` steps, and waits for the last."""
        for _ in range(count):
            self._optimizer.zero_grad(set_to_none=True)
            with self._torch.autocast(**self._autocast):
                loss = self._model(**self._batch).loss
            loss.backward()
            if self._clip:
                self._torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
            self._optimizer.step()
        self.loss = loss.item()
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def peak_bytes(self) -> int | None:
        """The most memory that tensors took, where torch counts it."""
        return self._torch.cuda.max_memory_allocated() if self._device == "cuda" else None

    def _tensor(self, values: np.ndarray) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers

        transformers.BeitForMaskedImageModeling  # noqa: B018 - loaded only when it is asked for
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--vs=torch needs torch and transformers: {reason}; install both, or leave it out") from error
    return torch, transformers


def _fields(config: ConfigDict) -> dict[str, Any]:
    """Fields of `BeitConfig` for the same network."""
    model, (variant, patch) = config.model, variants.parse(config.model.variant)
    return dict(
        hidden_size=variant.width,
        num_hidden_layers=variant.depth,
        num_attention_heads=variant.heads,
        intermediate_size=4 * variant.width,
        image_size=model.image_size,
        patch_size=patch,
        vocab_size=config.tokenizer.vocab,
        layer_norm_eps=model.norm_eps,
        layer_scale_init_value=model.layer_scale,
        drop_path_rate=model.drop_path,
        use_mask_token=True,
        use_absolute_position_embeddings=model.absolute_positions,
        use_shared_relative_position_bias=model.relative_position == "shared",
        use_relative_position_bias=model.relative_position == "per_block",
    )
