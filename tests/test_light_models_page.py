"""docs/light-models.md and the log say of healed light models what was measured."""

import json
from pathlib import Path

import pytest

from scripts import recipe

ROOT = Path(__file__).parent.parent
FEW, MANY = 91_750_400, 917_504_000  # tokens
MEASURED, EVEN = [0, 2, 5, 9], [0, 3, 6, 9]  # blocks kept


@pytest.fixture(scope="module")
def found():
    return json.loads((ROOT / "results/make-light-h100.json").read_text(encoding="utf-8"))


def page(name):
    return " ".join((ROOT / "docs" / name).read_text(encoding="utf-8").split())


def healed(found, kept, tokens, share=1):
    """The model of these blocks, healed with that share of KL."""
    wanted = (kept, tokens, share)
    (model,) = (
        model
        for model in found["models"]
        if model["training"]
        and (model["kept"], model["training"]["tokens"], model["training"].get("distillation_weight")) == wanted
    )
    return model


def named(found, name):
    return next(model for model in found["models"] if model["name"] == name)


def rise(model):
    """Of the judge's NLL: in a sandwich, alone."""
    return [row["nll_difference"] for row in model["judge"][1:]]


def kl(model):
    return model["path_kl"]["light only"]["per_token"]


def overlap(*models):
    """Whether the intervals of the rise in a sandwich have a value in common."""
    intervals = [model["judge"][1]["nll_difference_ci95"] for model in models]
    return max(low for low, _ in intervals) < min(high for _, high in intervals)


def test_the_table_is_that_of_the_recipe(found):
    assert recipe("make_light_table").table(found["models"]) in (ROOT / "docs/light-models.md").read_text("utf-8")


def test_with_few_tokens_every_healed_model_is_better_than_one_from_random_weights(found):
    scratch = named(found, "scratch")
    assert scratch["training"]["tokens"] == FEW
    models = [healed(found, MEASURED, FEW, share) for share in (0, 0.5, 1)]
    assert all(2 * rise(model)[0] < rise(scratch)[0] for model in [*models, healed(found, EVEN, FEW)])
    assert "less than half of the NLL" in page("light-models.md")
    assert not overlap(scratch, models[0])
    assert rise(models[2]) < rise(models[0])  # KL alone against data alone


def test_with_many_tokens_they_are_no_better(found):
    bundled = named(found, "original")
    assert bundled["training"]["tokens"] == MANY
    for kept in (MEASURED, EVEN):
        model = healed(found, kept, MANY)
        assert overlap(model, bundled)
        assert rise(model)[1] > rise(bundled)[1]


def test_path_kl_says_otherwise_than_the_judge(found):
    bundled, few, many = named(found, "original"), healed(found, EVEN, FEW), healed(found, EVEN, MANY)
    assert f"has {kl(few) / kl(bundled):.2f} times the path KL of the bundled light model" in page("log.md")
    assert f"it has {kl(many) / kl(bundled):.2f} times the path KL and the same rise" in page("log.md")
    factors = [own / other for own, other in zip(rise(few), rise(bundled), strict=True)]
    assert [round(factor) for factor in sorted(factors)] == [3, 4]
    assert "three to four times its rise" in page("light-models.md")


def test_measured_blocks_are_no_better_once_healed(found):
    pairs = {tokens: [healed(found, kept, tokens) for kept in (MEASURED, EVEN)] for tokens in (FEW, MANY)}
    before = [f"{model['kl_before_healing']['mean']:.2f}" for model in pairs[FEW]]
    assert f"lose {before[0]} nats of KL, the evenly spaced 0, 3, 6, 9 lose {before[1]}" in page("log.md")
    assert f"(KL {before[0]} against {before[1]} nats per masked token)" in page("light-models.md")
    for tokens, steps in ((FEW, "after 1,400 steps"), (MANY, "after 14,000")):
        bounds = [f"{model['held_out_bound'][0]:.3f}" for model in pairs[tokens]]
        assert f"{bounds[0]} and {bounds[1]} {steps}" in page("log.md")
        assert overlap(*pairs[tokens])


def test_the_bound_of_the_heavy_model(found):
    bounds = {f"{model['held_out_bound_of_the_heavy'][0]:.3f}" for model in found["models"]}
    assert [f"own bound is {bound}." in page("light-models.md") for bound in bounds] == [True]


def test_how_far_repeated_runs_differ(found):
    again = found["validation_bounds_of_repeated_runs"]
    assert "bounds of {:.3f}, {:.3f} and {:.3f} in three".format(*again.pop("scratch")) in page("light-models.md")
    assert all(max(bounds) - min(bounds) < 0.001 and len(bounds) == 2 for bounds in again.values())
