"""Teachers of live libraries, read here: the same features in float32."""

import json

import jax
import numpy as np
import pytest

from beit_jax.convert.teachers import load_teacher
from beit_jax.models.teacher import features_on_grid

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("torchvision_without_its_binary")
TOLERANCE = 1e-5
SIZES = dict(
    hidden_size=64, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8
)
PIXELS = np.random.default_rng(0).random((2, 32, 32, 3), dtype=np.float32)


def randomise(model):
    """Random weights, none at its initial value."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.2
        ones = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = ones + scale * values
    return model.eval()


def normalized(mean, std):
    return torch.from_numpy(np.moveaxis((PIXELS - np.float32(mean)) / np.float32(std), -1, 1).copy())


def assert_features(teacher, params, expected):
    found = jax.jit(teacher.features)(params, PIXELS)
    assert found.shape == expected.shape == (2, 16, teacher.width)
    assert expected.std() > 0.1 and np.abs(found - expected.numpy()).max() <= TOLERANCE


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def clip(request, tmp_path_factory):
    """A CLIP of transformers, its folder, and its features of patches as BEiT v2 takes them."""
    folder = tmp_path_factory.mktemp("clip")
    config = transformers.CLIPVisionConfig(**SIZES, projection_dim=24, hidden_act=request.param)
    model = randomise(transformers.CLIPVisionModelWithProjection(config))
    model.save_pretrained(folder)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    with torch.no_grad():
        hidden = model.vision_model(normalized(mean, std)).last_hidden_state[:, 1:]
        features = model.visual_projection(model.vision_model.post_layernorm(hidden))
    return folder, model, features, request.param


def test_clip_of_transformers(clip):
    folder, _, features, gelu = clip
    teacher, params = load_teacher(folder)
    assert teacher.section.variant == "64x3x4/8" and teacher.image_size == 32 and teacher.grid == (4, 4)
    assert teacher.section.gelu == {"quick_gelu": "quick", "gelu": "exact"}[gelu]
    assert_features(teacher, params, features)


def test_clip_before_the_projection(clip):
    folder, model, _, _ = clip
    with torch.no_grad():
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        hidden = model.vision_model(normalized(mean, std)).last_hidden_state[:, 1:]
        expected = model.vision_model.post_layernorm(hidden)
    assert_features(*load_teacher(folder, projection=0), expected)


def openai_names(model):
    """The tensors of a CLIP of transformers under OpenAI's names, written without a look at `beit_jax.convert`."""
    state = {name.removeprefix("vision_model."): value for name, value in model.state_dict().items()}
    state.pop("embeddings.position_ids", None)
    out = {
        "class_embedding": state.pop("embeddings.class_embedding"),
        "conv1.weight": state.pop("embeddings.patch_embedding.weight"),
        "positional_embedding": state.pop("embeddings.position_embedding.weight"),
        "proj": state.pop("visual_projection.weight").T.contiguous(),
    }
    for theirs, mine in {"pre_layrnorm": "ln_pre", "post_layernorm": "ln_post"}.items():
        out |= {f"{mine}.{end}": state.pop(f"{theirs}.{end}") for end in ("weight", "bias")}
    for i in range(3):
        block, to = f"encoder.layers.{i}.", f"transformer.resblocks.{i}."
        for end in ("weight", "bias"):
            out[f"{to}attn.in_proj_{end}"] = torch.cat([state.pop(f"{block}self_attn.{p}_proj.{end}") for p in "qkv"])
            for theirs, mine in {
                "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
                "layer_norm1": "ln_1", "layer_norm2": "ln_2",
            }.items():  # fmt: skip
                out[f"{to}{mine}.{end}"] = state.pop(f"{block}{theirs}.{end}")
    assert not state
    return out


