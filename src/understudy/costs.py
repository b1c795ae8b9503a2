"""Time as a cost: the milliseconds of a pass of each model, measured on the machine that will run it.

FLOPs say what a schedule ought to save; a cost table says what it does save here. Shapes: B sequences in a pass.
"""

import math
import statistics
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.denoisers.protocol import Denoiser
from understudy.environment import describe_environment
from understudy.errors import DataError, SettingError, one_line
from understudy.flops import Shape, expected_passes, read_shape
from understudy.noise import NoiseSchedule
from understudy.sampling import SamplingTask, sample_steps
from understudy.schedule import ModelSchedule
from understudy.whole_files import read_json, write_json

FORMAT = "understudy-costs-1"
REPEATS = 7  # windows whose median counts
WINDOW_SECONDS = 0.2  # least length of a window
WARM_UP_PASSES = 40  # on a GPU, where shapes are captured as they turn up; elsewhere three


@dataclass(frozen=True)
class PassTime:
    """Milliseconds of one pass of `batch_size` sequences: the median of `windows`, and the fastest and slowest.

    DataError for what no clock can have shown: a number that is not above 0, or not finite.
    """

    batch_size: int
    milliseconds: float
    fastest: float
    slowest: float
    windows: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = int if name in ("batch_size", "windows") else int | float
            if not isinstance(value, kind) or not 0 < value < math.inf:
                raise DataError(f"{name} of a pass is {value!r}; it must be a number above 0, whole where it counts")

    @property
    def per_sequence(self) -> float:
        """Milliseconds for each sequence of the batch."""
        return self.milliseconds / self.batch_size


