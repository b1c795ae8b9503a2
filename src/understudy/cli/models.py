"""Which models a command was given, and where they run."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from understudy.errors import SettingError

if TYPE_CHECKING:
    import torch

    from understudy.denoisers.model_set import ModelSet

Heavy = Annotated[str | None, typer.Option("--heavy", metavar="DIR|ID", help="Model bound to H: folder or hub id.")]
Light = Annotated[str | None, typer.Option("--light", metavar="DIR|ID", help="Model bound to L.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="KEY=DIR", help="Model bound to another key; may be repeated.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Precision = Annotated[
    str, typer.Option("--precision", help="auto (float32 on the CPU, bfloat16 on a GPU), float32 or bfloat16.")
]

TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Let code run that a model's folder carries (LLaDA, Dream).")
]
Tokenizer = Annotated[
    str | None,
    typer.Option("--tokenizer", metavar="DIR|ID", help="Tokenizer of all models, where their folders hold none."),
]
RemapMasks = Annotated[
    bool, typer.Option("--remap-masks", help="Let models of one tokenizer differ in mask id and vocabulary size.")
]


def load_models(
    heavy: str | Path | None,
    light: str | Path | None,
    model: list[str] | None,
    device: str = "auto",
    precision: str = "auto",
    *,
    tokenizer: str | None = None,
    trust_remote_code: bool = False,
    remap_masks: bool = False,
) -> "ModelSet":
    """Load what --heavy, --light and --model name, or the bundled pair where they name nothing.

    What was found in folders of others is said on standard error.
    Raises SettingError for options that do not fit together, and the errors of `load_model_set`.
    """
    given = {"H": heavy, "L": light}
    paths: dict[str, str | Path] = {key: path for key, path in given.items() if path is not None}
    for key, path in read_bindings(model or (), "M=runs/medium").items():
        if key in paths:
            raise SettingError(f"two models are bound to {key}: {paths[key]} and {path}; give each key once")
        paths[key] = path
    place = pick_device(device)
    dtype = pick_dtype(precision, place)
    # Here, because what can be said without torch should not wait for it.
    from understudy.denoisers.model_set import bundled_paths, load_model_set

    if not paths:
        bundled = bundled_paths()
        paths = {"H": bundled["heavy"], "L": bundled["light"]}
    models = load_model_set(
        paths,
        device=place,
        dtype=dtype,
        tokenizer=tokenizer,
        trust_remote_code=trust_remote_code,
        remap_masks=remap_masks,
    )
    for key, description in models.descriptions.items():
        if description:
            typer.echo(f"{key}: {paths[key]} is a {description}", err=True)
    return models


def load_given(given: Mapping[str, Any], device: str | None = None) -> "ModelSet":
    """`load_models` with what a command was given, by the names of its parameters; on another device if so told."""
    names = ("precision", "tokenizer", "trust_remote_code", "remap_masks")
    options = {name: given[name] for name in names}
    return load_models(given["heavy"], given["light"], given["model"], device or given["device"], **options)


def read_bindings(bindings: Iterable[str], example: str) -> dict[str, str]:
    """Read the values of a repeated `--model KEY=VALUE`; `example` shows one in the error's message.

    Raises SettingError where a key is not one letter, a value is missing, or a key comes twice.
    """
    values: dict[str, str] = {}
    for binding in bindings:
        key, _, value = binding.partition("=")
        if not (len(key) == 1 and key.isascii() and key.isalpha() and value):
            raise SettingError(f"--model is {binding!r}; write one letter, = and a model, such as {example}")
        if key in values:
            raise SettingError(f"two models are bound to {key}: {values[key]} and {value}; give each key once")
        values[key] = value
    return values


def pick_device(name: str) -> str:
    """Resolve `auto`. Raises SettingError for a device that is not known or not there."""
    if name == "cpu":
        return name
    # Others that torch knows cannot draw in float64, or hold no numbers at all.
    if name != "auto" and not re.fullmatch(r"cuda(:\d{1,4})?", name, re.ASCII):
        raise SettingError(f"device is {name!r}; it must be auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if count else "cpu"
    if int(name.partition(":")[2] or 0) >= count:
        known = "none is" if not count else f"cuda:0 to cuda:{count - 1} are"
        raise SettingError(f"device is {name!r}, but of CUDA devices {known} here; choose another or cpu")
    return name


def number_facts(precision: str, device: str) -> dict[str, str]:
    """What numbers depend on beside models and settings, for journals: the kind of device, and the precision there."""
    return {"device": device.partition(":")[0], "dtype": str(pick_dtype(precision, device)).removeprefix("torch.")}


def pick_dtype(precision: str, device: str) -> "torch.dtype":
    """Resolve `auto`. Raises SettingError for an unknown precision."""
    if precision not in ("auto", "float32", "bfloat16"):
        raise SettingError(f"precision is {precision!r}; it must be auto, float32 or bfloat16")
    import torch

    is_half = precision == "bfloat16" or (precision == "auto" and device != "cpu")
    return torch.bfloat16 if is_half else torch.float32
