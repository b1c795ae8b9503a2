"""The training loop: a generator that the caller drives, on one process or many (accelerate).

What a step computes depends on the configuration and the step's number alone, so a run that was killed goes on from its
last checkpoint with the losses it would have had. On a CPU they are the same bits; on a GPU, as far as its kernels
are deterministic. The number of processes and micro-batches changes rounding only, unless there is dropout, whose
noise is a function of (seed, step, process).

The loop does not wait for the GPU: losses are summed on the device and read when a record is due.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch

from understudy.checkpoint import latest_checkpoint, write_checkpoint
from understudy.errors import ModelError, SettingError
from understudy.noise import noise_schedule
from understudy.training.batches import Batch, BatchMaker, Blocks, batches_ahead
from understudy.training.distillation import DistillationLoss, Teacher
from understudy.training.losses import TokenLoss
from understudy.training.networks import build_network
from understudy.training.run_folder import RunFolder, data_record, model_record
from understudy.training.samples import sample_texts
from understudy.training.settings import TrainingConfig, learning_rate
from understudy.training.state import TrainingState, clip_gradients, make_optimizer
from understudy.training.validation import validation_bound, validation_likelihood


@dataclass(frozen=True)
class TrainingRecord:
    """What happened since the last record, `step` optimizer steps into the run.

    loss: nats per token, mean over the steps since the last record; grad_norm: mean norm before clipping. Both are
    None in the first record of a call, which says in `notes` where the run begins and what was found damaged; those of
    the last one say so where the run was asked to stop.
    learning_rate: of the last step. tokens: positions the whole run has seen, padding included. tokens_per_second:
    since the last record, without validation, sampling and checkpoints. validation: what `validation_bound` gives,
    without `per_block`. samples: texts.
    """

    step: int
    loss: float | None
    learning_rate: float
    grad_norm: float | None
    tokens: int
    tokens_per_second: float | None
    validation: Mapping[str, Any] | None = None
    samples: tuple[str, ...] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def to_json(self) -> dict[str, Any]:
        """Fields that are there, in JSON's types; without notes."""
        return {name: value for name, value in asdict(self).items() if value is not None and name != "notes"}


def train(config: TrainingConfig, *, stop: Callable[[], bool] | None = None) -> Iterator[TrainingRecord]:
    """Train `config`'s model; every item is a record, and after the last one `config.output` is a model folder.

    An interrupted run (closed generator, killed process) goes on from its last checkpoint when it is called again
    with the same settings; a finished one yields one record that says so. `stop` is asked after every step: where it
    gives true, a checkpoint is written and the record of that step is the last. Every process of a distributed run
    drives its own generator and sees the same numbers; the main one writes; where one is to stop, all do. Torch's
    global generators are only used, and put back, within a step. Needs accelerate. SettingError for settings that do
    not fit each other, the data, or the run that the folder holds; DataError for data that cannot be read; ModelError
    for a loss that is not finite.

        for record in train(TrainingConfig(data="blocks", output="heavy", steps=1000)):
            print(record.step, record.loss)
    """
    blocks = _open_blocks(config.data, "train")
    folder = RunFolder(Path(config.output), data_record(blocks), model_record(config))
    folder.check(config)
    if folder.is_finished():
        yield _announce(config, blocks, config.steps, (f"the run in {config.output!r} is finished",))
        return
    yield from _Run(config, blocks, folder, stop).records()


