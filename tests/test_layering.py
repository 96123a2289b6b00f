"""The house rules that a reader relies on, checked on the source alone."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "vilbert_jax"

# Low to high; a module may import from its own layer and from those before it.
LAYERS = (
    ("errors", "paths", "hub", "progress", "signals", "launch", "peers", "hosts"),
    ("config", "released_config", "model_size", "losses", "metrics"),
    ("nn",),
    ("trunk", "model", "detector", "sharding"),
    ("data",),
    ("checkpoints",),
    ("extraction",),
    ("tasks", "training"),
    ("evaluation",),
    ("predictor",),
    ("ablation",),
    ("planning",),
    ("cli",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
NUMPY_ONLY = ("errors", "hub", "config", "released_config", "metrics", "data")
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: pathlib.Path, *, at_import_time: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_time else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = layer(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        assert top not in ("experiments", "configs", "tfds_builders", "tests", "benchmarks"), name
        if top == "vilbert_jax" and rest:
            other = rest.split(".")[0]
            assert HEIGHT[other] <= HEIGHT[own], f"{own} imports {name}"
            if {own, other} == {"tasks", "training"}:
                raise AssertionError(f"{own} and {other} must not know each other")


@pytest.mark.parametrize("path", [p for p in SOURCES if layer(p) in NUMPY_ONLY], ids=lambda path: path.name)
def test_the_data_path_never_imports_jax(path):
    """Worker processes import it; jax would cost each of them seconds and memory."""
    assert not {name.split(".")[0] for name in imports(path, at_import_time=True)} & {"jax", "flax", "optax", "grain"}


def test_every_module_has_a_layer():
    assert {layer(path) for path in SOURCES} <= HEIGHT.keys()


def test_experiments_are_thin_and_imported_by_nobody():
    mains = sorted((ROOT / "experiments").glob("*.py"))
    assert mains
    for path in mains:
        assert len(path.read_text().splitlines()) <= 80, path
    for path in ROOT.rglob("*.py"):
        if ".venv" not in path.parts and path.parent != ROOT / "tests" / "end_to_end":
            assert not any(name.split(".")[0] == "experiments" for name in imports(path)), path


def test_no_grab_bags():
    names = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert not names & {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
