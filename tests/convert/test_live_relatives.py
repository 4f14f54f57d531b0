"""Relatives of BEiT in the live libraries, with random weights: BEiT v2 in timm, data2vec and DiT in transformers."""

import json

import jax
import numpy as np
import pytest
from test_live_libraries import channels_first, draw, randomise
from test_live_state_dicts import SIDE, difference

import beit_jax
from beit_jax.convert import detect, files, names, state_dicts
from beit_jax.convert.__main__ import main as convert
from beit_jax.errors import UserError
from beit_jax.models.pixel_statistics import STATISTICS
from beit_jax.tasks import create_task
from beit_jax.training.params import flatten

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("torchvision_without_its_binary")
TOLERANCE = 1e-4
SIZES = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256)
# Of microsoft/dit-base, -large and -base-finetuned-rvlcdip, beside values that are those of `BeitConfig`.
DIT = dict(use_absolute_position_embeddings=True, use_relative_position_bias=False, layer_scale_init_value=0.1)
DIT_SIZES = {
    "base": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072),
    "large": dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
DIT_PIXELS = dict(
    crop_size=224, do_center_crop=False, do_normalize=True, do_resize=True, reduce_labels=False, resample=2, size=224,
    feature_extractor_type="BeitFeatureExtractor", image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
)  # fmt: skip


def timm_model(name, **fields):
    timm = pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    return timm, randomise(timm.create_model(name, pretrained=False, **fields))


def assert_same_tensors(first, second):
    """Of two state dicts of PyTorch, or of arrays."""
    assert set(first) == set(second)
    for name in first:
        np.testing.assert_array_equal(np.asarray(first[name]), np.asarray(second[name]), err_msg=name)


def assert_loads_in_transformers(kind, folder, theirs):
    """transformers finds every tensor, and writes what it wrote before, to the last bit."""
    again, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_tensors(files.read_files(theirs).state, files.read_files(folder).state)
    return again


@pytest.mark.parametrize(("name", "resize"), [("beitv2_base_patch16_224", 248), ("beitv2_large_patch16_224", 235)])
def test_beit_v2_of_timm(tmp_path, name, resize, capsys):
    """As timm saves it for the hub; the large one with fewer blocks."""
    depth = {} if "base" in name else dict(depth=2)
    timm, reference = timm_model(name, **depth)
    timm.models.save_for_hf(reference, tmp_path / "theirs", model_args=depth)
    loaded = beit_jax.from_pretrained(tmp_path / "theirs")
    images = draw(224)
    with torch.no_grad():
        expected = reference(channels_first(images)).numpy()
    found = jax.jit(loaded.model.apply)({"params": loaded.params}, images)
    assert expected.std() > 0.1 and np.abs(found - expected).max() <= TOLERANCE
    section = loaded.config.preprocess
    assert (section.mean, section.std) == STATISTICS["imagenet"]
    assert (section.resize, section.interpolation, section.keep_ratio) == (resize, "bicubic", True)
    assert "statistics" not in capsys.readouterr().err

    beit_jax.save_pretrained(tmp_path / "ours", loaded.params, loaded.config, format="timm")
    again = timm.create_model(f"local-dir:{tmp_path}/ours", pretrained=True).eval()
    assert_same_tensors(again.state_dict(), reference.state_dict())
    for key in ("mean", "std", "interpolation", "num_classes", "input_size"):
        assert tuple(np.atleast_1d(again.pretrained_cfg[key])) == tuple(np.atleast_1d(reference.pretrained_cfg[key]))
    assert int(224 / again.pretrained_cfg["crop_pct"]) == resize


def small_v2(**fields):
    """A small BEiT v2 of timm, and its state dict as the official code saves it."""
    sizes = dict(img_size=SIDE, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=5)
    _, model = timm_model("beitv2_base_patch16_224", **(sizes | fields))
    index = torch.from_numpy(names.relative_position_index((4, 4)).astype(np.int64))
    return model, model.state_dict() | {f"blocks.{i}.attn.relative_position_index": index for i in range(2)}


