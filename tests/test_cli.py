"""The command as its users meet it: what it prints where, with which status, and what it leaves on disk."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stage import make_network, make_tokenizer, save_stage
from understudy import cli, sampling
from understudy.cli.models import pick_device, pick_dtype
from understudy.data import train_bpe
from understudy.denoisers.dit import DiTConfig, DiTForMaskedLM
from understudy.errors import SettingError

KEYS = {"schedule", "steps", "length", "seed", "nfe", "flops", "seconds", "samples"}
SHARES = {"nominal_blocks_saved", "nominal_saved", "executed", "executed_saved", "schedule_saved"}
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def document(self):
        assert self.status == 0, self.err
        return json.loads(self.out)


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """Folders by name: models that work, and models that are broken in one way each."""
    root, tokenizer = tmp_path_factory.mktemp("stage"), make_tokenizer()
    folders = save_stage(root, tokenizer)

    def variant(name, source="heavy"):
        folders[name] = shutil.copytree(folders[source], root / name)
        return folders[name]

    make_network(2, 2, tokenizer).save_pretrained(variant("medium"))
    weights = load_file(folders["heavy"] / "model.safetensors")
    broken = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}
    save_file(broken, variant("nan") / "model.safetensors", {"format": "pt"})
    whole = (folders["heavy"] / "model.safetensors").read_bytes()
    (variant("truncated") / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (variant("weightless") / "model.safetensors").unlink()
    (variant("configless") / "config.json").unlink()
    (variant("strange") / "config.json").write_text('{"model_type": "understudy_dit", "hidden_size": "wide"}')
    for path in variant("mute").glob("tokenizer*"):
        path.unlink()
    train_bpe(["another text, other pairs of letters; zebra quiz. " * 3], 275).save_pretrained(variant("foreign"))
    shape = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "cond_dim": 8}
    DiTForMaskedLM(DiTConfig(vocab_size=280, mask_token_id=1, **shape)).save_pretrained(variant("larger"))
    return {name: str(path) for name, path in folders.items()}


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder, on a page of 80 characters."""
    # Set here, so that what the command sets is taken back with it.
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "TRANSFORMERS_VERBOSITY": "error"}.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["understudy", *map(str, arguments)])
        with pytest.raises(SystemExit) as leave:
            cli.main()
        return Outcome(leave.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def sample(call, stage):
    """`understudy sample` with the tiny pair, 16 tokens long."""
    pair = ("--heavy", stage["heavy"], "--light", stage["light"], "--length", 16)
    return lambda *arguments: call("sample", *pair, *arguments)


def spawn(arguments, *, cwd, **options):
    """The command in a process of its own, one thread, no network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **options.pop("env", {})}
    command = [sys.executable, "-m", "understudy", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes, **options)


# What `understudy sample` gives.


def test_json_is_one_document_on_standard_output_and_nothing_else(stage, tmp_path):
    # An encoding that cannot hold the text: the document is UTF-8 all the same.
    arguments = ("sample", "--heavy", stage["heavy"], "--light", stage["light"], "--schedule", "L2,H4,L2")
    process = spawn([*arguments, "-n", 3, "--json"], cwd=tmp_path, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    document = json.loads(out.decode("utf-8"))
    assert out.count(b"\n") == 1
    assert document.keys() >= KEYS
    assert document["flops"].keys() == SHARES
    assert (document["schedule"], document["steps"], document["length"], document["seed"]) == ("L2,H4,L2", 8, 32, 0)
    assert document["nfe"].keys() == {"H", "L"}
    # 32 tokens leave none of 8 steps empty, but with probability 8·(7/8)^32 = 11 % per sample.
    assert 0 < sum(document["nfe"].values()) <= 3 * 8
    assert [len(row["token_ids"]) for row in document["samples"]] == [32] * 3
    assert all(row["text"] for row in document["samples"])


def test_document_agrees_with_itself(sample):
    document = sample("--schedule", "L2,H4,L2", "-n", 2, "--json").document
    flops = document["flops"]
    assert flops["nominal_blocks_saved"] == pytest.approx(0.5 * 2 / 3)  # half the steps by 1 of 3 blocks
    assert flops["nominal_saved"] < flops["nominal_blocks_saved"]
    assert 0 < flops["schedule_saved"] < 1
    assert document["seconds"] >= 0
    assert document["nfe_per_sample"] == {key: passes / 2 for key, passes in document["nfe"].items()}


def test_seed_decides_the_samples(sample):
    one, same, other = (sample("--steps", 8, "--seed", seed, "--json").document["samples"] for seed in (7, 7, 8))
    assert one == same
    assert one != other


def test_schedule_of_the_heavy_model_alone_is_no_schedule(sample):
    alone, none = sample("--schedule", "H8", "--json"), sample("--steps", 8, "--json")
    assert alone.document["samples"] == none.document["samples"]
    assert none.document["schedule"] == "H8"


def test_percentages_take_the_steps(sample):
    assert sample("--schedule", "L25%,H50%,L25%", "--steps", 12, "--json").document["schedule"] == "L3,H6,L3"


def test_third_model_under_its_own_key(sample, stage):
    document = sample("--model", f"M={stage['medium']}", "--schedule", "L20,M20,H20", "--json").document
    assert set(document["nfe"]) == {"L", "M", "H"}
    assert min(document["nfe"].values()) > 0


def test_temperature_0_in_one_step_leaves_nothing_to_chance(sample):
    one, other = (sample("--steps", 1, "--temperature", 0, "--seed", seed, "--json").document for seed in (1, 2))
    assert one["samples"] == other["samples"]


def test_prefix_comes_first_and_suffix_last(sample):
    given = ("--prefix", "the cat", "--suffix", " mat.")
    ids = make_tokenizer().encode("the cat")
    for row in sample("--steps", 8, *given, "-n", 3, "--json").document["samples"]:
        assert row["text"].startswith("the cat")
        assert row["text"].endswith(" mat.")
        assert row["token_ids"][: len(ids)] == ids
    shown = sample("--steps", 8, *given)
    assert "\nthe cat" in shown.out


def test_documents_of_a_sample_stand_apart(sample):
    given = ("--infill", "the cat<|endoftext|>the dog [MASK]", "--steps", 2)
    (row,) = sample(*given, "--json").document["samples"]
    assert row["text"].startswith("the cat\n\nthe dog")
    assert "\nthe cat\n\nthe dog" in sample(*given).out


def test_output_is_written_whole_and_read_back(sample, call, stage, tmp_path):
    document = sample("--schedule", "L2,H4,L2", "-n", 3, "--output", "out.jsonl", "--json").document
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [{"text": row["text"], "token_ids": row["token_ids"]} for row in rows] == document["samples"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    scores = call("evaluate", "--samples", "out.jsonl", "--judge", stage["judge"], "--json").document
    assert scores["num_samples"] == 3
    assert scores["gen_ppl"] > 1


# What a person sees.


def test_plain_output_has_headings_and_every_figure(sample):
    shown = sample("--schedule", "L2,H4,L2", "-n", 2, "--output", "out.jsonl")
    assert (shown.status, shown.err) == (0, "")
    for word in ("sample 0", "sample 1", "L2,H4,L2 (8 steps, length 16, seed 0)", "by L", "by H", "out.jsonl"):
        assert word in shown.out
    assert len(re.findall(r"\d\.\d%", shown.out)) == 4
    assert not ANSI.search(shown.out)
    assert "Who wrote what" not in shown.out


def test_the_screen_shows_few_of_many_samples_that_a_file_holds(sample, tmp_path):
    shown = sample("--schedule", "L2,H4,L2", "-n", 10, "--length", 8, "--output", "out.jsonl").out
    assert "sample 7" in shown
    assert "sample 8" not in shown
    assert "and 2 more" in shown
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 10
    assert "sample 9" in sample("--schedule", "L2,H4,L2", "-n", 10, "--length", 8).out


def test_text_in_a_pipe_is_not_broken_into_lines(sample, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    long = "the cat sat on the mat, the dog sat on"
    assert f"\n{long}" in sample("--length", 32, "--steps", 4, "--prefix", long).out


def test_terminal_shows_who_wrote_what(sample, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    both = sample("--schedule", "L2,H4,L2", "--prefix", "the cat")
    legend, *lines = both.out.splitlines()
    assert ANSI.sub("", legend).split() == ["Who", "wrote", "what:", "model", "H", "model", "L", "given"]
    styles = {word: legend.partition(word)[0].rpartition("\x1b")[2] for word in ("model H", "model L", "given")}
    assert len(set(styles.values())) == 3
    text = next(line for line in lines if "the cat" in line)
    assert all(f"\x1b{style}" in text for style in styles.values())
    assert max(len(ANSI.sub("", line)) for line in lines) <= 80
    assert "Who wrote what" not in sample("--schedule", "H8").out


def test_control_characters_do_not_reach_the_terminal(sample, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "the \x1b[31mcat" not in sample("--steps", 4, "--prefix", "the \x1b[31mcat").out


# What ends early.


def fail_after(failure, records=2):
    """A stand-in for `task_steps` that fails in the middle."""
    original = sampling.task_steps

    def steps(task):
        run = original(task)
        for _ in range(records):
            yield next(run)
        failure()

    return steps


def throw(error):
    raise error


@pytest.fixture
def interruptible():
    """What a terminal sends is heard, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_leaves_nothing_behind(sample, monkeypatch, tmp_path):
    monkeypatch.setattr(sampling, "task_steps", fail_after(lambda: signal.raise_signal(signal.SIGINT)))
    outcome = sample("--steps", 8, "--output", "out.jsonl", "--json")
    kept = "nothing is kept, since samples are written when all are there; --ray keeps finished parts"
    assert outcome == Outcome(130, "", f"understudy: interrupted; {kept}\n")
    assert not list(tmp_path.iterdir())


def test_interrupt_while_writing_keeps_the_earlier_file(sample, monkeypatch, tmp_path):
    (tmp_path / "out.jsonl").write_text("earlier")

    monkeypatch.setattr(os, "fsync", lambda descriptor: throw(KeyboardInterrupt()))
    assert sample("--steps", 8, "--output", "out.jsonl").status == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert (tmp_path / "out.jsonl").read_text() == "earlier"


@pytest.mark.skipif(os.name != "posix", reason="pipes that can break")
def test_closed_pipe_is_no_error_of_ours(tmp_path):
    with spawn(["flops", "--schedule", ",".join(["H1,L1"] * 500)], cwd=tmp_path) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


CPU_REFUSAL = (
    "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
)
NUMPY_REFUSAL = "Unable to allocate 116. TiB for an array with shape (1000000000000, 16) and data type int64"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 …\nmore"), r"\(2.50 GiB more"),
        (RuntimeError(CPU_REFUSAL), r"\(99 bytes more"),
        (MemoryError(NUMPY_REFUSAL), r"\(116 TiB more"),
        (MemoryError(), "out of memory; take a smaller --batch-size"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ModuleNotFoundError("No module named 'tiktoken'", name="tiktoken"), "tiktoken is not installed.*pip install"),
        (SettingError("several\nlines, and \x1b[31mcolour"), r"several lines, and \\x1b\[31mcolour"),
    ],
)
def test_what_the_machine_refuses_is_one_line(sample, monkeypatch, tmp_path, error, message):
    monkeypatch.setattr(sampling, "task_steps", fail_after(lambda: throw(error)))
    check_refusal(sample("--steps", 8, "--output", "out.jsonl"), tmp_path, message)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ModuleNotFoundError("a bug", name="understudy.nowhere")])
