"""What holds on a GPU: the same law and accounting, and tokens that agree with the CPU's up to rounding."""

import pytest
import torch

from driving import finish
from laws import FALSE_ALARM, ancestral_law, chi_square_p_value, exact_pair
from models import tiny_network
from understudy import sample, sample_plain, sample_steps
from understudy.denoisers.model_set import bundled_paths, load_model_set
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import ModelError
from understudy.sampling import SamplingTask, inverse_cdf, probabilities

pytestmark = pytest.mark.gpu


def bundled(device, dtype=torch.float32):
    paths = bundled_paths()
    return load_model_set({"H": paths["heavy"], "L": paths["light"]}, device=device, dtype=dtype).denoisers


class OnCuda:
    """An exact denoiser whose canvas lies on the GPU."""

    def __init__(self, inner):
        self.inner, self.device = inner, torch.device("cuda", 0)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def logits(self, xt, t=None, where=None):
        return self.inner.logits(xt.cpu(), t, where).to(self.device)


@pytest.mark.parametrize("sampler", ["lazy", "plain"])
def test_law_of_a_mixed_schedule_with_a_prefix(sampler):
    exact = exact_pair()
    on_cuda = {key: OnCuda(model) for key, model in exact.items()}
    task = SamplingTask.create(on_cuda, "L2,H1,L2", template=[0, 2, 2], num_samples=20_000, batch_size=4096)
    result = finish((sample_steps if sampler == "lazy" else sample_plain)(task))[1]
    assert chi_square_p_value(result.tokens, ancestral_law(exact, "L2,H1,L2", [0, 2, 2])) > FALSE_ALARM


def test_draws_agree_with_the_cpu():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(512, 5000, generator=generator) * 3
    uniforms = torch.rand(512, dtype=torch.float64, generator=generator)
    for top_p in (1.0, 0.9):
        here = inverse_cdf(probabilities(logits, 7, top_p=top_p), uniforms)
        there = inverse_cdf(probabilities(logits.cuda(), 7, top_p=top_p), uniforms.cuda()).cpu()
        # float64 sums in another order: a boundary would have to lie within 1e-13 of a uniform.
        assert torch.equal(here, there)


def test_float32_samples_agree_with_the_cpu():
    options = {"length": 64, "num_samples": 8, "seed": 3}
    here, there = (sample(bundled(device), "L16,H32,L16", **options) for device in ("cpu", "cuda"))
    assert here.nfe == there.nfe
    assert here.flops == there.flops
    # A token flips where its uniform is within float32 rounding (1e-6) of a boundary, and then the rest may differ.
    same = (here.tokens == there.tokens).all(dim=1)
    assert same.sum() >= 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_size_changes_tokens_by_rounding_only(dtype):
    models = bundled("cuda", dtype)
    runs = [sample(models, "L16,H32,L16", length=64, num_samples=16, seed=3, batch_size=b) for b in (1, 7, 16)]
    for other in runs[1:]:
        assert other.nfe == runs[0].nfe
        is_same = other.tokens == runs[0].tokens
        if dtype is torch.float32:
            # A token flips where its uniform is within rounding of a boundary, and changes the rest of its sequence.
            assert is_same.all(dim=1).sum() >= 14
        else:  # logits move by about 1 %, so most sequences part somewhere; what came before stays
            assert is_same.float().mean() > 0.4


def test_one_batch_shape_is_repeatable_to_the_bit():
    models = bundled("cuda", torch.bfloat16)
    runs = [sample(models, "L16,H32,L16", length=64, num_samples=16, seed=3, batch_size=16) for _ in range(2)]
    assert torch.equal(runs[0].tokens, runs[1].tokens)


def test_nan_is_noticed_in_the_end():
    broken = tiny_network()
    with torch.no_grad():
        broken.output_layer.bias[3] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        sample({"H": DiTDenoiser(broken.cuda())}, "H8", length=16, num_samples=4)