class _Run:
    """One call of `train`: the prepared network and what belongs to it."""

    def __init__(
        self, config: TrainingConfig, blocks: Blocks, folder: RunFolder, stop: Callable[[], bool] | None
    ) -> None:
        self.config, self.blocks, self.folder = config, blocks, folder
        self.engine = make_engine()
        self.ballot = None if stop is None else _Ballot(stop, self.engine)
        self.device: torch.device = self.engine.device
        self.maker = BatchMaker(blocks, config, self.engine.process_index, self.engine.num_processes)
        self.validation_blocks = _validation_blocks(config, blocks)
        self.uses_fsdp = str(self.engine.distributed_type).endswith("FSDP")
        loss = make_loss(config, blocks.manifest, self.device)
        if config.compile:
            loss.compile_parts(by_block=self.uses_fsdp)
        self.loss, optimizer = self.engine.prepare(loss, make_optimizer(config, loss, self.device))
        self.plain_loss = cast(TokenLoss, self.engine.unwrap_model(self.loss))
        self.optimizer = cast(torch.optim.Optimizer, getattr(optimizer, "optimizer", optimizer))
        self.state = TrainingState(self.plain_loss.network, self.optimizer, config.ema, self.loss)
        self.start, self.notes = self._resume()

    def _resume(self) -> tuple[int, tuple[str, ...]]:
        checkpoint, problems = latest_checkpoint(self.folder.checkpoints)
        self.engine.wait_for_everyone()  # no process may write before all have looked
        step = 0 if checkpoint is None else checkpoint.step
        if checkpoint is not None:
            self.state.restore(checkpoint)
        if self.engine.is_main_process:
            self.folder.begin(self.config, step)
        origin = f"goes on from step {step}" if step else "starts at step 0"
        return step, (*(f"{problem}; it is not used" for problem in problems), origin)

    def records(self) -> Iterator[TrainingRecord]:
        """Train to the end."""
        config, window = self.config, _Window(self.device)
        yield _announce(config, self.blocks, self.start, self.notes)
        if self.start == config.steps:  # the last time there was no room for the model
            self._write_model()
        saved_at = time.monotonic()
        steps = range(self.start, config.steps)
        pin = self.device.type == "cuda"
        self.loss.train()
        for step, batches in zip(steps, batches_ahead(self.maker, steps, pin_memory=pin), strict=True):
            self._step(step, batches, window)
            done = step + 1
            is_stopped = done < config.steps and self.ballot is not None and self.ballot.is_stop_asked()
            if not (is_stopped or _is_record_due(config, done)):
                continue
            record = self._record(done, window)
            if self.engine.is_main_process:
                self.folder.log(record.to_json())
            if done < config.steps and (is_stopped or self._is_checkpoint_due(done, saved_at)):
                self._save(done)
                saved_at = time.monotonic()
            if done == config.steps:
                self._save(config.steps)
                self._write_model()
            if is_stopped:
                yield replace(record, notes=(f"stopped at step {done}; the run goes on from there",))
                return
            yield record
            window.restart()

    def _step(self, step: int, batches: list[Batch], window: _Window) -> None:
        """One optimizer step, from the gradient of the whole global batch."""
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # Dropout: a function of the step, so that a resumed run draws what it would have drawn.
            torch.manual_seed(((self.config.seed * 1_000_003 + step) * 65_537 + self.engine.process_index) % 2**63)
            for number, batch in enumerate(batches):
                is_last = number == len(batches) - 1
                with nullcontext() if is_last else self.engine.no_sync(self.loss):
                    window.loss += self._backward(batch.to(self.device))
        window.norm += clip_gradients(self.state.parameters, self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.update_ema(step + 1)
        window.steps += 1

    def _backward(self, batch: Batch) -> torch.Tensor:
        """Add a micro-batch's gradient; gives its part of the loss."""
        entropy = self.loss(batch.input_ids, batch.positions, batch.targets, batch.sigma)
        loss = (entropy * batch.weights).sum()
        # Processes average their gradients; the loss is a sum over all of them.
        (loss * self.engine.num_processes).backward()
        return cast(torch.Tensor, loss.detach())

    def _record(self, done: int, window: _Window) -> TrainingRecord:
        loss, norm, steps_per_second = window.read(self.engine)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise ModelError(
                f"loss {loss} and gradient norm {norm} near step {done} are not finite: lower the learning rate or "
                "lengthen the warm-up; the run can go on from its last checkpoint"
            )
        tokens = self.config.batch_size * self.blocks.manifest.block_length
        return TrainingRecord(
            step=done,
            loss=loss,
            learning_rate=learning_rate(self.config, done - 1),
            grad_norm=norm,
            tokens=done * tokens,
            tokens_per_second=tokens * steps_per_second,
            validation=self._validate() if self._is_validation_due(done) else None,
            samples=self._samples(done) if _every(self.config.sample_every, done, self.config.steps) else None,
        )

    def _is_validation_due(self, done: int) -> bool:
        return self.validation_blocks is not None and _every(self.config.validate_every, done, self.config.steps)

    def _validate(self) -> dict[str, Any]:
        """The bound of the averaged weights."""
        config, engine = self.config, self.engine
        options: dict[str, Any] = {
            "num_blocks": config.validation_blocks,
            "batch_size": config.micro_batch or max(1, config.batch_size // engine.num_processes),
            "part": (engine.process_index, engine.num_processes),
            "reduce": self._sum_arrays if engine.num_processes > 1 else None,
        }
        blocks = cast(Blocks, self.validation_blocks)
        self.loss.eval()
        with self.state.averaged():
            if config.objective == "ar":
                result = validation_likelihood(self.plain_loss, blocks, **options)
            else:
                options |= {"noise": noise_schedule(config.noise), "num_times": config.validation_times}
                result = validation_bound(self.plain_loss, blocks, **options)
        self.loss.train()
        return {name: value for name, value in result.items() if name != "per_block"}

    def _samples(self, done: int) -> tuple[str, ...] | None:
        """Texts of the averaged weights; None under FSDP, where no process holds the model."""
        if self.uses_fsdp or not self.engine.is_main_process or not self.config.num_samples:
            return None
        with self.state.averaged():
            return sample_texts(self.plain_loss.network, self.config, seed=done)

    def _sum_arrays(self, array: Any) -> Any:
        total = self.engine.reduce(torch.from_numpy(array).to(self.device), reduction="sum")
        return total.cpu().numpy()

    def _is_checkpoint_due(self, done: int, saved_at: float) -> bool:
        if self.config.checkpoint_every and done % self.config.checkpoint_every == 0:
            return True
        late = (
            bool(self.config.checkpoint_minutes) and time.monotonic() - saved_at > 60 * self.config.checkpoint_minutes
        )
        if self.engine.num_processes == 1:
            return late
        # Clocks differ; all processes must take part in a checkpoint, so the main one decides.
        votes = torch.tensor([late and self.engine.is_main_process], dtype=torch.int32, device=self.device)
        return bool(self.engine.reduce(votes, reduction="sum").item())

    def _save(self, done: int) -> None:
        files = self.state.gather()
        if self.engine.is_main_process:
            record = {"config": self.config.to_json()}
            write_checkpoint(self.folder.checkpoints, done, files, record, keep=self.config.keep)
        self.engine.wait_for_everyone()

    def _write_model(self) -> None:
        """Write the model from the averaged weights."""
        weights = self.state.averaged_weights()
        if self.engine.is_main_process:
            network = build_network(self.config, self.blocks.manifest)
            network.load_state_dict(weights, strict=False)  # a tied head has no name of its own
            self.folder.finish(self.config, network)
        self.engine.wait_for_everyone()


def make_loss(config: TrainingConfig, manifest: Any, device: torch.device) -> TokenLoss:
    """Give the untrained network in its loss, on the CPU; a teacher already lies on `device`."""
    network, precision = build_network(config, manifest), _precision(config, device)
    if config.teacher is not None:
        teacher = Teacher.load(config.teacher, config, manifest, device)
        return DistillationLoss(network, teacher, manifest.mask_id, config.distillation_weight, precision)
    return TokenLoss(network, None if config.objective == "ar" else manifest.mask_id, precision)


class _Ballot:
    """Whether any process is asked to stop: all get the same answer, as all must take part in a checkpoint."""

    def __init__(self, stop: Callable[[], bool], engine: Any) -> None:
        self.stop = stop
        # Between hosts, so that no vote waits for a GPU.
        self.group = torch.distributed.new_group(backend="gloo") if engine.num_processes > 1 else None

    def is_stop_asked(self) -> bool:
        if self.group is None:
            return self.stop()
        votes = torch.tensor([self.stop()], dtype=torch.int32)
        torch.distributed.all_reduce(votes, group=self.group)
        return bool(votes.item())


class _Window:
    """Sums over the steps since the last record, on the device."""

    def __init__(self, device: torch.device) -> None:
        # Not float64: some devices have none, and a window is short.
        self.loss = torch.zeros((), device=device)
        self.norm = torch.zeros((), device=device)
        self.restart()

    def restart(self) -> None:
        """Begin with nothing, now."""
        self.loss.zero_()
        self.norm.zero_()
        self.steps, self.began = 0, time.perf_counter()

    def read(self, engine: Any) -> tuple[float, float, float]:
        """Give mean loss, mean gradient norm and steps per second; here the host waits for the device."""
        loss = self.loss if engine.num_processes == 1 else engine.reduce(self.loss, reduction="sum")
        means = float(loss) / self.steps, float(self.norm) / self.steps
        return *means, self.steps / (time.perf_counter() - self.began)


def make_engine() -> Any:
    """Give accelerate's engine, as `accelerate launch` or torchrun has set it up; SettingError when there is none.

    Mixed precision is ours (`TokenLoss`), so that weights, gradients and their reduction are float32 in every set-up.
    """
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise SettingError("training needs accelerate: pip install 'understudy[train]'") from error
    engine = Accelerator(mixed_precision="no")
    plugin = getattr(engine.state, "fsdp_plugin", None)
    if plugin is not None:
        if plugin.fsdp_version != 2:
            raise SettingError(
                "FSDP version 1 is not supported: set fsdp_version: 2 (accelerate launch --fsdp_version 2)"
            )
        # Every process builds the same weights; sending them around breaks tied ones.
        plugin.cpu_ram_efficient_loading = False
    return engine


def _every(interval: int, done: int, steps: int) -> bool:
    """Every `interval` steps and at the end; never where it is 0."""
    return interval > 0 and (done % interval == 0 or done == steps)


def _is_record_due(config: TrainingConfig, done: int) -> bool:
    # A checkpoint falls on a record, so that no sum over steps has to be saved with it.
    intervals = (config.log_every, config.validate_every, config.sample_every, config.checkpoint_every)
    return any(_every(interval, done, config.steps) for interval in intervals)


def _announce(config: TrainingConfig, blocks: Blocks, step: int, notes: tuple[str, ...]) -> TrainingRecord:
    tokens = step * config.batch_size * blocks.manifest.block_length
    return TrainingRecord(step, None, learning_rate(config, step), None, tokens, None, notes=notes)


def _precision(config: TrainingConfig, device: torch.device) -> torch.dtype:
    is_half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    return torch.bfloat16 if is_half else torch.float32


def _open_blocks(folder: str, split: str) -> Blocks:
    from understudy.data import TokenBlocks

    return TokenBlocks.open(folder, split)


def _validation_blocks(config: TrainingConfig, blocks: Blocks) -> Blocks | None:
    """The held-out blocks, or None where the data has none or nothing is validated."""
    is_wanted = config.validate_every > 0 and "validation" in blocks.manifest.splits
    return _open_blocks(config.data, "validation") if is_wanted else None
