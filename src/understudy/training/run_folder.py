"""The folder of a run, which in the end is the model's folder in the Hugging Face layout.

training.json    settings, versions, whether the run is finished; written first
log.jsonl        one JSON object per record
checkpoints/     what a run goes on from
config.json, model.safetensors, tokenizer files    the model, written in the end
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import PreTrainedModel

from understudy.checkpoint import checkpoint_folders
from understudy.denoisers.model_files import model_sha256
from understudy.environment import versions
from understudy.errors import ModelError, SettingError, one_line
from understudy.training.settings import TrainingConfig
from understudy.whole_files import read_json, sync_file, sync_folder, write_bytes, write_json

RUN_FILE, LOG_FILE, CHECKPOINTS = "training.json", "log.jsonl", "checkpoints"


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run. Only the main process writes.

    data_record, model_record: what identifies its data, and the models that it begins with and imitates.
    """

    path: Path
    data_record: Mapping[str, Any]
    model_record: Mapping[str, Any]

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / CHECKPOINTS

    def is_finished(self) -> bool:
        """Whether the run has written its model."""
        run = self.path / RUN_FILE
        return run.is_file() and bool(self._read().get("finished"))

    def check(self, config: TrainingConfig) -> None:
        """SettingError unless the folder is new, empty, or of a run with these settings, data and models.

        A run that was stopped before its first checkpoint has nothing to go on from, so that its settings do not count.
        The model that training begins with may lie in the folder.
        """
        run = self.path / RUN_FILE
        if not run.is_file():
            if self.path.exists() and not (self.path.is_dir() and not self._others(config)):
                raise SettingError(f"{str(self.path)!r} holds something else: give a new or empty folder as output")
            return
        content = self._read()
        if not content.get("finished") and not checkpoint_folders(self.checkpoints):
            return
        there = TrainingConfig.from_json(content.get("config", {}))
        changes = [f"{n} was {getattr(there, n)!r}, now {getattr(config, n)!r}" for n in there.differences(config)]
        if content.get("data") != self.data_record:
            changes.append("the prepared data is another")
        if content.get("models", {}) != self.model_record:
            changes.append("the initial model or the teacher is another")
        if changes:
            remedy = "give another output folder, or the settings it was begun with"
            raise SettingError(f"{str(self.path)!r} is a run with other settings ({'; '.join(changes)}): {remedy}")

    def begin(self, config: TrainingConfig, step: int) -> None:
        """Write training.json and cut log.jsonl back to what was logged up to `step`."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write_run(config, finished=False)
        log = self.path / LOG_FILE
        lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
        write_bytes(log, "".join(f"{line}\n" for line in lines if _logged_step(line) <= step).encode())

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one record to log.jsonl."""
        with (self.path / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def finish(self, config: TrainingConfig, network: PreTrainedModel) -> None:
        """Write the model and its tokenizer, each file whole or not at all, then say so in training.json."""
        partial = self.path / "model.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        write_model(partial, network.to(torch.bfloat16 if config.weight_dtype == "bf16" else torch.float32))
        tokenizer = Path(config.data) / "tokenizer"
        if tokenizer.is_dir():
            shutil.copytree(tokenizer, partial, dirs_exist_ok=True)
        # config.json last: a folder without one is no model yet.
        for path in sorted(partial.iterdir(), key=lambda path: path.name == "config.json"):
            sync_file(path)
            path.replace(self.path / path.name)
        partial.rmdir()
        sync_folder(self.path)
        self._write_run(config, finished=True)

    def _others(self, config: TrainingConfig) -> list[Path]:
        """What lies in the folder, the initial model left out."""
        initial = None if config.initial is None else Path(config.initial).resolve()
        return [path for path in self.path.iterdir() if path.resolve() != initial]

    def _read(self) -> dict[str, Any]:
        return read_json(self.path / RUN_FILE, mend="give another output folder")

    def _write_run(self, config: TrainingConfig, *, finished: bool) -> None:
        content: dict[str, Any] = {"config": config.to_json(), "data": self.data_record, "models": self.model_record}
        write_json(self.path / RUN_FILE, content | {"versions": versions(), "finished": finished})


def write_model(folder: Path, network: PreTrainedModel) -> None:
    """Write config.json and model.safetensors, as `save_pretrained` does but without its progress bar."""
    config = copy.copy(network.config)
    config.architectures = [type(network).__name__]
    config.dtype = network.dtype
    config.save_pretrained(folder)
    if network.can_generate():
        network.generation_config.save_pretrained(folder)
    # Parameters by name, each once: a tied head is the embedding and is tied again on loading.
    weights = {name: parameter.detach().contiguous() for name, parameter in network.named_parameters()}
    try:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"cannot write the model to {str(folder)!r}: {one_line(error)}; make room and run again"
        ) from error


def data_record(blocks: Any) -> dict[str, Any]:
    """What identifies the training data: a run goes on with the same only."""
    manifest = blocks.manifest
    names = ("tokenizer_sha256", "vocab_size", "mask_id", "block_length", "layout", "frame")
    return {"blocks": len(blocks), **{name: getattr(manifest, name) for name in names}}


def model_record(config: TrainingConfig) -> dict[str, str]:
    """Digests of the models that a run begins with and imitates, by role. ModelError where one is missing."""
    named = {"initial": config.initial, "teacher": config.teacher}
    return {role: model_sha256(path) for role, path in named.items() if path is not None}


def _logged_step(line: str) -> float:
    # A line that a crash cut short has no step; it is dropped.
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
