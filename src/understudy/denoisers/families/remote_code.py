"""The network of a folder that carries its own code: the code imported, the network built, its weights read strictly.

Not by `from_pretrained`, whose way of building a network differs between versions of transformers and breaks code that
was written for another one. Nothing is unpickled.
"""

import hashlib
import importlib
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.denoisers.families.family import ModelSource
from understudy.denoisers.families.remote_shims import mend_network, shims
from understudy.denoisers.model_files import check_fit, code_files, read_weights
from understudy.errors import ModelError, one_line
from understudy.quiet import quiet

_REFERENCE = re.compile(r"(\w+)\.(\w+)")  # module.Class


def remote_network(source: ModelSource, auto_class: str) -> Any:
    """Build the network that `auto_map` names for `auto_class`, fill it with the folder's weights, and place it.

    Raises ModelError unless the source lets code run, for code that fails, and for weights that do not fit.
    """
    check_trust(source)
    auto_map = source.config["auto_map"]
    try:
        with quiet(), shims(), _parameters_without_memory():
            network_class = _load_class(source.folder, str(auto_map[auto_class]))
            config_class = network_class.config_class
            if "AutoConfig" in auto_map:
                config_class = _load_class(source.folder, str(auto_map["AutoConfig"]))
            network = mend_network(network_class(config_class.from_dict(dict(source.config))))
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        raise ModelError(
            f"the code of {source.name} needs the package {error.name!r}, which is not installed; install it"
        ) from error
    except Exception as error:  # broad, because the code is anybody's
        raise ModelError(
            f"the code of {source.name} cannot build its network: {type(error).__name__}: {one_line(error)}"
        ) from error
    _fill(network, source)
    return network.to(source.device)


def check_trust(source: ModelSource) -> None:
    """ModelError unless the code may run; it says which files that would be."""
    if not source.runs_code:
        found = (path.relative_to(source.folder).as_posix() for path in code_files(source.folder))
        files = ", ".join(found) or "*.py, not fetched yet"
        raise ModelError(
            f"{source.name}, a model of type {source.model_type!r}, needs code of its own ({files}); "
            "read it, then let it run with trust_remote_code=True (--trust-remote-code)"
        )


def _load_class(folder: Path, reference: str) -> Any:
    """Import a class of the folder's code; `reference` is written as in `auto_map`."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ModelError(
            f"the config.json of {folder} names the code {reference!r}; only code in the folder itself is run "
            "(module.Class): copy the files into it, and name them so"
        )
    importlib.invalidate_caches()
    with _no_bytecode():
        module = importlib.import_module(f"{_package(folder)}.{match[1]}")
    return getattr(module, match[2])


def _package(folder: Path) -> str:
    """Name the folder's code as a package; one of the same content is one package, wherever it lies.

    Not a module of transformers, which in 4.x goes by the name of the folder, so that the codes of two folders mix.
    """
    digest = hashlib.sha256()
    for path in code_files(folder):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    name = f"understudy_remote_{digest.hexdigest()[:16]}"
    package = sys.modules.setdefault(name, types.ModuleType(name))
    package.__path__ = [str(folder)]  # where the same code was before may be gone
    return name


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Leave no `__pycache__` in a model's folder, and read none: what it holds need not be what the files say."""
    before = sys.dont_write_bytecode, sys.pycache_prefix
    sys.dont_write_bytecode, sys.pycache_prefix = True, os.devnull  # no folder, so nothing is found below it
    try:
        yield
    finally:
        sys.dont_write_bytecode, sys.pycache_prefix = before


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Build networks whose parameters hold nothing, for a file's tensors to take their place.

    Buffers are computed as ever: code that is not of transformers 5 does so only while it is built.
    """
    modules: Any = nn.Module
    register = modules.register_parameter

    def register_empty(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    modules.register_parameter = register_empty
    try:
        yield
    finally:
        modules.register_parameter = register


def _fill(network: nn.Module, source: ModelSource) -> None:
    """Put the folder's weights in place of the parameters. Raises ModelError unless they fit exactly."""
    weights = {
        name: nn.Parameter(weight.to(source.dtype) if weight.is_floating_point() else weight, requires_grad=False)
        for name, weight in read_weights(source.folder).items()
    }
    expected: dict[str, torch.Tensor] = network.state_dict(keep_vars=True)
    # As the file says: classes have a default, which differs between versions of transformers.
    for name, other in _tied(network, expected, ends=source.config.get("tie_word_embeddings") is True).items():
        if name not in weights and other in weights:
            weights[name] = weights[other]
    shared = expected.keys() & weights.keys()
    # Buffers are computed where the file has none.
    missing = {name for name in expected.keys() - shared if isinstance(expected[name], nn.Parameter)}
    differing = {name for name in shared if expected[name].shape != weights[name].shape}
    check_fit(source.folder, missing, weights.keys() - shared, differing)
    network.load_state_dict(weights, strict=False, assign=True)


def _tied(network: Any, expected: Mapping[str, torch.Tensor], *, ends: bool) -> dict[str, str]:
    """Names of parameters that are one with another: name to name, both ways. ends: the head is the embedding."""
    names: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        names.setdefault(id(tensor), []).append(name)
    tied = {name: group[i - 1] for group in names.values() if len(group) > 1 for i, name in enumerate(group)}
    if ends:
        layers = network.get_input_embeddings(), network.get_output_embeddings()
        first, last = (names.get(id(getattr(layer, "weight", None)), [""])[0] for layer in layers)
        tied |= {last: first} if first and last and first != last else {}
    return tied