def test_errors_of_our_own_keep_their_traceback(sample, monkeypatch, error):
    monkeypatch.setattr(sampling, "task_steps", fail_after(lambda: throw(error)))
    with pytest.raises(type(error), match="a bug"):
        sample("--steps", 8)


# What is wrong with what was given.


def check_refusal(outcome, folder, message):
    """One line that says what is wrong, a status, and nothing else anywhere."""
    assert outcome.status in (1, 2)
    assert outcome.out == ""
    assert outcome.err.startswith("understudy: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    assert re.search(message, outcome.err), outcome.err
    assert not list(folder.iterdir())


# Each on top of the tiny pair with --steps 8 --length 16 --output out.jsonl; the message says what was given, what is
# allowed and how to mend it.
WRONG_OPTIONS = {
    "schedule with a semicolon": ("--schedule L4;H4", "column 3: ';' stands where .* for example L125,H750,L125"),
    "schedule of nothing": ("--schedule=", "column 1: the string ends where a key .* for example"),
    "schedule longer than steps": ("--schedule L4,H8", "has 12 steps but 8 were asked for; change its counts"),
    "schedule shorter than steps": ("--schedule L1,H2", "has 3 steps but 8 were asked for; change its counts"),
    "percentages short of 100": ("--schedule L20%,H50%", "sum to 70, not to 100; correct them"),
    "schedule with an unbound key": ("--schedule M8", "names M, but models are bound to H, L only; bind the missing"),
    "empty prefix": ("--prefix=", "the prefix is empty; give some text, or leave it out"),
    "over-long prefix": ("--prefix " + "catsat" * 40, r"hold \d+ tokens.* at length 16; shorten them or raise"),
    "prefix with the mask": ("--prefix <|mask|>", "holds the mask token 1; leave it out"),
    "prefix that is no UTF-8": ("--prefix \udcff", "prefix is no text that can be written in UTF-8; check"),
    "binding without =": ("--model M", "--model is 'M'; write one letter, = and a model, such as M=runs/medium"),
    "binding of two letters": ("--model MM={medium}", "--model is 'MM=.*write one letter"),
    "binding of a digit": ("--model 1={medium}", "--model is '1=.*write one letter"),
    "binding of nothing": ("--model M=", "--model is 'M='; write one letter"),
    "key bound twice": ("--model H={medium}", "two models are bound to H: .*give each key once"),
    "device of no kind": ("--device tpu", "device is 'tpu'; it must be auto, cpu, cuda or cuda:N"),
    "device without numbers": ("--device meta", "device is 'meta'; it must be auto, cpu, cuda or cuda:N"),
    "device that is not here": ("--device cuda:999", "device is 'cuda:999', but .* here; choose another or cpu"),
    "precision of no kind": ("--precision int8", "precision is 'int8'; it must be auto, float32 or bfloat16"),
    "no samples": ("--num-samples 0", "num_samples is 0; it must be at least 1"),
    "more samples than memory": ("--num-samples 1000000000000", "out of memory .*TiB more.*smaller --batch-size"),
    "negative seed": ("--seed -1", r"seed is -1; it must be a whole number between 0 and 2\^64 - 1"),
    "huge seed": (f"--seed {2**64}", f"seed is {2**64}; it must be a whole number between 0"),
    "empty batch": ("--batch-size 0", "batch_size is 0; it must be at least 1"),
    "length over the maximum": ("--length 64", "length is 64; model H takes at most 32"),
    "no length": ("--length 0", "length is 0; it must be at least 1"),
    "no steps": ("--steps 0", "steps is 0; it must be at least 1"),
    "negative temperature": ("--temperature -1", "temperature is -1.0; it must be 0 .* or more"),
    "empty nucleus": ("--top-p 0", r"top_p is 0.0; it must lie in \(0, 1\]"),
    "noise of no kind": ("--noise pink", "no noise schedule 'pink'; choose one of: loglinear, cosine"),
    "number in letters": ("--steps eight", "--steps.*'eight'.*; see understudy sample --help"),
    "number in letters after =": ("--steps=eight", "--steps.*'eight'.*; see understudy sample --help"),
    "unknown option": ("--temprature 1", "No such option: --temprature.*; see understudy sample --help"),
    "output in a missing folder": ("--output gone/out.jsonl", "cannot write 'gone/out.jsonl': there is no folder"),
    "output that is a folder": ("--output .", "cannot write '.': it is a folder; give the name of a file"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
def test_wrong_option_is_one_line(sample, stage, tmp_path, options, message):
    given = options.format(**stage).split(" ")
    check_refusal(sample("--steps", 8, "--output", "out.jsonl", *given), tmp_path, message)


WRONG_MODELS = {
    "missing folder": ("/nowhere/heavy", "there is no folder '/nowhere/heavy'.*check the path"),
    "file instead of a folder": ("{heavy}/config.json", "there is no .*folder.*config.json"),
    "name that is not here": ("nobody/nothing", "'?nobody/nothing'? is no folder here .*check the path or the name"),
    "no config.json": ("{configless}", "has no readable config.json.*is it a model folder"),
    "senseless config.json": ("{strange}", "config.json.* hidden_size is 'wide'; it must be"),
    "no weights": ("{weightless}", "has no model.safetensors"),
    "truncated weights": ("{truncated}", "model.safetensors cannot be read .*truncated, copy it again"),
    "no tokenizer": ("{mute}", "no usable tokenizer in .*mute"),
    "a judge": ("{judge}", "holds a model of type 'llama', which is none of these: Understudy's DiT; "),
    "NaN weights": ("{nan}", "model H returned logits with NaN .*is its checkpoint intact"),
}


@pytest.mark.parametrize(("path", "message"), WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_wrong_model_is_one_line(call, stage, tmp_path, monkeypatch, path, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    outcome = call("sample", "--heavy", path.format(**stage), "--steps", 8, "--length", 16, "--output", "out.jsonl")
    check_refusal(outcome, tmp_path, message)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("foreign", "models H .* and M .*foreign.* have different tokenizers .token 259 is .*must share one"),
        ("larger", "differ in vocabulary size .*H has 275.*M has 280.*--remap-masks"),
    ],
)
def test_models_that_do_not_pair_are_one_line(sample, stage, tmp_path, other, message):
    options = ("--model", f"M={stage[other]}", "--schedule", "M4,H4", "--output", "out.jsonl")
    check_refusal(sample(*options), tmp_path, message)


WRONG_COMMANDS = {
    "unknown verb": ("sampel", "No such command 'sampel'.*; see understudy --help"),
    "unknown option before the verb": ("--verbose sample", "No such option: --verbose.*; see understudy --help"),
    "word too many": ("flops L125", "unexpected extra argument.*L125.*; see understudy flops --help"),
    "option without its value": ("flops --steps", "--steps.*requires an argument; see understudy flops --help"),
    "required option left out": ("train", "Missing option '--data'.*; see understudy train --help"),
    "nothing to evaluate": ("evaluate", "give either --samples FILE or one --schedule or more"),
    "samples that are not there": ("evaluate --samples gone.jsonl", "'gone.jsonl' cannot be read .*give a file of"),
    "shape without a width": ("flops --model H=12x", "shape of H is '12x'; write BLOCKSxWIDTH"),
    "width of 0": ("flops --model H=12x0 --model L=4x768", "shape of H is '12x0'; write BLOCKSxWIDTH, both at least 1"),
    "no blocks": ("flops --model H=0x768", "shape of H is '0x768'; write BLOCKSxWIDTH, both at least 1"),
    "width in letters": ("flops --model H=12xwide", "shape of H is '12xwide'; write BLOCKSxWIDTH.* such as 12x768"),
    "negative width": ("flops --model H=12x-768", "shape of H is '12x-768'; write BLOCKSxWIDTH"),
    "shape without a key": ("flops --model 12x768", "--model is '12x768'; write one letter, .* such as H=12x768"),
    "two shapes of a key": ("flops --model H=1x1 --model H=2x2", "two models are bound to H: 1x1 and 2x2"),
    "key without a shape": ("flops --model H=12x768", "names L, but shapes are given for H only; add --model L="),
    "cost of no tokens": ("flops --length 0", "length is 0; it must be at least 1"),
    "cost of no vocabulary": ("flops --vocab-size 0", "vocab_size is 0; it must be at least 1"),
    "percentages of nothing": ("flops --schedule L50%,H50%", "percentages need the number of steps; give it too"),
}


@pytest.mark.parametrize(("line", "message"), WRONG_COMMANDS.values(), ids=WRONG_COMMANDS)
def test_wrong_command_is_one_line(call, tmp_path, line, message):
    check_refusal(call(*line.split(" ")), tmp_path, message)


def test_missing_package_says_how_to_get_it(call, monkeypatch, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"text": "the cat sat"}\n')
    monkeypatch.setitem(sys.modules, "datasets", None)
    outcome = call("prepare", "text.jsonl", "--output", "blocks", "--train-tokenizer", 300)
    (tmp_path / "text.jsonl").unlink()
    shutil.rmtree(tmp_path / "blocks", ignore_errors=True)  # a run that goes on may have begun its journal
    check_refusal(outcome, tmp_path, r"datasets.*pip install 'understudy\[data\]'")


def test_status_of_a_failure_is_that_of_the_process(tmp_path):
    process = spawn(["flops", "--schedule", "L4;H4", "--json"], cwd=tmp_path)
    out, err = process.communicate()
    check_refusal(Outcome(process.returncode, out.decode(), err.decode()), tmp_path, "column 3: ';' stands where")


@pytest.mark.parametrize(
    ("devices", "name", "device", "dtype"),
    [(0, "auto", "cpu", "float32"), (2, "auto", "cuda", "bfloat16"), (2, "cuda:1", "cuda:1", "bfloat16")],
)
def test_device_and_precision_are_picked_together(monkeypatch, devices, name, device, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)
    assert pick_device(name) == device
    assert pick_dtype("auto", device) is getattr(torch, dtype)
    assert pick_dtype("float32", device) is torch.float32
    with pytest.raises(SettingError, match="none is here" if not devices else "cuda:0 to cuda:1 are here"):
        pick_device("cuda:2")


# The rest of the command.


def test_nothing_given_shows_the_help(call):
    outcome = call()
    assert (outcome.status, outcome.err) == (0, "")
    assert "sample" in outcome.out
    assert call("--version").out.startswith("understudy ")


# What `understudy flops` says.


def test_flops_of_the_paper(call):
    document = call("flops", "--json").document
    # Per token: a block 24·768² + 4·1024·768, the head 2·768·50258; a quarter of the steps by 4 of 12 blocks.
    block, head = 17_301_504, 77_196_288
    saved = 0.25 * (1 - (4 * block + head) / (12 * block + head))
    (row,) = document["schedules"]
    assert (row["schedule"], row["steps"]) == ("L125,H750,L125", 1000)
    assert row["flops"]["nominal_blocks_saved"] == pytest.approx(0.25 * 8 / 12) == pytest.approx(0.167, abs=5e-4)
    assert row["flops"]["nominal_saved"] == pytest.approx(saved) == pytest.approx(0.121, abs=5e-4)
    # 1000·(1 − 0.999^1024) steps reveal something, whoever makes them.
    assert sum(row["nfe"].values()) == pytest.approx(1000 * (1 - 0.999**1024)) == pytest.approx(641, abs=0.5)
    assert document["models"]["L"] == {"width": 768, "blocks": 4, "vocab_size": 50258}


INTERLEAVED = ",".join(["H100,L100"] * 20)


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_flops_table_never_cuts_a_schedule(call, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = call("flops", "--schedule", "L125,H750,L125", "--schedule", INTERLEAVED).out
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown
    segments = re.findall(r"[HL]\d+(?=,|\s)", "\n".join(line[: columns // 2] for line in shown.splitlines()))
    assert segments == ["L125", "H750", "L125", *INTERLEAVED.split(",")]
    assert np.all([f"{share}%" in shown for share in ("16.7", "12.1", "33.3", "24.3")])


def test_flops_headings_say_what_is_saved(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    shown = call("flops").out
    for heading in ("saved: nominal blocks", "saved: nominal with head", "saved: executed", "saved: by schedule alone"):
        assert heading in shown
    assert "160 L" in shown
    assert "481 H" in shown
