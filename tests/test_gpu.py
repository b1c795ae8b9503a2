"""What holds on a GPU: the same law and accounting, and tokens that agree with the CPU's up to rounding."""

import pytest
import torch

from driving import finish
from laws import FALSE_ALARM, TableDenoiser, ancestral_law, chi_square_p_value, exact_pair
from masked_lms import save_masked_lm
from models import tiny_network
from published_mdlm import published, save_published
from remote_models import save_remote
from understudy import decode, load_denoiser, sample, sample_plain, sample_steps
from understudy.denoisers.model_set import bundled_paths, load_model_set
from understudy.denoisers.network import DiTDenoiser
from understudy.errors import ModelError
from understudy.sampling import SamplingTask, graphs, inverse_cdf, probabilities
from understudy.sampling.draw import draw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),  # from within torch, when it compiles first
]


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


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_law_of_captured_passes(cuda_graphs):
    exact = exact_pair()
    tables = {key: TableDenoiser(model, "cuda") for key, model in exact.items()}
    options = {"template": [0, 2, 2], "num_samples": 20_000, "batch_size": 4096, "cuda_graphs": cuda_graphs}
    tokens = sample(tables, "L2,H1,L2", **options).tokens
    assert chi_square_p_value(tokens, ancestral_law(exact, "L2,H1,L2", [0, 2, 2])) > FALSE_ALARM


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_draw_kernels_draw_what_the_cpu_draws(dtype, temperature):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(300, 50258, generator=generator) * 4).to(dtype)
    logits[:, 2000:5000] = -torch.inf  # whole blocks without mass
    logits[7, :-1] = -torch.inf
    uniforms = torch.rand(300, dtype=torch.float64, generator=generator)
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
    here = inverse_cdf(probabilities(logits, 50257, temperature=temperature), uniforms)
    wide = torch.full((300, 50304), 9.0, dtype=dtype)  # rows that lie apart, with something else between
    wide[:, :50258] = logits
    there, is_finite = draw(wide.cuda()[:, :50258], uniforms.cuda(), 50257, temperature=temperature)
    is_drawn = torch.arange(300) != 7  # the row whose only finite logit is the mask's
    assert torch.equal(here[is_drawn], there.cpu()[is_drawn])
    assert not bool(is_finite)
    _, is_finite = draw(logits[8:].cuda(), uniforms[8:].cuda(), 50257, temperature=temperature)
    assert bool(is_finite)
    broken = logits[8:].clone()
    broken[5, 17] = torch.nan
    assert not bool(draw(broken.cuda(), uniforms[8:].cuda(), 50257)[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("kernels", [True, False])
def test_the_folded_network_equals_the_network(dtype, tolerance, kernels):
    # Width 96 and 3 heads: no powers of two, in kernels that work on powers of two.
    network = tiny_network(3, hidden_size=96, num_attention_heads=3, scale=0.1, max_position_embeddings=256)
    xt = torch.randint(0, 23, (5, 200))
    columns, flat = torch.randint(0, 200, (5, 4)), torch.tensor([0, 3, 4, 9, 19, 0])
    with torch.inference_mode():
        wanted = network.head(network.hidden(xt).gather(1, columns[..., None].expand(-1, -1, 96)))
        wanted = wanted.flatten(0, 1)[flat]
    model = DiTDenoiser(network.to("cuda", dtype), kernels=kernels)
    there = model.logits_at(xt.cuda(), columns.cuda(), flat.cuda()).float().cpu()
    assert float((there - wanted).norm() / wanted.norm()) < tolerance


def test_graphs_agree_with_single_operations():
    models = bundled("cuda")
    options = {"length": 64, "num_samples": 24, "seed": 3, "batch_size": 8}
    graphed, single = (sample(models, "L16,H32,L16", cuda_graphs=on, **options) for on in (True, False))
    assert graphed.nfe == single.nfe
    # Padding changes the shapes of products, and so the last bits of logits.
    assert (graphed.tokens == single.tokens).all(dim=1).sum() >= 22


def test_a_time_conditioned_model_is_captured_too():
    network = tiny_network(time_conditioning=True, noise="cosine")
    options = {"length": 24, "num_samples": 16, "seed": 3, "batch_size": 8, "noise": "cosine"}
    here = sample({"H": DiTDenoiser(network)}, "H40", **options)
    model = DiTDenoiser(tiny_network(time_conditioning=True, noise="cosine").cuda())
    there = sample({"H": model}, "H40", **options)
    assert any(entry.graph is not None for entry in graphs._graphs[model].values())
    assert (here.tokens == there.tokens).all(dim=1).sum() >= 15


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


FAMILIES = ("roberta", "bert", "modernbert", "distilbert", "albert", "llada", "Dream", "mdlm")


def save_family(folder, kind, layers):
    if kind == "mdlm":
        save_published(folder, *published(seed=layers))
    elif kind in ("llada", "Dream"):
        save_remote(folder, kind, layers=layers)
    else:
        save_masked_lm(folder, kind, layers=layers)


@pytest.mark.parametrize("decoding", ["ancestral", "low_confidence"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_other_families_draw_what_they_draw_on_the_cpu(tmp_path, kind, decoding):
    for key, layers in {"H": 3, "L": 1}.items():
        save_family(tmp_path / key, kind, layers)
    runs = []
    for device in ("cpu", "cuda"):
        models = {
            key: load_denoiser(tmp_path / key, device=device, trust_remote_code=kind in ("llada", "Dream"))
            for key in "HL"
        }
        length = min(16, *(model.max_length or 16 for model in models.values()))
        steps = "L2,H4,L2" if decoding == "low_confidence" else "L8,H16,L8"
        runs.append(decode(models, steps, length=length, num_samples=16, seed=3, batch_size=8, decoding=decoding))
    here, there = runs
    assert here.nfe == there.nfe
    # A token flips where its uniform is within float32 rounding of a boundary, and then the rest may differ.
    assert (here.tokens == there.tokens).all(dim=1).sum() >= 14