@dataclass(frozen=True)
class CostTable:
    """Pass times by model and batch size, and what they hold for.

    length: tokens per sequence. steps: N, which sets how many positions a pass reveals. shapes: of the models, where
    they are plain transformers. environment: of `describe_environment`, and the `device` that ran the passes.
    DataError where there is no model, or one without a pass time, or no length.
    """

    length: int
    steps: int
    times: Mapping[str, Mapping[int, PassTime]]
    shapes: Mapping[str, Shape]
    environment: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("length", "steps"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise DataError(f"{name} is {value!r}; it must be a whole number from 1")
        if not self.times or not all(self.times.values()):
            raise DataError("a model has no pass time; measure at least one batch size of each")

    @property
    def place(self) -> str:
        """Name of the hardware that ran the passes."""
        is_gpu = str(self.environment.get("device", "")).startswith("cuda")
        name = self.environment.get("cuda_device" if is_gpu else "processor")
        return str(name or "an unknown device")

    @property
    def batch_sizes(self) -> list[int]:
        """The batch sizes at which every model was measured, ascending."""
        common = set.intersection(*(set(times) for times in self.times.values()))
        return sorted(common)

    def pass_time(self, key: str, batch_size: int) -> PassTime:
        """Give what was measured. Raises SettingError for a model or batch size that was not."""
        if key not in self.times:
            raise SettingError(f"the cost table knows no model {key}, only {', '.join(self.times)}; measure it")
        if batch_size not in self.times[key]:
            known = ", ".join(str(size) for size in self.times[key])
            raise SettingError(f"the cost table has {key} at batch size {known}, not at {batch_size}; measure it")
        return self.times[key][batch_size]

    def sample_milliseconds(
        self, schedule: ModelSchedule, noise: NoiseSchedule, batch_size: int, length: int | None = None
    ) -> float:
        """Expected milliseconds of one sample under a schedule, in batches that stay full.

        length: the free positions, all of the table's length unless given. SettingError where it is out of range, or
        a model was not measured at `batch_size`.
        """
        free = self.length if length is None else length
        if not 1 <= free <= self.length:
            raise SettingError(
                f"{free} positions are to be filled; the cost table allows 1 to its length, {self.length}"
            )
        passes = expected_passes(schedule, noise, free)
        return sum(count * self.pass_time(key, batch_size).per_sequence for key, count in passes.items())

    def costliest(self, batch_size: int) -> str:
        """Key of the model whose pass takes longest at a batch size. SettingError where one was not measured at it."""
        return max(self.times, key=lambda key: self.pass_time(key, batch_size).milliseconds)

    def sample_saved(
        self, schedule: ModelSchedule, noise: NoiseSchedule, batch_size: int, length: int | None = None
    ) -> float:
        """Share of time that a schedule saves against the costliest model alone, at as many steps; at most 1.

        Arguments and errors as in `sample_milliseconds`.
        """
        alone = ModelSchedule.single(schedule.num_steps, self.costliest(batch_size))
        time_alone = self.sample_milliseconds(alone, noise, batch_size, length)
        return 1 - self.sample_milliseconds(schedule, noise, batch_size, length) / time_alone

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: models by key, each with its shape and a list of pass times."""
        models = {
            key: {
                "shape": asdict(self.shapes[key]) if key in self.shapes else None,
                "passes": [asdict(entry) for entry in times.values()],
            }
            for key, times in self.times.items()
        }
        return {
            "format": FORMAT,
            "length": self.length,
            "steps": self.steps,
            "models": models,
            "environment": dict(self.environment),
        }

    @classmethod
    def load(cls, path: Path) -> "CostTable":
        """Read a table. Raises DataError where the file is missing, damaged or something else."""
        remedy = "write one by `understudy bench --output costs.json`"
        content = read_json(path, mend=remedy)
        if content.get("format") != FORMAT:
            raise DataError(f"{str(path)!r} is no cost table ({FORMAT}); {remedy}")
        try:
            models = content["models"].items()
            times = {key: _by_batch_size(PassTime(**entry) for entry in model["passes"]) for key, model in models}
            shapes = {key: read_shape(model["shape"]) for key, model in models if model["shape"] is not None}
            return cls(content["length"], content["steps"], times, shapes, dict(content["environment"]))
        except (KeyError, TypeError, ValueError, AttributeError, DataError) as error:
            found = f"no entry {error}" if isinstance(error, KeyError) else one_line(error)
            raise DataError(f"{str(path)!r} is a damaged cost table ({found}); {remedy}") from error


def _by_batch_size(entries: Iterable[PassTime]) -> dict[int, PassTime]:
    return {entry.batch_size: entry for entry in entries}


def measure_costs(
    denoisers: Mapping[str, Denoiser],
    *,
    length: int,
    steps: int,
    batch_sizes: Sequence[int],
    cuda_graphs: bool = True,
    seed: int = 0,
) -> Generator[tuple[str, PassTime], None, CostTable]:
    """Time the passes that the sampler makes, model by model; yield each figure as it comes.

    Raises SettingError for an empty list, and the errors of `SamplingTask.create`.
    """
    if not batch_sizes:
        raise SettingError("no batch size is given; name at least one")
    times: dict[str, dict[int, PassTime]] = {key: {} for key in denoisers}
    for key, model in denoisers.items():
        for batch_size in dict.fromkeys(batch_sizes):
            task = SamplingTask.create(
                {key: model},
                ModelSchedule.single(steps, key),
                length=length,
                num_samples=2 * batch_size,  # so that batches stay full to the end
                batch_size=batch_size,
                cuda_graphs=cuda_graphs,
                seed=seed,
            )
            times[key][batch_size] = _time_passes(task, model.device)
            yield key, times[key][batch_size]
    shapes = {key: shape for key, model in denoisers.items() if (shape := getattr(model, "shape", None)) is not None}
    device = str(next(iter(denoisers.values())).device)
    return CostTable(length, steps, times, shapes, {**describe_environment(), "device": device})


def _time_passes(task: SamplingTask, device: torch.device) -> PassTime:
    """Warm up, then time windows of passes."""
    passes = _Passes(task, device)
    one = passes.seconds(WARM_UP_PASSES if device.type == "cuda" else 3)
    one = min(one, passes.seconds(1))
    count = max(1, round(WINDOW_SECONDS / one))
    windows = sorted(1000 * passes.seconds(count) for _ in range(REPEATS))
    return PassTime(task.batch_size, statistics.median(windows), windows[0], windows[-1], REPEATS)


class _Passes:
    """A sampler that begins anew when it has come to its end."""

    def __init__(self, task: SamplingTask, device: torch.device) -> None:
        self.task, self.device = task, device
        self.records = sample_steps(task)

    def seconds(self, count: int) -> float:
        """Time of one pass, averaged over `count`."""
        self._wait()
        started = time.perf_counter()
        for _ in range(count):
            if next(self.records, None) is None:
                self.records = sample_steps(self.task)
                next(self.records)
        self._wait()
        return (time.perf_counter() - started) / count

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
