"""The training of VQ-KD beside one in PyTorch, which is written from the published description, not from our code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from ml_collections import ConfigDict

from beit_jax.convert import names
from beit_jax.models.vqkd_tokenizer import VqkdTokenizer
from beit_jax.training.optimizer import build_optimizer
from beit_jax.training.params import flatten
from beit_jax.training.train_step import make_step, new_state

torch = pytest.importorskip("torch")

STEPS, IMAGES, SIDE, PATCH, HEADS, CODES, DECAY, TARGET = 5, 6, 16, 4, 2, 12, 0.9, 10
SECTION = ConfigDict(
    dict(kind="vqkd", variant=f"32x2x{HEADS}/{PATCH}", vocab=CODES, code_width=8, decoder_depth=1, target_width=TARGET)
)
OPTIMIZER = ConfigDict(
    dict(lr=3e-3, min_lr=1e-4, schedule="cosine", betas=(0.9, 0.99), weight_decay=1.0, clip_norm=0.0, layer_decay=1.0)
)
RANDOM = np.random.default_rng(0)
TEACHER = RANDOM.normal(size=(PATCH * PATCH * 3, TARGET)).astype(np.float32)


def patches(images):
    return rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=PATCH, q=PATCH)


class LinearTeacher:
    """Features that are a linear function of the pixels of a patch."""

    grid = (SIDE // PATCH, SIDE // PATCH)

    def features(self, params, images):
        return patches(images) @ TEACHER


@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """As much of a task as a training step needs."""

    tokenizer: VqkdTokenizer

    @property
    def without_gradient(self):
        return self.tokenizer.without_gradient

    def init(self, key):
        return self.tokenizer.init(key)

    def loss(self, params, frozen, batch, key, step):
        return self.tokenizer.loss(params, {}, batch["image"], key, step)


@pytest.fixture
def task():
    settings = ConfigDict(dict(commitment=1.0, decay=DECAY, revive_below=0.0, unroll=1))
    return Learned(VqkdTokenizer(SECTION, SIDE, settings=settings, teacher=LinearTeacher()))


def unit(x):
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


class Reference:
    """VQ-KD on a dict of tensors by their official names."""

    def __init__(self, tensors):
        self.p = {name: torch.tensor(np.array(tensor), dtype=torch.float64) for name, tensor in tensors.items()}
        self.learned = {name: t.requires_grad_() for name, t in self.p.items() if not name.startswith("quantize")}

    def transformer(self, x, network, patch, depth):
        p = {name.removeprefix(f"{network}."): tensor for name, tensor in self.p.items()}
        linear, norm = torch.nn.functional.linear, torch.nn.functional.layer_norm
        x = torch.nn.functional.conv2d(x, p["patch_embed.proj.weight"], p["patch_embed.proj.bias"], stride=patch)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([p["cls_token"].expand(len(x), -1, -1), x], 1) + p["pos_embed"]
        width = x.shape[-1]
        for i in range(depth):
            b = {name.removeprefix(f"blocks.{i}."): tensor for name, tensor in p.items()}
            y = norm(x, (width,), b["norm1.weight"], b["norm1.bias"], 1e-6)
            bias = torch.cat([b["attn.q_bias"], torch.zeros(width, dtype=x.dtype), b["attn.v_bias"]])
            q, k, v = linear(y, b["attn.qkv.weight"], bias).reshape(*y.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            y = (weights @ v).transpose(1, 2).flatten(2)
            x = x + linear(y, b["attn.proj.weight"], b["attn.proj.bias"])
            y = norm(x, (width,), b["norm2.weight"], b["norm2.bias"], 1e-6)
            y = torch.nn.functional.gelu(linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
            x = x + linear(y, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        return norm(x[:, 1:], (width,), p["fc_norm.weight"], p["fc_norm.bias"], 1e-6)

    def head(self, x, name):
        linear = torch.nn.functional.linear
        x = torch.tanh(linear(x, self.p[f"{name}.0.weight"], self.p[f"{name}.0.bias"]))
        return linear(x, self.p[f"{name}.2.weight"], self.p[f"{name}.2.bias"])

    def vectors(self, images):
        pixels = torch.tensor(images, dtype=torch.float64).permute(0, 3, 1, 2) * 2 - 1
        return unit(self.head(self.transformer(pixels, "encoder", PATCH, 2), "encode_task_layer"))

    def k_means(self, flat, start):
        means = flat[start]
        for _ in range(10):
            nearest = (flat @ means.T).argmax(1)
            for code in range(CODES):
                if (nearest == code).any():
                    means[code] = unit(flat[nearest == code].mean(0))
        self.p["quantize.embedding.weight"] = means

    def loss(self, images):
        z, codes = self.vectors(images), self.p["quantize.embedding.weight"]
        self.flat = z.detach().flatten(0, 1)
        self.tokens = ((z.detach()[:, :, None] - codes) ** 2).sum(-1).argmin(-1)
        chosen = codes[self.tokens]
        passed = z + (chosen - z).detach()
        side = SIDE // PATCH
        grid = passed.transpose(1, 2).reshape(len(z), -1, side, side)
        predicted = self.head(self.transformer(grid, "decoder", 1, 1), "decode_task_layer")
        features = torch.tensor(patches(images) @ TEACHER, dtype=torch.float64)
        distance = 1 - torch.nn.functional.cosine_similarity(predicted, features, dim=-1, eps=0.0)
        return distance.mean() + ((chosen - z) ** 2).mean()

    def move_codes(self):
        codes, tokens = self.p["quantize.embedding.weight"], self.tokens.flatten()
        counts = torch.bincount(tokens, minlength=CODES).double()
        for code in range(CODES):
            if counts[code]:
                mean = unit(self.flat[tokens == code].mean(0))
                codes[code] = unit(DECAY * codes[code] + (1 - DECAY) * mean)
        self.p["quantize.cluster_size"] = DECAY * self.p["quantize.cluster_size"] + (1 - DECAY) * counts


def official(params):
    """By the names of the official code."""
    return names.to_layout(flatten(params), "unilm", "tokenizer")


def summed_loss(params, task, images, key):
    return task.loss(params, {}, {"image": jnp.asarray(images)}, key, 0)[0]["loss"][0]


def test_five_steps(task):
    key = jax.random.key(1)
    optimizer, rate = build_optimizer(OPTIMIZER, total_steps=20, warmup_steps=2)
    state = new_state(task, optimizer, jax.random.key(2), ema=False)
    # Weights large enough that codes and attention differ from patch to patch.
    state = state.replace(params=jax.tree.map(lambda leaf: leaf * (4.0 if leaf.ndim > 1 else 1.0), state.params))
    batches = [RANDOM.random((IMAGES, SIDE, SIDE, 3), np.float32) for _ in range(STEPS)]
    reference = Reference(official(state.params))
    undecayed = [
        name for name, t in reference.learned.items() if t.ndim == 1 or name.endswith(("cls_token", "pos_embed"))
    ]
    groups = [
        {"params": [reference.learned[name] for name in undecayed], "weight_decay": 0.0},
        {"params": [t for name, t in reference.learned.items() if name not in undecayed], "weight_decay": 1.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.99), eps=1e-8)
    step = jax.jit(make_step(task, optimizer))
    used = set()
    for number, images in enumerate(batches):
        if not number:
            flat = reference.vectors(images).detach().flatten(0, 1)
            order = jax.random.permutation(jax.random.split(jax.random.fold_in(key, 0))[0], len(flat))
            reference.k_means(flat, torch.tensor(np.asarray(order[:CODES])))
        expected = reference.loss(images)
        if number == 0:
            own = jax.grad(summed_loss)(state.params, task, images, jax.random.fold_in(key, 0))
            gradients = official(own)
        state, metrics = step(state, {}, {"image": jnp.asarray(images)}, key)
        assert float(metrics["loss"][0]) / IMAGES == pytest.approx(float(expected), rel=2e-5)
        theirs.zero_grad()
        expected.backward()
        if number == 0:
            for name, tensor in reference.learned.items():
                largest = float(tensor.grad.abs().max())  # ours are float32
                np.testing.assert_allclose(gradients[name] / IMAGES, tensor.grad, atol=2e-4 * largest, err_msg=name)
        for group in theirs.param_groups:
            group["lr"] = float(rate(number))
        theirs.step()
        reference.move_codes()
        used |= set(reference.tokens.flatten().tolist())
    assert len(used) > CODES // 2
    found = official(state.params)
    for name in (*reference.learned, "quantize.embedding.weight", "quantize.cluster_size"):
        np.testing.assert_allclose(found[name], reference.p[name].detach(), atol=2e-4, err_msg=name)
    tokens = task.tokenizer.targets(state.params, jnp.asarray(batches[0]))
    codes = reference.p["quantize.embedding.weight"]
    nearest = ((reference.vectors(batches[0])[:, :, None] - codes) ** 2).sum(-1).argmin(-1)
    np.testing.assert_array_equal(rearrange(tokens, "b h w -> b (h w)"), nearest)
