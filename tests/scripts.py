"""Scripts of benchmarks/ as modules, which find each other as they do when they are run."""

import importlib
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def benchmark(name):
    """The script of that name, imported."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
