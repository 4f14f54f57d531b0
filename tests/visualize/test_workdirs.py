"""Which folders `visualize report` takes: those of runs, of recipes and of their stages."""

import pytest

from beit_jax import config as configs
from beit_jax.errors import UserError
from beit_jax.visualize import __main__ as visualize
from beit_jax.visualize.workdirs import recipe_of, workdir_of


@pytest.fixture
def recipe(tmp_path):
    """The workdir of a recipe whose stage `arm_seed0` has begun."""
    workdir = tmp_path / "recipe"
    (workdir / "arm_seed0").mkdir(parents=True)
    made = configs.recipe(arm_seed0=configs.defaults("classify"), later=configs.defaults("tokenizer"))
    (workdir / "config.json").write_text(configs.to_json(made))
    return workdir


def test_the_recipe_of_a_stage(recipe):
    assert workdir_of(recipe / "arm_seed0") == recipe / "arm_seed0"
    assert tuple(recipe_of(recipe / "arm_seed0").stages) == ("arm_seed0", "later")


def test_folders_that_are_no_workdirs(recipe, tmp_path):
    for folder, part in (
        (recipe / "arm_seed0" / "checkpoints" / "40", f"lies in the run {recipe / 'arm_seed0'}; give that folder"),
        (recipe / "other", f"lies in the run {recipe}; give that folder"),
        (tmp_path, f"holds several workdirs; give one of them or more: {recipe}"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError) as error:
            visualize.main(["report", str(folder)])
        assert str(error.value) == f"{folder} {part}"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as error:
        visualize.main(["report", str(tmp_path / "empty"), str(tmp_path / "file")])
    empty, file = error.value.lines
    assert empty == f"{tmp_path}/empty holds no run; expected the --workdir of beit_jax.train"
    assert file.startswith(f"{tmp_path}/file holds no run: it is a file")


@pytest.mark.parametrize("text", ["[1]", '{"stages": 3}', '{"stages": "one"}', "{", "\xff", '{"model_type": "beit"}'])
def test_a_config_of_another_program(tmp_path, text):
    """Above a folder, it is no recipe; in the folder itself, it is refused in one line."""
    (tmp_path / "one").mkdir()
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    assert recipe_of(tmp_path / "one") is None
    expected = "its config.json is none of this library" if '"' in text else r"config\.json cannot be read"
    with pytest.raises(UserError, match=expected) as error:
        visualize.main(["report", str(tmp_path)])
    assert str(error.value).startswith(str(tmp_path))