@pytest.mark.parametrize("prefix", ["", "visual.", "module.visual."])
def test_clip_of_openai(clip, tmp_path, prefix):
    """A tower alone, or a whole CLIP: the texts' tower and the buffers are left out."""
    _, model, features, gelu = clip
    state = {f"{prefix}{name}": value for name, value in openai_names(model).items()}
    if prefix:
        outer = prefix.removesuffix("visual.")
        texts = {
            "logit_scale": torch.ones(()), "text_projection": torch.ones(4, 4), "ln_final.weight": torch.ones(4),
            "positional_embedding": torch.ones(7, 4), "token_embedding.weight": torch.ones(9, 4),
            "transformer.resblocks.5.ln_1.weight": torch.ones(4), "context_length": torch.tensor(77),
        }  # fmt: skip
        state |= {f"{outer}{name}": value for name, value in texts.items()}
    torch.save({"state_dict": state} if "module" in prefix else state, tmp_path / "clip.pt")
    said = {"quick_gelu": "quick", "gelu": "exact"}[gelu]
    teacher, params = load_teacher(tmp_path / "clip.pt", gelu=said, heads=4)
    assert_features(teacher, params, features)


def test_clip_of_open_clip_and_of_its_settings(clip, tmp_path):
    _, model, features, gelu = clip
    state = {f"visual.{name}": value for name, value in openai_names(model).items()}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    settings = {"model_cfg": {"quick_gelu": gelu == "quick_gelu", "vision_cfg": {"head_width": 16}}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    assert_features(*load_teacher(tmp_path), features)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_networks_of_timm(tmp_path, kind):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    name = "vit_base_patch16_clip_quickgelu_224" if kind == "clip" else "vit_base_patch16_224"
    sizes = dict(img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=4, num_classes=24 if kind == "clip" else 0)
    model = randomise(timm.create_model(name, **sizes))
    if kind == "clip":
        model.head.bias.data.zero_()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name}))
    teacher, params = load_teacher(tmp_path, kind, heads=4)
    with torch.no_grad():
        images = normalized(*(np.array(numbers) for numbers in teacher.statistics))
        expected = model.forward_features(images)[:, 1:]
        expected = model.head(expected) if kind == "clip" else expected
    assert_features(teacher, params, expected)


def test_dino_of_transformers(tmp_path):
    """`facebook/dino-vitb16` is such a model."""
    model = randomise(transformers.ViTModel(transformers.ViTConfig(**SIZES)))
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = model(normalized([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])).last_hidden_state[:, 1:]
    teacher, params = load_teacher(tmp_path, "dino")
    assert teacher.norm_eps == 1e-12 and teacher.section.variant == "64x3x4/8"
    assert_features(teacher, params, expected)
    torch.save(model.state_dict(), tmp_path / "memory.pth")  # names in the memory of transformers 5
    assert_features(*load_teacher(tmp_path / "memory.pth", "dino"), expected)


class DinoBlock(torch.nn.Module):
    """A block of DINO's `vision_transformer.py`, with its names."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (torch.nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = torch.nn.Module(), torch.nn.Module()
        self.attn.qkv, self.attn.proj = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.mlp.fc1, self.mlp.fc2 = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.attn.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1) @ v
        x = x + self.attn.proj(mixed.transpose(1, 2).reshape(b, n, d))
        return x + self.mlp.fc2(torch.nn.functional.gelu(self.mlp.fc1(self.norm2(x))))


class Dino(torch.nn.Module):
    def __init__(self, width=64, heads=4, depth=3):
        super().__init__()
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, 17, width))
        self.patch_embed = torch.nn.Module()
        self.patch_embed.proj = torch.nn.Conv2d(3, width, 8, 8)
        self.blocks = torch.nn.Sequential(*(DinoBlock(width, heads) for _ in range(depth)))
        self.norm = torch.nn.LayerNorm(width, eps=1e-6)

    def forward(self, images):
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.norm(self.blocks(x))[:, 1:]


def test_dino_of_its_authors(tmp_path):
    model = randomise(Dino())
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    with torch.no_grad():
        expected = model(normalized([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    teacher, params = load_teacher(tmp_path / "dino.pth", "dino", heads=4)
    assert teacher.norm_eps == 1e-6
    assert_features(teacher, params, expected)


@pytest.mark.parametrize("grid", [3, 4, 7, 8])
def test_features_on_a_grid_as_in_pytorch(grid):
    features = np.random.default_rng(1).standard_normal((2, 16, 5)).astype(np.float32)
    square = torch.from_numpy(features.transpose(0, 2, 1).reshape(2, 5, 4, 4))
    theirs = torch.nn.functional.interpolate(square, size=(grid, grid), mode="bilinear", align_corners=False)
    found = np.asarray(features_on_grid(features, (4, 4), (grid, grid)))
    ours = found.transpose(0, 2, 1).reshape(2, 5, grid, grid)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
