"""What the package promises by name, and rules of the house that import-linter cannot see."""

import ast
from pathlib import Path

import moesim

PACKAGE = Path(moesim.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_the_public_calls_are_these():
    """Adding or removing a public call is a decision."""
    expected = [
        "capture",
        "compare",
        "export",
        "load_model",
        "load_plan",
        "load_topology",
        "load_trace",
        "plan",
        "simulate",
    ]
    assert expected == moesim.__all__


def test_public_calls_are_not_hidden_by_modules():
    """A submodule of the same name would replace the call as soon as anything imports it."""
    assert [] == [name for name in moesim.__all__ if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).exists()]


def test_every_module_says_what_it_is():
    """A first line that is a sentence."""
    silent = [path.name for path in MODULES if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()]
    assert [] == silent


def test_no_module_has_a_name_without_meaning():
    """No utils, common, helpers, base, manager, misc."""
    assert [] == [
        path.name for path in MODULES if path.stem in ("utils", "common", "helpers", "base", "manager", "misc")
    ]


def test_nothing_is_unpickled():
    """No pickle but the name of its error, no numpy or YAML loading that runs what a file says."""
    for path in MODULES:
        text = path.read_text()
        assert "allow_pickle=True" not in text and "yaml.unsafe" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                assert not {alias.name for alias in node.names} & {"pickle", "dill", "joblib"}, path
            elif isinstance(node, ast.ImportFrom) and node.module == "pickle":
                assert ["UnpicklingError"] == [alias.name for alias in node.names], path


def test_bits_exist_only_in_units():
    """Nobody multiplies or divides a rate by 8 elsewhere."""
    for path in MODULES:
        if path.stem == "units":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
                names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
                eight = any(isinstance(side, ast.Constant) and side.value == 8 for side in (node.left, node.right))
                rate = any("bandwidth" in name or "per_s" in name for name in names)
                assert not (eight and rate), f"{path.name}:{node.lineno}"
