"""The engine of the service on a GPU: captured passes, and one that is begun before the last one is told."""

import numpy as np
import pytest
import torch

from laws import TableDenoiser, exact_pair
from serving import SECONDS, TOKENIZER
from understudy import sample
from understudy.denoisers.model_set import ModelSet
from understudy.server import Engine, RunRequest, ServerLimits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]
ILL = 1  # a token over which the ill model fails


class IllTable(TableDenoiser):
    """No law to draw from where a sequence begins with a certain token; by the same operations everywhere."""

    def __init__(self, exact, device):
        super().__init__(exact, device)
        first = torch.arange(len(self.table), device=self.table.device) // self.vocab_size ** (self.max_length - 1)
        self.table[first == ILL] = torch.nan


def requests(count):
    return [
        RunRequest(
            ["H4", "L2,H3", "L1,H1,L1"][seed % 3],
            {"template": np.array([2, 2, 2]), "num_samples": 1 + seed % 4, "seed": seed, "temperature": 1 + seed % 2},
        )
        for seed in range(count)
    ]


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_samples_on_a_gpu_are_those_of_the_library(cuda_graphs):
    exact = exact_pair()
    tables = {key: TableDenoiser(model, "cuda") for key, model in exact.items()}
    models = ModelSet(tables, TOKENIZER, dict.fromkeys(tables, "table"))
    engine = Engine(models, ServerLimits(max_sequences=48, batch_size=16, queue=2000), cuda_graphs=cuda_graphs)
    engine.start()
    try:
        wanted = requests(200)
        runs = [engine.submit(request) for request in wanted]
        for request, run in zip(wanted, runs, strict=True):
            assert run.wait(SECONDS)
            assert run.state == "done", run.failure
            # A look-up in a table rounds the same way in every batch.
            assert torch.equal(run.result.tokens, sample(tables, request.schedule, **request.options).tokens)
    finally:
        assert engine.stop(drain=False, seconds=SECONDS)


def test_what_fails_on_a_gpu_takes_nobody_else_along():
    exact = exact_pair()
    tables = {"H": IllTable(exact["H"], "cuda"), "L": TableDenoiser(exact["L"], "cuda")}
    engine = Engine(ModelSet(tables, TOKENIZER, dict.fromkeys(tables, "table")), ServerLimits(queue=2000))
    engine.start()
    try:
        well, ill = np.array([0, 2, 2]), np.array([ILL, 2, 2])
        runs = [
            engine.submit(RunRequest("L2,H2", {"template": ill if seed % 5 == 0 else well, "seed": seed, "length": 3}))
            for seed in range(100)
        ]
        assert all(run.wait(SECONDS) for run in runs)
        for seed, run in enumerate(runs):
            needs_heavy = run.result is None or run.result.nfe["H"] > 0
            assert (run.state == "failed") == (seed % 5 == 0 and needs_heavy)
            if run.state == "done":
                expected = sample(tables, "L2,H2", template=well if seed % 5 else ill, seed=seed).tokens
                assert torch.equal(run.result.tokens, expected)
        assert engine.state == "running"
    finally:
        assert engine.stop(drain=False, seconds=SECONDS)
