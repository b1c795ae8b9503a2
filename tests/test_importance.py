"""Importance: estimates against what is known in closed form, and what must not change them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from driving import finish
from laws import TableDenoiser, ancestral_law, exact_pair, exact_step_divergence
from models import MASK, random_canvas, tiny_denoiser, tiny_pair
from understudy import ModelSchedule
from understudy.errors import DataError, ModelError, SettingError
from understudy.importance import AnalysisSettings, Importance, PathDivergence, analysis, analyze
from understudy.importance.divergence import log_probabilities, row_divergence
from understudy.importance.trajectories import bin_edges
from understudy.record_journal import RecordJournal

STEPS = 5
SIGMAS = 5  # a false alarm in 1.7 million, for each figure that is checked


def run(denoisers, blocks=None, journal=None, **settings):
    options = {"steps": STEPS, "num_times": 4, "num_samples": 8, "bins": STEPS, "chunk": 4, **settings}
    return finish(analyze(denoisers, blocks=blocks, settings=AnalysisSettings(**options), journal=journal))[1]


def tiny_blocks(count=6, length=12):
    return random_canvas(count, length, masked=0.0).numpy()


@pytest.fixture(scope="module")
def tables():
    return {key: TableDenoiser(model) for key, model in exact_pair().items()}


@pytest.mark.parametrize("positions", [1, 3])
def test_path_kl_of_every_step_is_the_one_known_in_closed_form(tables, positions):
    known = exact_step_divergence(exact_pair(), STEPS)
    settings = {"num_samples": 6000, "chunk": 3000, "length": 3, "positions": positions, "batch_size": 3000}
    path = measured(tables, **settings)
    errors = np.sqrt(np.diag(path.covariance))
    np.testing.assert_array_less(abs(path.per_step[0] - known), SIGMAS * errors)
    value, error = path.path_kl(ModelSchedule.parse(f"L{STEPS}"))
    assert abs(value - known.sum()) < SIGMAS * error
    assert error < 0.02 * known.sum()  # so the check above can fail


def measured(tables, **settings):
    options = AnalysisSettings(steps=STEPS, num_times=0, bins=STEPS, **settings)
    return finish(analyze(tables, blocks=None, settings=options, reference="H"))[1].path()


def test_looking_at_more_positions_lowers_the_errors_of_single_steps(tables):
    settings = {"num_samples": 3000, "chunk": 3000, "length": 3, "batch_size": 3000}
    one, all_of_them = (np.diag(measured(tables, positions=count, **settings).covariance) for count in (1, 3))
    assert all_of_them.sum() < one.sum()


@pytest.mark.parametrize("text", ["L5", "L2,H3", "H3,L2", "H1,L2,H2"])
def test_path_kl_bounds_the_divergence_of_the_texts(tables, text):
    models = exact_pair()
    heavy, mixed = (ancestral_law(models, schedule, [2, 2, 2]) for schedule in ("H5", text))
    of_texts = sum(mass * np.log(mass / mixed[sequence]) for sequence, mass in heavy.items())
    known = exact_step_divergence(models, STEPS)
    steps = np.array(ModelSchedule.parse(text).steps()) == "L"
    assert 0 < of_texts <= known[steps].sum()


def test_a_given_position_costs_nothing(tables):
    beginnings = np.array([[0, 1, 1], [1, 0, 1]])
    blocks = np.tile(beginnings, (2000, 1))
    options = AnalysisSettings(
        steps=STEPS, num_times=0, bins=STEPS, num_samples=4000, chunk=4000, batch_size=4000, prefix_lengths=(0, 2)
    )
    found = finish(analyze(tables, blocks=blocks, settings=options, reference="H"))[1]
    path = found.path("prefix 2")
    known = np.mean([exact_step_divergence(exact_pair(), STEPS, [*row[:2], 2]) for row in beginnings.tolist()], axis=0)
    assert path.free_positions == 1
    np.testing.assert_array_less(abs(path.per_step[0] - known), SIGMAS * np.sqrt(np.diag(path.covariance)) + 1e-12)


def test_every_trajectory_has_a_prefix_of_its_own():
    path = run(tiny_pair(), tiny_blocks(6), num_samples=8, prefix_lengths=(0, 3))
    assert (path.path().num_samples, path.path("prefix 3").num_samples) == (8, 6)


@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"num_times": 0, "length": 12}])
def test_nan_is_an_error(settings):
    pair = {"H": tiny_denoiser(3, seed=1), "L": tiny_denoiser(1, seed=2)}
    with torch.no_grad():
        pair["L"].network.output_layer.bias[3] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        run(pair, tiny_blocks(), **settings)


def test_equal_models_differ_nowhere():
    pair = {"H": tiny_denoiser(3, seed=1), "L": tiny_denoiser(3, seed=1)}
    settings = AnalysisSettings(steps=STEPS, num_times=4, num_samples=4, bins=STEPS)
    found = finish(analyze(pair, blocks=tiny_blocks(), settings=settings, reference="H"))[1]
    for curves in (found.held_out.kl, found.held_out.reverse_kl, found.held_out.gap):
        assert not curves["L"].mean.any()
    assert (found.held_out.agreement["L"].mean == 1).all()
    assert not found.path().per_step.any()


@pytest.mark.parametrize("stretch", [256, 2])
def test_held_out_curves_are_those_of_dense_logits(monkeypatch, stretch):
    monkeypatch.setattr(analysis, "STRETCH", stretch)
    pair, blocks = tiny_pair(), tiny_blocks(5, 16)
    curves = run(pair, blocks, num_samples=0).held_out
    for index, t in enumerate(curves.times):
        masked = np.random.default_rng((0, index)).random(blocks.shape) < t
        xt, targets = torch.from_numpy(np.where(masked, MASK, blocks)), torch.from_numpy(blocks)
        logs = {}
        for key, model in pair.items():
            logits = model.logits(xt).double()
            logits[..., MASK] = -torch.inf
            logs[key] = torch.log_softmax(logits, -1)
        where = torch.from_numpy(masked)
        loss = {key: -value.gather(-1, targets[..., None])[..., 0][where].mean() for key, value in logs.items()}
        terms = torch.where(logs["H"].exp() > 0, logs["H"].exp() * (logs["H"] - logs["L"]), 0.0)
        assert curves.cross_entropy["H"].mean[index] == pytest.approx(float(loss["H"]), rel=1e-4)
        assert curves.gap["L"].mean[index] == pytest.approx(float(loss["L"] - loss["H"]), rel=1e-3, abs=1e-4)
        assert curves.kl["L"].mean[index] == pytest.approx(float(terms.sum(-1)[where].mean()), rel=1e-3)
    assert curves.bound["H"][0] == pytest.approx(float(np.mean(curves.cross_entropy["H"].mean)))


def test_divergence_ignores_the_mask_and_survives_no_mass():
    logits = torch.tensor([[0.0, 1.0, 5.0], [0.0, -torch.inf, 5.0]])
    logs = log_probabilities(logits, 2)
    assert logs.exp()[:, 2].tolist() == [0, 0]
    apart = row_divergence(logs, log_probabilities(logits + torch.tensor([0.0, 0.0, 9.0]), 2))
    assert apart.kl.tolist() == [0, 0]


def test_batches_and_chunks_change_nothing():
    pair, blocks = tiny_pair(), tiny_blocks()
    first = run(pair, blocks, chunk=8, batch_size=3)
    for settings in ({"chunk": 2, "batch_size": 3}, {"chunk": 8, "batch_size": 8}):
        other = run(pair, blocks, **settings)
        np.testing.assert_allclose(other.path().per_step, first.path().per_step, rtol=1e-4)
        np.testing.assert_allclose(other.held_out.kl["L"].mean, first.held_out.kl["L"].mean, rtol=1e-5)


def test_path_kl_adds_up_over_steps_and_models():
    pair = {**tiny_pair(), "M": tiny_denoiser(2, seed=5)}
    path = run(pair, num_times=0, length=12).path()
    assert set(path.keys) == {"L", "M"}
    parts = [path.path_kl(ModelSchedule.parse(text))[0] for text in ("L2,H3", "H2,M3")]
    assert path.path_kl(ModelSchedule.parse("L2,M3"))[0] == pytest.approx(sum(parts))
    assert path.path_kl(ModelSchedule.parse("H5")) == (0.0, 0.0)
    whole = path.path_kl(ModelSchedule.parse("L5"))
    assert path.path_kl(ModelSchedule.parse("L15")) == pytest.approx(whole)
    assert path.path_kl(ModelSchedule.parse("L6,H9")) == pytest.approx(path.path_kl(ModelSchedule.parse("L2,H3")))


def test_errors_of_schedules_are_those_over_samples():
    path, values = independent_steps(num_steps=24, num_bins=4, samples=4000)
    for text in ("L24", "L6,H18", "L1,H23", "H5,L11,H8", "L2,H4,L2,H4,L2,H4,L2,H4"):
        taken = np.array(ModelSchedule.parse(text).steps()) == "L"
        over_samples = values[:, taken].sum(axis=1).std(ddof=1) / np.sqrt(len(values))
        # Exact where bins are whole; else steps within a bin are taken to covary alike, which here they do.
        assert path.path_kl(ModelSchedule.parse(text))[1] == pytest.approx(over_samples, rel=0.06), text


def test_halves_are_disjoint_and_make_up_the_whole():
    path = run(tiny_pair(), num_times=0, length=12, num_samples=7, chunk=2).path()
    assert [half.num_samples for half in path.halves] == [4, 3]
    assert path.choosing is path.halves[0]
    assert path.judging is path.halves[1]
    np.testing.assert_allclose(sum(half.num_samples * half.per_step for half in path.halves) / 7, path.per_step)
    whole = run(tiny_pair(), num_times=0, length=12, num_samples=7, chunk=7).path()
    np.testing.assert_allclose(whole.judging.per_step, path.judging.per_step, rtol=1e-4)
    alone = run(tiny_pair(), num_times=0, length=12, num_samples=3).path()
    assert alone.halves == ()
    assert alone.choosing is alone.judging is alone


def independent_steps(num_steps, num_bins, samples):
    """A path divergence of steps that vary on their own and a little together, and the samples it is made of."""
    rng = np.random.default_rng(0)
    values = 1 + rng.standard_normal((samples, num_steps)) + 0.2 * rng.standard_normal((samples, 1))
    edges = bin_edges(num_steps, num_bins)
    binned = np.add.reduceat(values, edges[:-1], axis=1)
    path = PathDivergence(
        name="unconditional",
        num_steps=num_steps,
        length=8,
        free_positions=8,
        num_samples=samples,
        keys=("L",),
        per_step=values.mean(axis=0)[None],
        step_variances=values.var(axis=0, ddof=1)[None] / samples,
        bins=edges,
        bin_means=binned.mean(axis=0)[None],
        covariance=np.cov(binned.T) / samples,
    )
    return path, values


def test_smoothing_keeps_a_level_curve_and_its_total():
    path = run(tiny_pair(), num_times=0, length=12, bins=3).path()
    level = replace(path, bin_means=np.diff(path.bins)[None] * 2.0)
    for count in (STEPS, 17):
        np.testing.assert_allclose(level.smooth(count), np.full((1, count), 2.0 * STEPS / count))


def test_bins_cover_all_steps_once():
    assert bin_edges(10, 4).tolist() == [0, 2, 5, 8, 10]
    assert bin_edges(3, 32).tolist() == [0, 1, 2, 3]


def test_an_analysis_that_was_cut_off_goes_on(tmp_path):
    pair, blocks = tiny_pair(), tiny_blocks()
    whole = run(pair, blocks)
    job = {"seed": 0}
    cut = analyze(
        pair,
        blocks=blocks,
        settings=AnalysisSettings(steps=STEPS, num_times=4, num_samples=8, bins=STEPS, chunk=4),
        journal=RecordJournal(tmp_path / "j", job),
    )
    while len(journal := RecordJournal(tmp_path / "j", job)) < 5:
        next(cut)
    cut.close()
    assert len(journal) == 5
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"unit": "held-o')  # killed while it wrote
    journal = RecordJournal(tmp_path / "j", job)
    assert run(pair, blocks, journal=journal).to_dict() == whole.to_dict()
    with pytest.raises(SettingError, match="another seed"):
        RecordJournal(tmp_path / "j", {"seed": 1})


def test_files_come_back_as_they_were_written(tmp_path):
    found = run(tiny_pair(), tiny_blocks())
    found.save(tmp_path / "importance.json")
    assert Importance.load(tmp_path / "importance.json").to_dict() == found.to_dict()
    content = json.loads((tmp_path / "importance.json").read_text())
    halved = {**content["paths"][0], "halves": content["paths"][0]["halves"][:1]}
    for damage in ({"format": "other"}, {"paths": [{}]}, {"held_out": 3}, {"paths": [halved]}):
        (tmp_path / "damaged.json").write_text(json.dumps({**content, **damage}))
        with pytest.raises(DataError, match="understudy analyze"):
            Importance.load(tmp_path / "damaged.json")
    with pytest.raises(DataError, match="there is no file"):
        Importance.load(tmp_path / "missing.json")


def test_files_from_before_halves_can_be_read(tmp_path):
    content = run(tiny_pair(), num_times=0, length=12).to_dict()
    for path in content["paths"]:
        del path["halves"]
    (tmp_path / "old.json").write_text(json.dumps({**content, "format": "understudy-importance-1"}))
    path = Importance.load(tmp_path / "old.json").path()
    assert (path.num_samples, path.halves) == (8, ())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0, "num_times": 0}, "nothing to measure"),
        ({"steps": 0}, "steps is 0"),
        ({"prefix_lengths": (2, 2)}, "come once"),
        ({"num_samples": 1}, "at least 2, or 0"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(SettingError, match=message):
        AnalysisSettings(**settings)


def test_requests_that_do_not_fit():
    with pytest.raises(SettingError, match="at least two"):
        run({"H": tiny_denoiser()}, tiny_blocks())
    with pytest.raises(SettingError, match="leaves nothing"):
        run(tiny_pair(), tiny_blocks(), prefix_lengths=(12,))
    with pytest.raises(SettingError, match="needs held-out text"):
        run(tiny_pair(), prefix_lengths=(2,), length=8)
    with pytest.raises(SettingError, match="1 block of text"):
        run(tiny_pair(), tiny_blocks(1), num_samples=0)
    with pytest.raises(SettingError, match="'unconditional'"):
        run(tiny_pair(), tiny_blocks()).path("prefix 9")
