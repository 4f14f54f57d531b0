"""What may import what: arrows go down, and nothing imports in a circle."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "beit_jax").rglob("*.py")
}
LEAVES = {"errors", "typing"}
# For each package, those below it.
MAY_IMPORT = {
    "runtime": LEAVES,
    "models": LEAVES,
    "data": LEAVES | {"models", "runtime"},
    "config": LEAVES | {"models", "data", "runtime"},  # of data, four files that import no TensorFlow
    "tasks": LEAVES | {"config", "models"},
    "training": LEAVES | {"config", "runtime", "tasks", "models"},
    "evals": LEAVES | {"tasks", "training"},
    "experiment_splits": LEAVES | {"data", "runtime"},
    "experiment_start": LEAVES | {"config", "models", "runtime", "training"},
    "experiment_config": LEAVES | {"config", "data", "runtime"},
    "experiment_evaluations": LEAVES | {"config", "data", "evals", "experiment_splits", "tasks"},
    "experiment_data": LEAVES
    | {"config", "data", "evals", "experiment_evaluations", "experiment_splits", "runtime", "tasks", "training"},
    "experiment_teacher": LEAVES | {"config", "experiment_start", "runtime", "tasks", "training"},
    "experiment_tokenizer": LEAVES | {"config", "experiment_start", "runtime", "training"},
    "experiment": LEAVES
    | {
        "config",
        "experiment_config",
        "experiment_data",
        "experiment_evaluations",
        "experiment_splits",
        "experiment_start",
        "experiment_teacher",
        "experiment_tokenizer",
    }
    | {"tasks", "training"},
}
HEAVY = {
    "tensorflow": ("data", "benchmarks"),  # where it is timed
    "tensorflow_datasets": ("data",),
    "torch": ("convert", "benchmarks"),
    "transformers": ("convert", "benchmarks"),
    "timm": ("convert", "benchmarks"),
    "matplotlib": ("visualize",),
}


def package_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def imported(path: Path) -> Iterator[str]:
    """Everything that a file imports, also within functions, but for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]
    unused = {id(inner) for node in checked for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in unused:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


GRAPH = {module: set(imported(path)) - {module} for module, path in MODULES.items()}


def test_nothing_imports_in_a_circle():
    graphlib.TopologicalSorter({name: found & MODULES.keys() for name, found in GRAPH.items()}).prepare()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_go_down(package):
    found = {
        (module, other)
        for module, others in GRAPH.items()
        if package_of(module) == package
        for other in others & MODULES.keys()
        if package_of(other) not in MAY_IMPORT[package] | {package, ""}
    }
    assert not found
    if package == "config":
        data = {other for module, others in GRAPH.items() if package_of(module) == "config" for other in others}
        names = ("op_chain", "sources.layout", "sources.label_choice", "sources.data_sets")
        expected = {f"beit_jax.data.{name}" for name in names}
        assert {other for other in data if package_of(other) == "data"} == expected


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_are_imported_where_they_belong(library):
    found = {module for module, others in GRAPH.items() if any(o.split(".")[0] == library for o in others)}
    assert {package_of(module) for module in found} <= set(HEAVY[library])


def test_tasks_are_named_in_few_files():
    """A new task is one file in tasks/ and one in config/: no other file outside convert/ asks for a task's name."""
    asks = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            sides = (node.left, *node.comparators)
            literal = any(isinstance(part, ast.Constant) for side in sides for part in ast.walk(side))
            if literal and any(isinstance(side, ast.Attribute) and side.attr == "task" for side in sides):
                asks.append(module)
    allowed = {"beit_jax.tokenize_dataset", "beit_jax.benchmarks.step"}  # which are for pre-training on tokens
    assert {module for module in asks if package_of(module) != "convert"} <= allowed


METHOD = (
    *("data/ops/mask", "tasks/pretrain", "tasks/masked_modelling"),
    *("models/vit", "models/block", "models/attention", "models/heads"),
)


def test_the_method_is_one_reading():
    """Masks, encoder, head and loss of the pre-training: what a reader of the paper looks for."""
    lines = [len((ROOT / "beit_jax" / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in METHOD]
    assert sum(lines) <= 800, dict(zip(METHOD, lines, strict=True))
