"""What the service counts, for Prometheus."""

import time
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from understudy.denoisers.model_set import ModelSet
from understudy.sampling.queue import Pass
from understudy.server.engine import Engine, Observer
from understudy.server.limits import ServerLimits
from understudy.server.sequences import Run

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)


class Metrics(Observer):
    """Counts what an engine does, in a registry of its own."""

    def __init__(self, models: ModelSet, limits: ServerLimits) -> None:
        self.registry = CollectorRegistry()
        self._denoisers = models.denoisers
        self._cost = lru_cache(maxsize=65536)(self._pass_flops)
        place = {"registry": self.registry}
        self.passes = Counter("understudy_passes", "Passes made, whatever their batch.", ["model"], **place)
        self.sequences = Counter("understudy_sequence_passes", "Passes times sequences in them.", ["model"], **place)
        self.tokens = Counter("understudy_revealed_tokens", "Tokens revealed.", ["model"], **place)
        self.flops = Counter("understudy_flops_executed", "FLOPs of all passes made.", ["model"], **place)
        self.saved = Counter(
            "understudy_flops_saved",
            "FLOPs that finished runs did not need: against dense heavy steps, or heavy in the same passes.",
            ["against"],
            **place,
        )
        sizes = sorted({1, *(2**power for power in range(1, 16) if 2**power < limits.batch_size), limits.batch_size})
        self.occupancy = Histogram("understudy_batch_sequences", "Sequences in a pass.", buckets=sizes, **place)
        self.runs = Counter("understudy_runs", "Runs that are over, by how they ended.", ["state"], **place)
        self.run_seconds = Histogram(
            "understudy_run_seconds", "From a run's arrival to its end, if it was done.", buckets=SECONDS, **place
        )
        self.queue_seconds = Histogram(
            "understudy_queue_seconds", "From a run's arrival to its first row.", buckets=SECONDS, **place
        )
        self.first_token = Histogram(
            "understudy_first_token_seconds", "From a run's arrival to its first token.", buckets=SECONDS, **place
        )
        self.requests = Counter("understudy_requests", "Answers, by path and status.", ["path", "status"], **place)
        self.request_seconds = Histogram(
            "understudy_request_seconds", "From a request to the end of its answer.", ["path"], buckets=SECONDS, **place
        )
        self.waiting = Gauge("understudy_queue_sequences", "Sequences that wait for a row.", **place)
        self.active = Gauge("understudy_active_sequences", "Sequences that are being sampled.", **place)

    def watch(self, engine: Engine) -> None:
        """Read an engine's queue whenever somebody asks."""
        self.waiting.set_function(lambda: engine.num_waiting)
        self.active.set_function(lambda: engine.num_active)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return bytes(generate_latest(self.registry))

    def passed(self, batch: Pass, length: int) -> None:
        """Count a pass."""
        self.passes.labels(batch.key).inc()
        self.sequences.labels(batch.key).inc(len(batch.samples))
        self.tokens.labels(batch.key).inc(len(batch.uniforms))
        self.flops.labels(batch.key).inc(sum(self._cost(batch.key, length, int(r)) for r in batch.where.counts))
        self.occupancy.observe(len(batch.samples))

    def left(self, run: Run) -> None:
        """Count a run that is over."""
        self.runs.labels(run.state).inc()
        if run.num_admitted:
            self.queue_seconds.observe(run.started - run.created)
        if run.num_passes:
            self.first_token.observe(run.first_token - run.created)
        if run.result is not None and run.state == "done":
            self.run_seconds.observe(time.monotonic() - run.created)
            flops = run.result.flops
            for against, share in (("dense", flops.executed_saved), ("schedule", flops.schedule_saved)):
                # A counter cannot fall: a schedule that costs more than heavy alone has saved nothing.
                self.saved.labels(against).inc(max(0.0, flops.executed * share / (1 - share)))

    def _pass_flops(self, key: str, length: int, revealed: int) -> int:
        return self._denoisers[key].pass_flops(length, revealed).total
