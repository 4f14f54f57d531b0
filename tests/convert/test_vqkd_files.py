"""VQ-KD tokenizers in the files of the official code."""

import math

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from beit_jax import config as configs
from beit_jax import preprocess, tasks
from beit_jax.convert import __main__ as convert
from beit_jax.convert import from_pretrained, names, safetensors_file, save_pretrained
from beit_jax.convert.teachers import load_teacher
from beit_jax.errors import UserError
from beit_jax.runtime.run_once import run_once
from beit_jax.training.params import flatten


def shapes(decoder_depth, target_width):
    config = configs.defaults("tokenizer", "vqkd")
    config.model.update(dict(image_size=224, decoder_depth=decoder_depth, target_width=target_width))
    return flatten(jax.eval_shape(tasks.create_task(config).init, jax.random.key(0)))


@pytest.mark.parametrize(
    ("decoder_depth", "target_width", "parameters"),
    [(1, 512, 94_655_008), (3, 512, 108_829_216), (1, 768, 94_851_872)],
)
def test_as_many_parameters_as_the_official_code(decoder_depth, target_width, parameters):
    found = shapes(decoder_depth, target_width)
    learned = {name: leaf for name, leaf in found.items() if not name.startswith("codebook/")}
    assert sum(math.prod(leaf.shape) for leaf in learned.values()) == parameters


def test_tensors_of_the_official_code():
    found = shapes(3, 512)
    tensors = names.shapes_in(found, "unilm", "tokenizer")
    arrays = {name: np.zeros(leaf.shape, np.float32) for name, leaf in found.items() if name.startswith("codebook/")}
    buffers = names.buffers(arrays, "unilm", "tokenizer")
    assert len(tensors) + len(buffers) == 220
    expected = {
        "encoder.patch_embed.proj.weight": (768, 3, 16, 16),
        "decoder.patch_embed.proj.weight": (768, 32, 1, 1),
        "encoder.blocks.11.attn.qkv.weight": (2304, 768),
        "decoder.blocks.2.mlp.fc1.weight": (3072, 768),
        "decoder.blocks.0.attn.q_bias": (768,),
        "decoder.pos_embed": (1, 197, 768),
        "encoder.fc_norm.weight": (768,),
        "encode_task_layer.2.weight": (32, 768),
        "decode_task_layer.2.weight": (512, 768),
        "quantize.embedding.weight": (8192, 32),
        "quantize.cluster_size": (8192,),
        "quantize.embedding.initted": (1,),
    }
    assert {name: tensors[name] for name in expected} == expected
    assert buffers.keys() == {"quantize.embedding.embed_avg", "quantize.embedding.cluster_size"}


@pytest.fixture
def stored(tmp_path):
    """A small tokenizer, as a checkpoint of its training stores it: path, parameters."""
    config = tiny.config("vqkd")
    params = run_once(tasks.create_task(config).init, jax.random.key(0))
    flat = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    tensors = names.to_layout(flat, "unilm", "tokenizer") | names.buffers(flat, "unilm", "tokenizer")
    tensors |= {"teacher_model.ln_post.weight": np.ones(4, np.float32), "scaling_layer.shift": np.zeros(3, np.float32)}
    path = tmp_path / "vqkd.safetensors"
    safetensors_file.write_tensors(path, tensors)
    return path, flat


def test_read_from_an_official_file(stored, capsys):
    path, expected = stored
    _, params, config = from_pretrained(path, heads=2)
    assert (config.task, config.model.kind, config.model.variant) == ("tokenizer", "vqkd", "Micro/4")
    model = config.model
    assert (model.vocab, model.code_width, model.decoder_depth, model.target_width) == (16, 32, 1, 32)
    found = flatten(params)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        np.testing.assert_array_equal(found[name], leaf)
    told = capsys.readouterr().err
    assert "not used, as this model does not read them: scaling_layer.shift, teacher_model.ln_post" in told


def test_incomplete_files_name_what_is_missing(stored):
    path, _ = stored
    tensors = safetensors_file.read_tensors(path)
    del tensors["decoder.cls_token"]
    safetensors_file.write_tensors(path, tensors)
    with pytest.raises(UserError, match=r"is no complete BEiT checkpoint; missing: decoder.cls_token"):
        from_pretrained(path, heads=2)
    del tensors["encoder.patch_embed.proj.weight"]
    safetensors_file.write_tensors(path, tensors)
    with pytest.raises(UserError, match=r"has no encoder.patch_embed.proj.weight of 4 axes; expected a complete VQ-KD"):
        from_pretrained(path, heads=2)


def test_other_formats_are_refused(stored, tmp_path):
    path, _ = stored
    _, params, config = from_pretrained(path, heads=2)
    with pytest.raises(UserError, match=r"format=.hf. has no layout for .*; expected .*unilm"):
        save_pretrained(tmp_path / "hf", params, config, format="hf")


def test_a_tokenizer_is_no_encoder(stored, tmp_path):
    """A file of VQ-KD in place of one with an encoder that was pre-trained."""
    path, out = stored[0], str(tmp_path / "out")
    for arguments, message in [
        (["--num_classes=3"], "a model of the task 'tokenizer' cannot change its classes or image size; expected no"),
        (["--teacher=dino"], "is no dino: it holds .*q_bias, which networks of BEiT have"),
        (["--teacher=clip"], "is no clip: it holds .*q_bias, which networks of BEiT have"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            convert.main([str(path), out, "--to=beit_jax", "--heads=2", *arguments])
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="a model of the task 'tokenizer' cannot become one of 'classify'"):
        from_pretrained(path, "classify", heads=2, num_classes=3)
    with pytest.raises(UserError, match="is a run of the task 'tokenizer', and no teacher of the kind 'encoder'"):
        load_teacher(path, "encoder", heads=2)


def test_tokens_of_an_image(stored, tmp_path, capsys):
    path, _ = stored
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).resize((18, 18)).save(tmp_path / "image.png")
    convert.main(["--check", str(path), str(tmp_path / "image.png"), "--heads=2"])
    printed = np.array([line.split() for line in capsys.readouterr().out.splitlines()], int)
    _, params, config = from_pretrained(path, heads=2)
    with Image.open(tmp_path / "image.png") as image:
        image = np.asarray(preprocess([image], config.preprocess))
    assert image.min() >= 0 and image.max() <= 1
    tokens = tasks.create_task(config).tokenizer.targets(params, image)
    np.testing.assert_array_equal(printed, tokens[0])
    assert printed.shape == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check", "{path}", "nothing.png", "--heads=2"], "the image nothing.png cannot be read (No such file or"),
        (["--check", "{path}", "image.png", "--to=hf"], "found --check with --to, --teacher or --verify; expected a"),
        (["{path}", "target"], "--to is missing; expected the format of DST, such as --to beit_jax"),
    ],
)
def test_mistakes_of_the_command(stored, arguments, message):
    path, _ = stored
    with pytest.raises((UserError, SystemExit)) as error:
        convert.main([argument.format(path=path) for argument in arguments])
    assert message in str(error.value)
