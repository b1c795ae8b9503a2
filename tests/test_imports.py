"""The shape of the package: what importing it costs, which way imports point, how long files are, what is public."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import understudy
from understudy import errors
from understudy.cli import COMMANDS

ROOT = Path(understudy.__file__).parent
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
HEAVY = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "matplotlib", "ray")

# Every row may import from the rows above it, and from its own package; modules of one row know nothing of each other.
LAYERS = (
    ("errors", "environment", "driving"),
    ("schedule", "noise", "whole_files", "quiet", "text_runs", "record_journal"),
    ("reveal", "hub"),
    ("flops", "tokenizer_files"),
    ("denoisers",),
    ("sampling", "work"),
    ("metrics", "saved_samples", "costs", "checkpoint", "data", "importance", "prompts", "conformance"),
    ("training", "evaluation", "planning"),
    ("search", "lightening"),
    ("report", "demo"),
    ("server",),
    ("studio", "cluster"),
    ("cli",),
    ("__main__", "harness"),
)
RANK = {module: rank for rank, row in enumerate(LAYERS) for module in row}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 500, 60


def test_layers_name_every_module_once():
    rooms = {Path(name).parts[0].removesuffix(".py") for name in FILES} - {"__init__"}
    assert sorted(module for row in LAYERS for module in row) == sorted(rooms)


def imports(path):
    """What a file imports of ours, wherever it does so: (line, dotted name without the leading `understudy.`)."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            names = [
                f"understudy.{alias.name}" if node.module == "understudy" and alias.name in RANK else str(node.module)
                for alias in node.names
            ]
        else:
            continue
        # The package itself, asked for its version, is below everything.
        yield from ((node.lineno, name.partition(".")[2]) for name in names if name.startswith("understudy."))


@pytest.mark.parametrize("path", [path for path in FILES if path != "__init__.py"])  # the front door names all rooms
def test_imports_point_one_way(path):
    own = Path(path).parts[0].removesuffix(".py")
    for line, name in imports(path):
        room = name.partition(".")[0]
        assert room == own or RANK[room] < RANK[own], f"{path}:{line} imports {name}"


def test_the_engine_knows_no_network():
    used = {name for path in FILES if path.startswith("sampling/") for _, name in imports(path)}
    assert {name for name in used if name.startswith("denoisers")} == {"denoisers.protocol"}


def run_python(code, *arguments):
    """Standard output of a fresh interpreter in which warnings are errors; it must print nothing else."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    return outcome.stdout


@pytest.mark.parametrize("module", ["understudy", "understudy.schedule", "understudy.cli", "understudy.data"])
def test_import_is_light_and_silent(module):
    code = """
import importlib, json, logging, sys
importlib.import_module(sys.argv[1])
loggers = [logging.root, *logging.root.manager.loggerDict.values()]
handlers = [logger.name for logger in loggers if getattr(logger, "handlers", [])]
print(json.dumps({"modules": sorted(sys.modules), "handlers": handlers, "level": logging.root.level}))
"""
    output = run_python(code, module)
    assert output.count("\n") == 1
    found = json.loads(output)
    assert set(found["modules"]).isdisjoint(HEAVY)
    assert found["handlers"] == []
    assert found["level"] == 30  # WARNING, Python's own
    assert "numpy" not in found["modules"] or module == "understudy.data"


def test_help_and_version_are_light():
    code = """
import sys
import understudy.cli
for arguments in (["--help"], ["--version"], *([verb, "--help"] for verb in understudy.cli.COMMANDS)):
    sys.argv = ["understudy", *arguments]
    try:
        understudy.cli.main()
    except SystemExit as end:
        assert end.code == 0, arguments
print(*sorted(sys.modules))
"""
    *shown, modules = run_python(code).splitlines()
    assert set(modules.split()).isdisjoint((*HEAVY, "numpy"))
    assert all(any(f"Usage: understudy {verb} " in line for line in shown) for verb in COMMANDS)


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_are_short(path):
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= MAX_FUNCTION_LINES] == []


PUBLIC = [
    "Denoiser",
    "FlopsReport",
    "FunctionDenoiser",
    "ModelSchedule",
    "NoiseSchedule",
    "RevealPlan",
    "SampleResult",
    "SamplingTask",
    "Segment",
    "StepRecord",
    "UnderstudyError",
    "decode",
    "load_denoiser",
    "load_judge",
    "load_tokenizer",
    "sample",
    "sample_plain",
    "sample_steps",
]


def test_public_names():
    assert sorted(understudy.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(understudy))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = understudy.nothing


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    found = getattr(understudy, name)
    assert found.__module__.startswith("understudy.")
    assert (found.__doc__ or "").strip()
    assert not found.__doc__.startswith(f"{name}("), "what a dataclass writes for itself is no documentation"


def test_every_package_exports_what_it_has():
    for path in FILES:
        if Path(path).name == "__init__.py":
            module = ".".join(["understudy", *Path(path).parts[:-1]])
            package = __import__(module, fromlist=["_"])
            assert package.__doc__
            for name in getattr(package, "__all__", ()):
                assert getattr(package, name) is not None


def test_the_tree_of_errors_is_as_drawn():
    drawn, path = {}, []
    for line in inspect.getdoc(errors).splitlines():
        if node := re.match(r"([│├└─ ]*)([A-Z]\w+Error)\b", line):
            path[len(node[1]) // 4 :] = [node[2]]
            drawn[node[2]] = path[-2] if len(path) > 1 else "Exception"
    classes = {name: kind.__base__.__name__ for name, kind in vars(errors).items() if inspect.isclass(kind)}
    assert drawn == classes