NESTS = {
    "model": lambda state: {"model": state},
    "module": lambda state: {"module": state, "dp_world_size": 8},
    "state_dict": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "module in model": lambda state: {"model": {"module": state, "global_steps": 3}, "epoch": 2},
    "module in state_dict in model": lambda state: {"model": {"state_dict": {"module": state}}},
}


@pytest.mark.parametrize("nest", NESTS)
def test_fine_tuned_beit_v2_of_the_official_code(tmp_path, nest, capsys):
    model, state = small_v2()
    torch.save(NESTS[nest](state), tmp_path / "beitv2_base_patch16_224_pt1k_ft1k.pth")
    loaded = beit_jax.from_pretrained(tmp_path / "beitv2_base_patch16_224_pt1k_ft1k.pth")
    assert difference(loaded, model) <= TOLERANCE
    assert (loaded.config.preprocess.mean, loaded.config.preprocess.std) == STATISTICS["imagenet"]
    assert "those of all published models of BEiT v2" in capsys.readouterr().err
    beit_jax.save_pretrained(tmp_path / "ours", loaded.params, loaded.config, format="unilm")
    assert_same_tensors(torch.load(tmp_path / "ours" / "checkpoint.pth")["model"], state)


def official_names(depth):
    """Of UPerNet on BEiT in the official code, with the parts of mmsegmentation."""
    norm = [f"bn.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]
    convs = [f"decode_head.psp_modules.{i}.1" for i in range(4)] + ["auxiliary_head.convs.0"]
    convs += [f"decode_head.{kind}_convs.{i}" for kind in ("lateral", "fpn") for i in range(3)]
    convs += ["decode_head.bottleneck", "decode_head.fpn_bottleneck"]
    block = [
        f"{part}.{kind}"
        for part in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
        for kind in ("weight", "bias")
    ]
    block += ["gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias", "attn.qkv.weight"]
    block += ["attn.relative_position_bias_table", "attn.relative_position_index"]
    pyramid = [f"fpn{name}.{kind}" for name in ("1.0", "1.1", "1.3", "2.0") for kind in ("weight", "bias")]
    pyramid += [name.replace("bn", "fpn1.1") for name in norm[2:]]
    encoder = ["cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    encoder += [f"blocks.{i}.{name}" for i in range(depth) for name in block]
    return {
        *(f"backbone.{name}" for name in encoder + pyramid),
        *(f"{conv}.{part}" for conv in convs for part in ["conv.weight", *norm]),
        *(f"{head}.conv_seg.{kind}" for head in ("decode_head", "auxiliary_head") for kind in ("weight", "bias")),
    }


def segmentation(kind):
    """A segmentation of transformers, "Beit" or "Data2VecVision"."""
    transformers = pytest.importorskip("transformers")
    sizes = SIZES | dict(num_hidden_layers=12, image_size=SIDE, patch_size=8, num_labels=5)
    settings = dict(use_relative_position_bias=True, out_indices=[3, 5, 7, 11])
    model = randomise(
        getattr(transformers, f"{kind}ForSemanticSegmentation")(
            getattr(transformers, f"{kind}Config")(**(sizes | settings))
        )
    )
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    return model


def of_their_blocks(loaded):
    """transformers takes the outputs of other blocks."""
    assert loaded.model.layers == (3, 5, 7, 11)
    return loaded._replace(model=loaded.model.clone(layers=(1, 3, 5, 9)))


def test_segmentation_of_the_official_code(tmp_path):
    """Written from the weights of transformers, and read again from the nests of training scripts."""
    reference = segmentation("Beit")
    reference.save_pretrained(tmp_path / "theirs")
    _, params, config = beit_jax.from_pretrained(tmp_path / "theirs")
    beit_jax.save_pretrained(tmp_path / "ours", params, config, format="unilm")
    state = torch.load(tmp_path / "ours" / "checkpoint.pth")["state_dict"]
    assert set(state) == official_names(12)
    torch.save({"meta": {"epoch": 9}, "state_dict": {"module": state}}, tmp_path / "beitv2_ft_ade20k.pth")
    loaded = beit_jax.from_pretrained(tmp_path / "beitv2_ft_ade20k.pth")
    assert (loaded.config.preprocess.mean, loaded.config.preprocess.std) == STATISTICS["imagenet"]
    # With the official code's epsilon, which no tensor tells, in place of transformers'.
    encoder = loaded.model.encoder.clone(norm_eps=config.model.norm_eps)
    assert (
        difference(of_their_blocks(loaded._replace(model=loaded.model.clone(encoder=encoder))), reference) <= TOLERANCE
    )
    assert_same_tensors(flatten(loaded.params), flatten(params))


@pytest.mark.parametrize("positions", ["use_relative_position_bias", "use_shared_relative_position_bias"])
@pytest.mark.parametrize("pooling", [True, False])
def test_classifiers_of_data2vec(tmp_path, pooling, positions):
    transformers = pytest.importorskip("transformers")
    settings = dict(image_size=SIDE, patch_size=8, num_labels=5, use_mean_pooling=pooling, layer_norm_eps=0.1)
    config = transformers.Data2VecVisionConfig(**(SIZES | settings | {positions: True}))
    kind = transformers.Data2VecVisionForImageClassification
    reference = randomise(kind(config))
    reference.save_pretrained(tmp_path / "theirs")
    torch.save(reference.state_dict(), tmp_path / "theirs" / "copy.pth")
    loaded = beit_jax.from_pretrained(tmp_path / "theirs")
    assert difference(loaded, reference) <= TOLERANCE and loaded.config.model.norm_eps == 0.1
    assert_same_tensors(flatten(beit_jax.from_pretrained(tmp_path / "theirs/copy.pth").params), flatten(loaded.params))

    convert([str(tmp_path / "theirs"), str(tmp_path / "ours"), "--to=data2vec", "--verify"])
    again = assert_loads_in_transformers(kind, tmp_path / "ours", tmp_path / "theirs")
    assert type(transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "ours")) is kind
    for name in (*SIZES, "layer_norm_eps", "use_mean_pooling", positions):
        assert getattr(again.config, name) == getattr(config, name)
    assert_same_tensors(again.state_dict(), reference.state_dict())
    convert([str(tmp_path / "theirs"), str(tmp_path / "beit"), "--to=hf"])
    as_beit = transformers.BeitForImageClassification.from_pretrained(tmp_path / "beit").eval()
    assert difference(loaded, as_beit) <= TOLERANCE


def test_the_encoder_of_data2vec_alone(tmp_path):
    """As facebook/data2vec-vision-base, with one table for all blocks and no norm; also with a norm."""
    transformers = pytest.importorskip("transformers")
    for number, pooled in enumerate([dict(use_mean_pooling=True), dict(use_mean_pooling=False)]):
        settings = dict(image_size=SIDE, patch_size=8, use_shared_relative_position_bias=True)
        model = randomise(
            transformers.Data2VecVisionModel(transformers.Data2VecVisionConfig(**(SIZES | settings | pooled)))
        )
        model.save_pretrained(tmp_path / str(number))
        loaded = beit_jax.from_pretrained(tmp_path / str(number), num_classes=64)
        loaded.params["head"]["kernel"][...] = np.eye(64)

        def reference(images, model=model, pooled=pooled):
            tokens = model(images).last_hidden_state
            mean = torch.nn.functional.layer_norm(tokens[:, 1:].mean(1), (64,), eps=1e-12)
            return mean if pooled["use_mean_pooling"] else tokens[:, 0]

        assert difference(loaded, reference) <= TOLERANCE


def test_segmentation_of_data2vec(tmp_path):
    reference = segmentation("Data2VecVision")
    reference.save_pretrained(tmp_path / "theirs")
    loaded = beit_jax.from_pretrained(tmp_path / "theirs")
    assert difference(of_their_blocks(loaded), reference) <= TOLERANCE
    beit_jax.save_pretrained(tmp_path / "ours", loaded.params, loaded.config, format="data2vec")
    again = assert_loads_in_transformers(type(reference), tmp_path / "ours", tmp_path / "theirs")
    assert_same_tensors(again.state_dict(), reference.state_dict())


@pytest.mark.parametrize("size", DIT_SIZES)
@pytest.mark.parametrize("head", ["masked", "rvlcdip"])
def test_every_tensor_of_dit(size, head):
    """The published configs, whose tensors hold no numbers here."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BeitConfig(**DIT, **DIT_SIZES[size], use_mask_token=head == "masked", num_labels=16)
    kind = transformers.BeitForMaskedImageModeling if head == "masked" else transformers.BeitForImageClassification
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in kind(config).state_dict().items()}
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    state = state_dicts.named_as_published(tensors, "dit").tensors
    settings = json.loads(config.to_json_string(use_diff=False))
    found = detect.detect_config(files.Files(state, "hf", settings, DIT_PIXELS, {}, {}, []), "dit")
    assert found.model.variant == f"{size[0].upper()}/16" and found.model.absolute_positions
    assert (found.model.relative_position, found.model.layer_scale, found.model.norm_eps) == ("none", 0.1, 1e-12)
    section = found.preprocess
    assert (section.interpolation, section.resize, section.keep_ratio) == ("bilinear", 224, False)
    ours = flatten(jax.eval_shape(create_task(found).init, jax.random.key(0)))
    assert names.shapes_in(ours, "hf", found.task) == {name: value.shape for name, value in state.items()}


@pytest.mark.parametrize("head", ["masked", "rvlcdip"])
def test_dit(tmp_path, head):
    """With fewer and narrower blocks, and its preprocessing."""
    transformers = pytest.importorskip("transformers")
    fields = dict(image_size=224, use_mask_token=head == "masked", num_labels=16, vocab_size=50)
    kind = transformers.BeitForMaskedImageModeling if head == "masked" else transformers.BeitForImageClassification
    reference = randomise(kind(transformers.BeitConfig(**(SIZES | DIT | fields))))
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps(DIT_PIXELS))
    loaded = beit_jax.from_pretrained(tmp_path / "theirs")
    images, mask = draw(224), np.random.default_rng(2).random((1, 14, 14)) < 0.4
    theirs = dict(bool_masked_pos=torch.from_numpy(mask.reshape(1, -1))) if head == "masked" else {}
    with torch.no_grad():
        expected = reference(channels_first(images), **theirs).logits.numpy()
    found = jax.jit(loaded.model.apply)({"params": loaded.params}, images, *((mask,) if head == "masked" else ()))
    assert expected.std() > 0.05 and np.abs(found - expected).max() <= TOLERANCE
    beit_jax.save_pretrained(tmp_path / "ours", loaded.params, loaded.config)
    assert_loads_in_transformers(kind, tmp_path / "ours", tmp_path / "theirs")
    processor = transformers.BeitImageProcessor.from_pretrained(tmp_path / "ours")
    assert list(processor.image_mean) == [0.5] * 3 and processor.resample == 2


def test_beit_3_of_timm_is_refused(tmp_path):
    _, model = timm_model("beit3_base_patch16_224", img_size=SIDE, embed_dim=64, depth=1, num_heads=2)
    torch.save(model.state_dict(), tmp_path / "beit3.pth")
    with pytest.raises(UserError, match=r"has norms within its blocks \(blocks.0.attn.norm.weight\), as BEiT-3 has"):
        beit_jax.from_pretrained(tmp_path / "beit3.pth")
