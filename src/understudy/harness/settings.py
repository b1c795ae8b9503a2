"""What lm-eval's `model_args` say: which models, under which schedule, scored and sampled how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from understudy.denoisers.model_set import ModelSet
from understudy.errors import SettingError

ALIASES = {
    "pretrained": "heavy",
    "model_path": "heavy",
    "max_new_tokens": "gen_length",
    "block_size": "block_length",
    "remasking": "decoding",
    "dtype": "precision",
}
"""Names that other models have in lm-eval for the same, and ours."""

DEFAULT_GEN_LENGTH = 256  # lm-eval's own, where a task says nothing


@dataclass(frozen=True)
class HarnessSettings:
    """How requests are answered.

    schedule, steps: as everywhere; without a schedule the costliest model makes all steps, 256 unless given.
    gen_length: new tokens of a generated answer; None takes what each request asks for (`max_gen_toks`, 256).
    max_length: most tokens of a sequence; what the models take unless given. mc_num: most masks of a text that is
    scored, see `log_likelihood_bounds`. batch_size: most sequences in a pass. seed: 0 … 2^64 − 1.
    decoding, block_length, threshold: as in `decoding_task`. is_check_greedy: find out whether a text is what greedy
    decoding would give, at a pass for each of its tokens; without it the answer is always no.

    Raises SettingError for a number below 1.
    """

    schedule: str | None = None
    steps: int | None = None
    gen_length: int | None = None
    max_length: int | None = None
    mc_num: int = 128
    batch_size: int = 32
    seed: int = 0
    decoding: str = "ancestral"
    block_length: int | None = None
    threshold: float | None = None
    is_check_greedy: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "gen_length", "max_length", "mc_num", "batch_size", "block_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(f"{name} is {value}; it must be at least 1")


def _whole(name: str, value: Any) -> int:
    try:
        number = float(value) if not isinstance(value, bool) else float("nan")
        if number == int(number):
            return int(value) if isinstance(value, str | int) else int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SettingError(f"{name} is {value!r}; it must be a whole number")


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise SettingError(f"{name} is {value!r}; it must be a number") from None


def _truth(name: str, value: Any) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise SettingError(f"{name} is {value!r}; it must be True or False")
    return known[str(value).lower()]


def _text(_name: str, value: Any) -> str:
    return str(value)


_LOADING: Mapping[str, Callable[[str, Any], Any]] = {
    "heavy": _text,
    "light": _text,
    "device": _text,
    "precision": _text,
    "tokenizer": _text,
    "trust_remote_code": _truth,
    "remap_masks": _truth,
}
_KINDS: Mapping[str, Callable[[str, Any], Any]] = {
    "int": _whole,
    "int | None": _whole,
    "float | None": _number,
    "bool": _truth,
    "str": _text,
    "str | None": _text,
}
_SETTINGS = {field.name: _KINDS[str(getattr(field.type, "__name__", field.type))] for field in fields(HarnessSettings)}


def split_args(text: str) -> dict[str, str]:
    """Read `key=value,key=value`; a part without `=` goes on with the value before it, as a schedule's segments do.

    >>> split_args("schedule=L16,H32,L16,steps=64")
    {'schedule': 'L16,H32,L16', 'steps': '64'}
    """
    found: dict[str, str] = {}
    name = ""
    for part in text.split(","):
        key, is_new, value = part.partition("=")
        if is_new:
            name = key.strip()
            if name in found:
                raise SettingError(f"the model arguments give {name} twice; give it once")
            found[name] = value.strip()
        elif name:
            found[name] += f",{part.strip()}"
        elif part.strip():
            raise SettingError(f"the model arguments begin with {part!r}; write key=value, such as heavy=runs/heavy")
    return {key: value.rstrip(",") for key, value in found.items()}


def read_args(given: Mapping[str, Any]) -> tuple[dict[str, Any], HarnessSettings]:
    """What to load, as the arguments of `load_harness_models`, and how to answer; None and "" are as if left out.

    A name of one letter binds a model to that key. Raises SettingError for an unknown name, one given twice under two
    names, or a value of the wrong kind.
    """
    loading: dict[str, Any] = {"model": []}
    settings: dict[str, Any] = {}
    for given_name, value in given.items():
        name = ALIASES.get(given_name, given_name)
        if value is None or value in ("", "None", "none") or name == "max_batch_size":
            continue
        if name in loading or name in settings:
            raise SettingError(f"{given_name} says what {name} says already; give one of them")
        if name in _SETTINGS:
            settings[name] = _SETTINGS[name](name, value)
        elif name in _LOADING:
            loading[name] = _LOADING[name](name, value)
        elif len(name) == 1 and name.isascii() and name.isalpha():
            loading["model"].append(f"{name}={value}")
        else:
            known = ", ".join(sorted([*_SETTINGS, *_LOADING, *ALIASES]))
            raise SettingError(
                f"there is no model argument {given_name!r}; there are {known}, and one letter for a model of that key"
            )
    return loading, HarnessSettings(**settings)


def load_harness_models(
    *, heavy: str | None = None, light: str | None = None, model: list[str], **options: Any
) -> ModelSet:
    """Load as the commands do, by `cli.models.load_models`: the bundled pair where nothing is named."""
    from understudy.cli.models import load_models

    return load_models(heavy, light, model, **options)
