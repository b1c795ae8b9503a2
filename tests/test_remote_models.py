"""Models that carry their code: asked for first, shifted or not, heads and tails, shims that are gone afterwards."""

import json
import os
import py_compile
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import PreTrainedModel

from masked_lms import SPECIAL
from remote_models import KINDS, KNOWN, LLADA, LONGEST, MASK, TAIL, load_remote, plain_logits, save_remote
from understudy import cli, load_denoiser, sample
from understudy.conformance import DenoiserConformance
from understudy.denoisers import Positions
from understudy.denoisers.model_files import model_sha256
from understudy.denoisers.model_set import load_model_set
from understudy.errors import ModelError, PairingError
from understudy.sampling import SamplingTask


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder and the weights in it, for every kind."""
    made = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: (folder, save_remote(folder, kind)) for kind, folder in made.items()}


@pytest.mark.parametrize("kind", KINDS)
class TestConformance(DenoiserConformance):
    @pytest.fixture(autouse=True)
    def _made(self, kind, folders):
        self.model = load_remote(folders[kind][0])

    def make(self):
        return self.model


def canvas():
    xt = torch.randint(len(SPECIAL), KNOWN, (3, 9), generator=torch.Generator().manual_seed(1))
    xt[:, ::2] = MASK
    return xt


@pytest.mark.parametrize("kind", KINDS)
def test_no_code_runs_unless_asked_for(tmp_path, kind):
    witness = tmp_path / "ran"
    save_remote(tmp_path / "model", kind, code=f"open({str(witness)!r}, 'w')")
    with pytest.raises(ModelError, match=r"\(configuration.py, modeling.py\).*trust_remote_code=True") as caught:
        load_denoiser(tmp_path / "model")
    assert "--trust-remote-code" in str(caught.value)
    assert not witness.exists()
    with pytest.raises(ModelError, match="cannot build its network"):  # it has no class of that name
        load_remote(tmp_path / "model")
    assert witness.exists()
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_formulas(tmp_path, kind, tied):
    weights = save_remote(tmp_path, kind, tied=tied)
    model = load_remote(tmp_path)
    expected = plain_logits(kind, weights, canvas(), tied=tied)
    torch.testing.assert_close(model.logits(canvas()), expected, atol=1e-4, rtol=1e-4)
    where = Positions(np.array([0, 0, 1, 2]), np.array([0, 7, 3, 8]))
    at_positions = model.logits(canvas(), None, where)
    torch.testing.assert_close(at_positions, expected[where.rows, where.cols], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_reads_revealed_positions_only(folders, kind):
    model = load_remote(folders[kind][0])
    seen = []
    head = model.network.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[:-1].numel()))
    model.logits(canvas(), None, Positions(np.array([0, 1, 1, 2]), np.array([2, 0, 4, 8])))
    assert sum(seen) == 4
    assert "head at revealed positions only" in model.description
    assert model.pass_flops(9, 1).head == 2 * 16 * (KNOWN + TAIL)
    assert model.pass_flops(9, 1).blocks == 2 * 9 * 2 * 16 * 16 * (2 if kind == "llada" else 1) + 4 * 9**2 * 32


def test_a_trunk_that_is_passed_by_is_noticed(tmp_path):
    code = LLADA.replace("x = self.transformer.ln_f(x)", "x = self.transformer.ln_f.forward(x)")
    weights = save_remote(tmp_path, "llada", code=code)
    model = load_remote(tmp_path)
    assert "head at all positions" in model.description
    where = Positions(np.array([0, 2]), np.array([1, 8]))
    expected = plain_logits("llada", weights, canvas())[where.rows, where.cols]
    torch.testing.assert_close(model.logits(canvas(), None, where), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sampling_run_is_a_plain_loop(folders, kind):
    folder, weights = folders[kind]
    model = load_remote(folder)
    task = {"length": 9, "num_samples": 3, "seed": 5}
    result = sample({"A": model}, "A6", **task)
    plan = SamplingTask.create({"A": model}, "A6", **task).plan
    again = torch.full((3, 9), MASK)
    for step in range(6):
        for row, col in zip(*np.nonzero(plan.reveal_step == step), strict=True):
            seen = torch.where(torch.from_numpy(plan.reveal_step[row] < step), again[row], MASK)
            logits = plain_logits(kind, weights, seen[None])[0, col].double()
            logits[MASK] = -torch.inf
            again[row, col] = int((logits.softmax(-1).cumsum(-1) <= plan.uniforms[row, col]).sum())
    assert torch.equal(result.tokens, again)
    assert int(result.tokens.max()) < KNOWN


def test_what_was_decided_is_said(folders):
    told = {kind: load_remote(folder).description for kind, (folder, _) in folders.items()}
    shared = (f"vocabulary {KNOWN} of {KNOWN + TAIL}, mask {MASK}", f"at most {LONGEST} tokens")
    assert all(part in text for text in told.values() for part in shared)
    assert "logits at their token, no attention mask" in told["llada"]
    assert "logits one position before their token, attention_mask 'full'" in told["Dream"]


@pytest.mark.parametrize("kind", KINDS)
def test_holes_in_the_vocabulary_are_barred(tmp_path, kind):
    save_remote(tmp_path, kind, mask_token_id=KNOWN + 3)
    model = load_remote(tmp_path)
    assert (model.vocab_size, model.mask_id) == (KNOWN + 4, KNOWN + 3)
    assert torch.isneginf(model.logits(canvas())[..., KNOWN : KNOWN + 3]).all()


def test_a_mask_without_logits_is_refused(tmp_path):
    save_remote(tmp_path, "llada", mask_token_id=126336)
    with pytest.raises(ModelError, match=r"mask id .* is 126336, but .* ids 0 to 37 only"):
        load_remote(tmp_path)


def test_a_mask_that_the_configuration_leaves_out_is_the_tokenizers(tmp_path):
    save_remote(tmp_path, "Dream", mask_token_id=None)
    assert load_remote(tmp_path).mask_id == MASK
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (path := tmp_path / name).exists():
            path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "mask_token"}))
    with pytest.raises(ModelError, match="add mask_token_id"):
        load_remote(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_with_other_tails_and_other_code_shares_a_schedule(tmp_path, folders, kind):
    other = KINDS[kind].replace("torch.tanh", "torch.sin")
    weights = save_remote(tmp_path, kind, layers=1, tail=2, seed=1, code=other)
    models = load_model_set({"H": folders[kind][0], "L": tmp_path}, trust_remote_code=True)
    result = sample(models.denoisers, "L2,H4,L2", length=12, num_samples=4)
    assert set(result.nfe) == {"L", "H"}
    assert int(result.tokens.max()) < KNOWN
    # Neither took over the other's code, nor that of a folder of the same name.
    assert not torch.allclose(models.denoisers["L"].logits(canvas()), plain_logits(kind, weights, canvas()), atol=1e-2)
    expected = plain_logits(kind, folders[kind][1], canvas())
    torch.testing.assert_close(models.denoisers["H"].logits(canvas()), expected, atol=1e-4, rtol=1e-4)


def test_code_in_a_folder_within_is_code_of_its_own(tmp_path, folders):
    for name in ("one", "other"):
        weights = save_remote(tmp_path / name, "llada", code=KINDS["llada"].replace("torch.tanh", "torch_of.tanh"))
        code = (tmp_path / name / "modeling.py").read_text()
        (tmp_path / name / "modeling.py").write_text(f"from .parts import maths as torch_of\n{code}")
        (tmp_path / name / "parts").mkdir()
        function = "tanh" if name == "one" else "sin"
        (tmp_path / name / "parts" / "maths.py").write_text(f"from torch import {function} as tanh\n")
    with pytest.raises(ModelError, match=r"\(configuration.py, modeling.py, parts/maths.py\)"):
        load_denoiser(tmp_path / "one")
    one, other = (load_remote(tmp_path / name) for name in ("one", "other"))
    expected = plain_logits("llada", weights, canvas())
    torch.testing.assert_close(one.logits(canvas()), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(other.logits(canvas()), expected, atol=1e-2)
    assert model_sha256(tmp_path / "one") != model_sha256(tmp_path / "other")


def test_what_python_kept_of_other_code_is_not_run(tmp_path):
    # A compiled file with the date and size of the source is what an import takes, whatever the source says.
    save_remote(tmp_path, "llada")
    source, witness = tmp_path / "configuration.py", tmp_path / "ran"
    honest = source.read_text()
    evil = f"open({str(witness)!r}, 'w')\n{honest}"
    source.write_text(evil)
    os.utime(source, (1, 1))
    py_compile.compile(str(source), doraise=True)
    source.write_text(honest + "#" * (len(evil) - len(honest)))
    os.utime(source, (1, 1))
    load_remote(tmp_path)
    assert not witness.exists()


def test_models_of_two_kinds_can_share_one_schedule(folders):
    models = load_model_set({kind[0]: folder for kind, (folder, _) in folders.items()}, trust_remote_code=True)
    assert sample(models.denoisers, "l3,D3", length=6).tokens.shape == (1, 6)


def test_masks_that_differ_are_named(tmp_path, folders):
    save_remote(tmp_path, "Dream", mask_token_id=KNOWN)
    with pytest.raises(PairingError, match="differ in mask id"):
        load_model_set({"H": folders["llada"][0], "L": tmp_path}, trust_remote_code=True)


def test_shims_are_gone_afterwards(tmp_path, folders):
    def state():
        kernels = torch.backends.cuda.mem_efficient_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled()
        patched = torch.nn.Module.register_parameter, getattr(PreTrainedModel, "get_expanded_tied_weights_keys", None)
        return dict(ROPE_INIT_FUNCTIONS), kernels, patched, sys.dont_write_bytecode

    before = state()
    load_remote(folders["Dream"][0])
    save_remote(tmp_path, "llada", code="import torch\ntorch.backends.cuda.enable_flash_sdp(False)\n1 / 0")
    with pytest.raises(ModelError, match="ZeroDivisionError"):
        load_remote(tmp_path)
    assert state() == before


def test_weights_are_read_strictly(tmp_path):
    save_remote(tmp_path, "llada")
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    head = weights.pop("model.transformer.ff_out.weight")
    save_file(weights, file)
    with pytest.raises(ModelError, match=r"1 missing \(model.transformer.ff_out.weight\)"):
        load_remote(tmp_path)
    save_file({**weights, "model.transformer.ff_out.weight": head[:, :-1].contiguous(), "odd": head}, file)
    with pytest.raises(ModelError, match=r"1 unknown \(odd\), 1 of another shape"):
        load_remote(tmp_path)


def test_a_package_that_is_not_here_is_named(tmp_path):
    save_remote(tmp_path, "llada", code="import flash_attention_of_old")
    with pytest.raises(ModelError, match="needs the package 'flash_attention_of_old'"):
        load_remote(tmp_path)


def test_code_in_another_repository_is_not_fetched(tmp_path):
    save_remote(tmp_path, "Dream", auto_map={"AutoModel": "somebody/else--modeling.Model"})
    with pytest.raises(ModelError, match="only code in the folder itself is run"):
        load_remote(tmp_path)


def test_models_that_go_block_by_block_are_told_apart(tmp_path):
    save_remote(tmp_path, "llada", architectures=["LLaDA2MoeModelLM"])
    with pytest.raises(ModelError, match="block after block"):
        load_remote(tmp_path)


def test_low_precision_reaches_weights_only(folders):
    model = load_remote(folders["Dream"][0], dtype=torch.bfloat16)
    assert model.network.model.frequencies.dtype == torch.float32
    assert {weight.dtype for weight in model.network.parameters()} == {torch.bfloat16}


def test_the_command_line_samples_from_it(folders, capsys, monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *arguments])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return leave.value.code, *capsys.readouterr()

    sampling = ("sample", "--model", f"A={folders['Dream'][0]}", "--schedule", "A4", "--length", "6", "--json")
    code, out, err = run(*sampling)
    assert code != 0
    assert out == ""
    assert "--trust-remote-code" in " ".join(err.split())
    code, out, err = run(*sampling, "--trust-remote-code")
    assert code == 0
    assert "Dream model by its own Model" in " ".join(err.split())
    assert len(json.loads(out)["samples"][0]["token_ids"]) == 6
