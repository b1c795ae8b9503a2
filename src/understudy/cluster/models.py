"""What a worker loads: said by paths, found by each node for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from understudy.denoisers.model_files import model_sha256
from understudy.denoisers.model_set import ModelSet, bundled_paths, load_model_set
from understudy.errors import ModelError
from understudy.evaluation import Judge
from understudy.work import Tools

BUNDLED = "bundled "  # what stands before the name of a model that comes with the package, wherever that lies


@dataclass(frozen=True)
class WorkerModels:
    """Models and judge as a worker is told of them.

    paths, judge: folders that every node can read, hub ids, or `bundled NAME`; judge None for a job without one.
    digests: of the files at those places by `model_sha256`; a node where they are others is refused. device: "cpu" or
    "cuda", the GPU that a worker has to itself. dtype: "float32" or "bfloat16". The rest as in `load_model_set`.
    """

    paths: Mapping[str, str]
    judge: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    tokenizer: str | None = None
    trust_remote_code: bool = False
    remap_masks: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Tools:
        """Load all. Raises ModelError or DataError where one is missing here, or another than that of the driver."""
        models = self.load_set()
        return Tools(models.denoisers, self._judge(), models.tokenizer)

    def load_set(self) -> ModelSet:
        """Load all but the judge; raises what `load` raises."""
        for place, digest in self.digests.items():
            if model_sha256(_here(place)) != digest:
                raise ModelError(f"{place} holds another model than where the job was started; copy it anew")
        return load_model_set(
            {key: _here(place) for key, place in self.paths.items()},
            device=self.device,
            dtype=getattr(torch, self.dtype),
            tokenizer=self.tokenizer,
            trust_remote_code=self.trust_remote_code,
            remap_masks=self.remap_masks,
        )

    def _judge(self) -> Judge | None:
        if self.judge is None:
            return None
        judge = Judge.load(_here(self.judge), device=self.device)
        return Judge(judge.model, judge.tokenizer, self.judge)


def travelling(path: str | Path) -> str:
    """The name of a model's place for other machines: absolute, a hub id as it is, `bundled NAME` for our own."""
    named = {folder: f"{BUNDLED}{name}" for name, folder in bundled_paths().items()}
    folder = Path(path)
    return named.get(folder) or (str(folder.resolve()) if folder.exists() else str(path))


def _here(place: str) -> str | Path:
    return bundled_paths()[place.removeprefix(BUNDLED)] if place.startswith(BUNDLED) else place
