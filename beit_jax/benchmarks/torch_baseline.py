"""The pre-training step in PyTorch, on the BEiT of transformers or timm, to compare speeds with."""

from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from beit_jax import extras
from beit_jax.config.pretrain import num_masked
from beit_jax.errors import UserError
from beit_jax.models import variants
from beit_jax.typing import HostBatch

DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class TorchBaseline:
    """Forward, backward, clipping and AdamW on the same examples with given tokens; see `timing.Timed`."""

    def __init__(self, config: ConfigDict, dtype: str, batch: HostBatch, kind: str = "torch"):
        """Builds the model, from random weights.

        Args:
          config: of the pre-training.
          dtype: of the matrix products, float32 or bfloat16 (autocast over float32 parameters, as in training).
          batch: `image`, `mask` and `tokens`.
          kind: one of `table.BASELINES`; "compiled" is torch.compile.

        Raises:
          UserError: torch or the library is missing, or torch lacks the device that JAX runs on.
        """
        library, _, compiled = kind.partition("_")
        self._torch, module = _import_libraries(kind, "timm" if library == "timm" else "transformers")
        torch, backend = self._torch, jax.default_backend()
        if backend not in DEVICES or (backend == "gpu" and not torch.cuda.is_available()):
            raise UserError(f"--vs={kind}: JAX runs on {backend}, but torch cannot; expected a CPU, or a GPU for both")
        self._device, self._clip = DEVICES[backend], config.optimizer.clip_norm
        torch.manual_seed(config.seed)
        build = _timm if library == "timm" else _transformers
        model, name = build(torch, module, config)
        self._model = model.to(self._device).train()
        self._loss = torch.compile(self._model) if compiled else self._model
        settings = config.optimizer
        self._optimizer = torch.optim.AdamW(  # its epsilon is optax's, 1e-8
            model.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self._autocast = dict(device_type=self._device, dtype=torch.bfloat16, enabled=dtype == "bfloat16")
        self._batch = [
            self._tensor(values) for values in (batch["image"].transpose(0, 3, 1, 2), *_targets(config, batch))
        ]
        self.name = f"{name}, torch {torch.__version__}, {'torch.compile' if compiled else 'not compiled'}"
        self.loss = float("nan")

    def __call__(self, first: int, count: int) -> None:
        """Makes `count` steps, and waits for the last."""
        for _ in range(count):
            self._optimizer.zero_grad(set_to_none=True)
            with self._torch.autocast(**self._autocast):
                loss = self._loss(*self._batch)
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


def _targets(config: ConfigDict, batch: HostBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks bool `[b, n]`, row-major positions of `num_masked` patches `[b, k]`, masked first, and their tokens.

    Tokens of patches that are not masked are -100, which PyTorch's cross-entropy leaves out.
    """
    mask = batch["mask"].reshape(len(batch["mask"]), -1)
    positions = np.argsort(~mask, axis=1, kind="stable")[:, : num_masked(config)].astype(np.int64)
    tokens = np.where(mask, batch["tokens"].reshape(mask.shape), -100).astype(np.int64)
    return mask, positions, np.take_along_axis(tokens, positions, axis=1)


def _import_libraries(kind: str, library: str) -> tuple[Any, Any]:
    extras.check_installed("torch", library)
    try:
        import torch

        if library == "timm":
            import timm as module
            import timm.models.beit  # noqa: F401
        else:
            import transformers as module

            module.BeitForMaskedImageModeling  # noqa: B018 - loaded only when it is asked for
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--vs={kind} needs torch and {library}: {reason}; install both, or leave it out") from error
    return torch, module


def _transformers(torch: Any, transformers: Any, config: ConfigDict) -> tuple[Any, str]:
    """Transformers' own model, which computes the logits of all patches."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.beit = transformers.BeitForMaskedImageModeling(transformers.BeitConfig(**_fields(config)))

        def forward(self, images: Any, mask: Any, positions: Any, tokens: Any) -> Any:
            logits = self.beit(pixel_values=images, bool_masked_pos=mask).logits
            chosen = logits.gather(1, positions[..., None].expand(-1, -1, logits.shape[-1]))
            return torch.nn.functional.cross_entropy(chosen.flatten(0, 1).float(), tokens.flatten())

    model = Model()
    attention = model.beit.config._attn_implementation
    return model, f"transformers {transformers.__version__} (attention: {attention})"


def _timm(torch: Any, timm: Any, config: ConfigDict) -> tuple[Any, str]:
    """Timm's encoder, with a mask token and a head on `num_masked` positions, which timm lacks."""
    model, (variant, patch) = config.model, variants.parse(config.model.variant)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.beit = timm.models.beit.Beit(
                img_size=model.image_size,
                patch_size=patch,
                num_classes=0,
                global_pool="",
                embed_dim=variant.width,
                depth=variant.depth,
                num_heads=variant.heads,
                init_values=model.layer_scale or None,
                drop_path_rate=model.drop_path,
                use_abs_pos_emb=model.absolute_positions,
                use_shared_rel_pos_bias=model.relative_position == "shared",
                use_rel_pos_bias=model.relative_position == "per_block",
            )
            self.mask_token = torch.nn.Parameter(torch.zeros(1, 1, variant.width))
            self.head = torch.nn.Linear(variant.width, config.tokenizer.vocab)

        def forward(self, images: Any, mask: Any, positions: Any, tokens: Any) -> Any:
            beit, x = self.beit, self.beit.patch_embed(images)
            x = torch.where(mask[..., None], self.mask_token.to(x.dtype), x)
            x = torch.cat([beit.cls_token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
            x = x if beit.pos_embed is None else x + beit.pos_embed
            bias = beit.rel_pos_bias() if beit.rel_pos_bias is not None else None
            for block in beit.blocks:
                x = block(x, shared_rel_pos_bias=bias)
            x = beit.norm(x)[:, 1:].gather(1, positions[..., None].expand(-1, -1, variant.width))
            return torch.nn.functional.cross_entropy(self.head(x).flatten(0, 1).float(), tokens.flatten())

    return Model(), f"timm {timm.__version__} (head on {num_masked(config)} positions)"


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
