"""From a heavy model to a light one: choose blocks, write the model that has these only, heal it by distillation.

    OUTPUT/                  the light model, in the Hugging Face layout
           make_light.json   what it was made of, which blocks it kept and why, how far it is from the heavy model
           pruned/           where healing began: a model too; training.json, log.jsonl, checkpoints/ as in any training

Without healing, what would be `pruned/` is the result. Every stage can be interrupted and goes on when called again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from understudy.data import Manifest, TokenBlocks
from understudy.data.token_blocks import MANIFEST_FILE
from understudy.denoisers.model_files import model_sha256, read_config
from understudy.denoisers.model_set import bundled_paths
from understudy.driving import mapped
from understudy.environment import describe_environment
from understudy.errors import DataError, SettingError
from understudy.hub import local_folder
from understudy.lightening.choosing import choice_passes, choose_blocks
from understudy.lightening.measuring import Divergences, measure, num_passes
from understudy.lightening.settings import LightSettings, healing_config
from understudy.lightening.skipping import Kept, keep_blocks, round_weights
from understudy.lightening.text import HeldOutText, can_read_bundled, held_out_text
from understudy.record_journal import RecordJournal
from understudy.tokenizer_files import TOKENIZER_FILES, load_tokenizer
from understudy.training import TrainingConfig, TrainingRecord, train
from understudy.training.loop import make_engine
from understudy.training.networks import check_fits_data, load_dit
from understudy.training.run_folder import write_model
from understudy.whole_files import check_folder, make_folder, publish_folder, read_json, write_json

FORMAT = "understudy-light-1"
RECORD, PRUNED = "make_light.json", "pruned"


@dataclass(frozen=True)
class LightProgress:
    """How far a stage is: "weighing blocks", "measuring" (in passed sequences) or "healing" (in optimizer steps).

    training: the trainer's record, while it heals.
    """

    stage: str
    done: int
    total: int
    training: TrainingRecord | None = None


@dataclass(frozen=True)
class LightModel:
    """A light model on disk, and what `make_light.json` says of it."""

    path: Path
    record: Mapping[str, Any]


def make_light(
    heavy: str | Path | None,
    output: str | Path,
    settings: LightSettings,
    *,
    healing: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    command: str | None = None,
    stop: Callable[[], bool] | None = None,
) -> Generator[LightProgress, None, LightModel | None]:
    """Make a light model of `heavy`, a folder or hub id of a DiT, or the bundled heavy model; progress is yielded.

    output: folder that is new, or in which the same was begun. healing: fields of `TrainingConfig` beside `HEALING`'s,
    such as `steps`; None only leaves blocks out. `settings.data` must then be a prepared folder. device, dtype: where
    and in which precision blocks are weighed; training sees to itself. stop: asked after every step of healing, as by
    `train`; where it gives true, None is returned, and the same call goes on from there.

    In a distributed run every process drives its own generator, and the others wait while the main one weighs blocks.
    Raises SettingError for wishes that cannot be, ModelError for a model that is no DiT, DataError for data that is
    missing or not in the model's tokens, and the errors of `train`.
    """
    maker = _Maker(heavy, Path(output), settings, device, dtype, command)
    if healing is None:
        return (yield from maker.prune(maker.output))
    if settings.quantise is not None:
        raise SettingError("quantise comes after healing, which would undo it: heal first, then quantise the result")
    maker.check_output()
    config = maker.healing(healing)
    engine = make_engine()
    with engine.main_process_first():
        pruned = yield from maker.prune(maker.output / PRUNED)
    return (yield from maker.heal(pruned, config, stop, is_main=engine.is_main_process))


class _Maker:
    """The heavy model, and what was asked for."""

    def __init__(
        self,
        heavy: str | Path | None,
        output: Path,
        settings: LightSettings,
        device: str | torch.device,
        dtype: torch.dtype,
        command: str | None,
    ) -> None:
        self.source = str(bundled_paths()["heavy"] if heavy is None else heavy)
        self.origin = "bundled heavy" if heavy is None else self.source
        self.output, self.settings, self.command = output, settings, command
        self.device, self.dtype = torch.device(device), dtype
        self.heavy = load_dit(self.source)
        settings.check(self.heavy)
        check_folder(output)
        self.tokenizer = load_tokenizer(self.source)
        self.text = self._held_out()
        self.job = {
            "heavy": model_sha256(self.source),
            "settings": settings.to_dict(),
            "text": None if self.text is None else self.text.to_dict()["sha256"],
        }

    def check_output(self) -> None:
        """SettingError unless healing may begin or go on in the output folder."""
        names = {path.name for path in self.output.iterdir()} if self.output.is_dir() else set()
        if names and PRUNED not in names:
            raise SettingError(f"{str(self.output)!r} holds something else: give a new or empty folder as output")

    def healing(self, changes: Mapping[str, Any]) -> TrainingConfig:
        """Settings of the run that heals. SettingError or DataError where they, or the data, cannot be."""
        data, weighing, shape = self.settings.data, self.settings.weighing, self.heavy.config
        if data is None:
            raise SettingError("healing needs --data, a folder of `understudy prepare`; --steps 0 does without healing")
        check_fits_data(self.source, shape, TokenBlocks.open(data, "train").manifest)
        blocks = self.settings.num_kept(self.heavy)
        places: dict[str, Any] = {
            "initial": self.output / PRUNED,
            "heavy": self.source,
            "output": self.output,
            "data": data,
        }
        return healing_config(shape, blocks, **places, times=weighing.intervals, **changes)

    def _held_out(self) -> HeldOutText | None:
        """The text to measure on; None where none is needed and there is none."""
        settings, shape = self.settings, self.heavy.config
        if settings.blocks is None and not _has_held_out(settings.data, self.tokenizer):
            return None
        return held_out_text(settings.data, self.tokenizer, shape, count=settings.weighing.num_blocks)

    def prune(self, folder: Path) -> Generator[LightProgress, None, LightModel]:
        """Write the model that has the chosen blocks only, unless it is there."""
        there = self._there(folder)
        if there is not None:
            return there
        path = self.output.with_name(f"{self.output.name}.partial.jsonl")
        journal = RecordJournal(path, {**self.job, "device": self.device.type, "dtype": str(self.dtype)})
        weighed = keep_blocks(self.heavy, range(len(self.heavy.blocks))).to(self.device, self.dtype)
        kept, found = yield from self._choose(weighed, journal)
        light = keep_blocks(self.heavy, kept)
        if self.settings.quantise is not None:
            round_weights(light)
        if found.get("kl") is None and self.text is not None:
            found["kl"] = yield from self._kl(weighed, light, journal, "pruned")
        record = {
            **{"format": FORMAT, "command": self.command, "heavy": self.origin, "heavy_sha256": self.job["heavy"]},
            **{"heavy_blocks": len(self.heavy.blocks), "kept": [*kept], "quantised": self.settings.quantise, **found},
            **{"text": None if self.text is None else self.text.to_dict(), "healing": None, "job": self.job},
            "environment": describe_environment(),
        }
        self._write(folder, light, record)
        path.unlink(missing_ok=True)
        return LightModel(folder, record)

    def heal(
        self, pruned: LightModel, config: TrainingConfig, stop: Callable[[], bool] | None, *, is_main: bool
    ) -> Generator[LightProgress, None, LightModel | None]:
        """Train the pruned model towards the heavy one, into `output`; then measure how far that has brought it."""
        latest, done = None, 0
        for step in train(config, stop=stop):
            latest, done = step if step.loss is not None else latest, step.step
            yield LightProgress("healing", done, config.steps, step)
        if done < config.steps:
            return None
        if not is_main:
            return LightModel(self.output, pruned.record)
        path = self.output / RECORD
        if path.is_file():
            return LightModel(self.output, read_json(path, mend="give another output folder"))
        kl = None
        if self.text is not None:
            heavy = keep_blocks(self.heavy, range(len(self.heavy.blocks))).to(self.device, self.dtype)
            kl = yield from self._kl(heavy, load_dit(self.output), RecordJournal(None, {}), "healed")
        healing = {"settings": config.to_json(), "loss": None if latest is None else latest.loss, "kl": kl}
        record = {**pruned.record, "command": self.command, "healing": healing, "environment": describe_environment()}
        write_json(path, record)
        return LightModel(self.output, record)

    def _choose(
        self, heavy: Any, journal: RecordJournal
    ) -> Generator[LightProgress, None, tuple[Kept, dict[str, Any]]]:
        """Blocks to keep, and how they were chosen."""
        wanted, total = self.settings.blocks, len(self.heavy.blocks)
        if wanted is None:
            return self.settings.keep or tuple(range(total)), {"chosen_by": "hand", "rounds": [], "kl": None}
        assert self.text is not None
        weighing = self.settings.weighing
        passes, done = choice_passes(total, wanted, self.text, weighing), _Sum()
        run = choose_blocks(heavy, wanted, self.text, weighing, journal)
        choice = yield from mapped(run, lambda more: LightProgress("weighing blocks", done.add(more), passes))
        kl = None if self.settings.quantise else asdict(choice.kl)
        rounds = [entry.to_dict() for entry in choice.rounds]
        return choice.kept, {"chosen_by": "importance", "rounds": rounds, "kl": kl}

    def _kl(
        self, heavy: Any, light: Any, journal: RecordJournal, name: str
    ) -> Generator[LightProgress, None, dict[str, float]]:
        """KL(heavy ‖ light) on the held-out text."""
        assert self.text is not None
        weighing, done = self.settings.weighing, _Sum()
        placed = keep_blocks(light, range(len(light.blocks))).to(self.device, self.dtype)
        run = measure(heavy, placed, [tuple(range(len(light.blocks)))], self.text, weighing, journal, name)
        passes = num_passes(1, self.text, weighing)
        found: Divergences = yield from mapped(run, lambda n: LightProgress("measuring", done.add(n), passes))
        return asdict(found.estimate(0))

    def _there(self, folder: Path) -> LightModel | None:
        """What an earlier call has made; None where it made nothing. SettingError where something else is there."""
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return None
        if not (folder / RECORD).is_file():
            raise SettingError(f"{str(folder)!r} holds something else: give a new or empty folder as output")
        record = read_json(folder / RECORD, mend="give another output folder")
        job = record.get("job", {})
        changed = sorted(name for name, value in self.job.items() if job.get(name) != value)
        if changed or record.get("healing") is not None:
            what = f"with another {', '.join(changed)}" if changed else "and healed"
            raise SettingError(f"{str(folder)!r} was made {what}; give another output folder")
        return LightModel(folder, record)

    def _write(self, folder: Path, light: Any, record: Mapping[str, Any]) -> None:
        """Write the model folder, whole or not at all."""
        make_folder(folder.parent)
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            make_folder(partial)
            write_model(partial, light.to("cpu", _stored_dtype(self.source, self.settings)))
            source = local_folder(self.source, TOKENIZER_FILES)
            for pattern in TOKENIZER_FILES[1:]:
                for path in source.glob(pattern):
                    shutil.copy2(path, partial)
            write_json(partial / RECORD, record)
            publish_folder(partial, folder)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"cannot write {str(folder)!r}: {reason}; make room or name another place") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class _Sum:
    """A running total."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, more: int) -> int:
        self.value += more
        return self.value


def _stored_dtype(source: str, settings: LightSettings) -> torch.dtype:
    """As the heavy model is stored; float32 for rounded weights, whose values bfloat16 would round again."""
    config = read_config(local_folder(source, TOKENIZER_FILES))
    name = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    is_half = name == "bfloat16" and settings.quantise is None
    return torch.bfloat16 if is_half else torch.float32


def _has_held_out(data: str | None, tokenizer: Any) -> bool:
    """Whether there is a text to measure on, where none is needed: prepared data may lack one."""
    if data is None:
        return can_read_bundled(tokenizer)
    is_prepared = (Path(data) / MANIFEST_FILE).is_file()
    return not is_prepared or "validation" in Manifest.read(data).splits
