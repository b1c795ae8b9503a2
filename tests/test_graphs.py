"""Padded passes: what runs as a CUDA graph on a GPU runs operation by operation here, with the same shapes."""

import gc
import weakref

import numpy as np
import pytest
import torch

from laws import FALSE_ALARM, TableDenoiser, ancestral_law, chi_square_p_value, exact_pair
from models import MASK, tiny_denoiser, tiny_pair
from understudy import sample
from understudy.sampling import SamplingTask, graphs
from understudy.sampling.graphs import GraphedPasses
from understudy.sampling.queue import PassQueue


def padded_run(task):
    """Tokens (n, L) by padded passes, and the passes."""
    spare = np.full((1, task.template.shape[1]), task.mask_id)
    canvas = torch.tensor(np.concatenate([task.template, spare]))
    passes = GraphedPasses(task, canvas)
    made = list(passes.run(PassQueue(task.plan, task.schedule, task.batch_size)))
    assert bool(passes.is_healthy)
    assert (canvas[-1] >= 0).all()
    return canvas[:-1], made


@pytest.mark.parametrize("batch_size", [1, 5, 8, 64])
@pytest.mark.parametrize("time_conditioning", [False, True])
def test_padding_changes_no_token(batch_size, time_conditioning):
    pair = {
        key: tiny_denoiser(blocks, seed=blocks, time_conditioning=time_conditioning)
        for key, blocks in {"H": 3, "L": 1}.items()
    }
    template = np.full((13, 24), MASK)
    template[::2, 3:9] = 4  # unequal numbers of events
    options = {"template": template, "num_samples": 13, "seed": 3, "batch_size": batch_size}
    tokens, made = padded_run(SamplingTask.create(pair, "L6,H10,L6", **options))
    # Float32 products of another shape: a token flips where its uniform is that close to a boundary; here none is.
    assert torch.equal(tokens, sample(pair, "L6,H10,L6", **options).tokens)
    assert sum(len(batch.samples) for batch in made) == SamplingTask.create(pair, "L6,H10,L6", **options).num_passes


def test_law_of_padded_passes():
    exact = exact_pair()
    tables = {key: TableDenoiser(model) for key, model in exact.items()}
    task = SamplingTask.create(tables, "L2,H1,L2", template=[0, 2, 2], num_samples=20_000, batch_size=4096)
    tokens, _ = padded_run(task)
    assert chi_square_p_value(tokens, ancestral_law(exact, "L2,H1,L2", [0, 2, 2])) > FALSE_ALARM


def test_models_without_fixed_shapes_go_pass_by_pass():
    exact = exact_pair()
    mixed = {"H": exact["H"], "L": TableDenoiser(exact["L"])}
    task = SamplingTask.create(mixed, "L2,H2", length=3, num_samples=50, seed=1)
    tokens, _ = padded_run(task)
    assert torch.equal(tokens, sample(exact, "L2,H2", length=3, num_samples=50, seed=1).tokens)


def test_few_shapes_serve_a_run_and_go_with_their_model():
    pair = tiny_pair()
    padded_run(SamplingTask.create(pair, "L10,H30,L10", length=32, num_samples=100, batch_size=16))
    shapes = list(graphs._graphs[pair["H"]])
    assert 1 <= len(shapes) <= 24
    assert {shape.batch % 2 for shape in shapes} == {0}
    model = weakref.ref(pair.pop("H"))
    gc.collect()
    assert model() is None


def test_graphs_longest_unused_go_first(monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    model = tiny_denoiser()
    shapes = [graphs.PassShape(batch, 8, 4, 8, MASK, 1.0, 1.0) for batch in (1, 2, 3)]
    first = graphs.graph_of(model, shapes[0])
    graphs.graph_of(model, shapes[1])
    assert graphs.graph_of(model, shapes[0]) is first
    graphs.graph_of(model, shapes[2])
    assert list(graphs._graphs[model]) == [shapes[0], shapes[2]]
