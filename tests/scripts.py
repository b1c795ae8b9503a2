"""Scripts of benchmarks/ and recipes/ as modules, which find each other as they do when they are run."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def benchmark(name):
    """The script of that name under benchmarks/, imported."""
    return _script("benchmarks", name)


def recipe(name):
    """The script of that name under recipes/, imported."""
    return _script("recipes", name)


def _script(folder, name):
    sys.path.insert(0, str(ROOT / folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / folder))
