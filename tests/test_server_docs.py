"""The page about the service: its examples were run, and it leaves out no option, field, metric or path."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from serving import SECONDS, live, model_set
from understudy import cli
from understudy.denoisers.model_set import bundled_models
from understudy.server.app import create_app
from understudy.server.wire import DenoiseBody

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def address():
    with live(create_app(bundled_models())) as address:
        yield address


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_what_curl_is_told_to_ask_is_answered(address):
    commands = [command for block in blocks("bash") for command in block.strip().split("\n\n")]
    assert len(commands) == 5
    for command in commands:
        words = command.replace(ADDRESS, address).replace("curl ", "curl --fail-with-body ")
        outcome = subprocess.run(words, shell=True, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert outcome.returncode == 0, outcome.stdout
        if "-sN" in command:
            assert "data: [DONE]" in outcome.stdout or "event: done" in outcome.stdout
        else:
            json.loads(outcome.stdout)


def test_the_example_of_the_openai_client_runs(address, capsys):
    (example,) = blocks("py")
    exec(compile(example.replace(ADDRESS, address), "serving.md", "exec"), {})
    assert "{'L':" in capsys.readouterr().out


def test_the_page_names_every_option():
    command = typer.main.get_command(cli.app).commands["serve"]
    options = {option for parameter in command.params for option in parameter.opts} - {"--help"}
    assert options == set(re.findall(r"`(--[\w-]+)", section("Options")))
    for default in ("max_sequences", "queue", "batch_size", "timeout", "grace"):
        (parameter,) = (parameter for parameter in command.params if parameter.name == default)
        assert re.search(rf"`{parameter.opts[0]}` \| {parameter.default:g} \|", section("Options")), default


def test_the_page_names_every_field_of_the_body_and_no_other():
    rows = [line.split("|")[1] for line in section("The body").splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(DenoiseBody.model_fields)


def test_the_page_names_every_path_status_and_metric():
    app = create_app(model_set())
    described = app.openapi()["paths"]
    for path in described:
        assert path in section("Endpoints"), path
    statuses = {
        status for methods in described.values() for answers in methods.values() for status in answers["responses"]
    }
    assert statuses - {"200"} == set(re.findall(r"^\| (\d+) \|", section("Errors"), flags=re.MULTILINE))
    text = app.state.metrics.text().decode()
    kinds = dict(re.findall(r"# TYPE (understudy_\w+) (\w+)", text))
    metrics = {name for name in kinds if not name.endswith("_created")}
    assert metrics == set(re.findall(r"`(understudy_\w+)", section("Metrics")))


def results(name):
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def test_what_the_page_says_was_measured_is_what_its_sources_hold():
    text = " ".join(section("Measured").split())
    h100, cpu = results("serving-h100.json"), results("serving-cpu.json")
    for entry in h100["summary"]:
        one, many = entry["one at a time"], entry["continuous"]
        cells = [str(entry["clients"])]
        for mode in (one, many):
            cells += ["{requests_per_second:.1f}".format(**mode)]
            cells += ["{latency_seconds_p50:.2f} / {latency_seconds_p99:.2f}".format(**mode)]
        cells += [f"{many['sequences_in_a_pass']:.1f}", f"{entry['times_the_throughput']:.1f}"]
        assert f"| {' | '.join(cells)} |" in text
    assert h100["environment"]["cuda_device"].startswith("NVIDIA H100")
    assert {load["requests"] for load in h100["loads"]} == {12, 96}
    assert h100["same_text_in_both"] == {"requests": 96, "equal": 96}
    long_run = h100["long_run"]
    assert f"{long_run['answered']:,} answers, {long_run['vanished']:,} clients that vanished, and no answer" in text
    shares = [entry["times_the_throughput"] for entry in cpu["summary"]]
    assert f"{min(shares):.1f} to {max(shares):.1f} times the throughput" in text
    slow = cpu["long_run"]
    assert f"Over {slow['seconds']:.0f} s with {slow['clients']} clients there were {slow['answered']} answers" in text
    assert f"{slow['vanished']} clients that vanished, no answer that differed, and nothing left" in text
    assert f"for {long_run['seconds']:.0f} s, a third of them" in text
    for run in (long_run, slow):
        memory = [run[f"resident_mib_{quarter}_quarter"] for quarter in ("second", "last")]
        assert "held {} MiB in the second quarter of that time and {} MiB in the last".format(*memory) in text
        assert run["not the same as before"] == run["left_in_the_engine"] == run["runs"]["failed"] == 0


def test_what_the_page_says_of_locust_is_what_its_source_holds():
    text, found = " ".join(section("Measured").split()), results("serving-locust-cpu.json")
    assert found["tool"].startswith("locust ")
    assert "{users} users for 2 × {seconds} s in each mode, on {remark}".format(**found["settings"]) in text
    for mode, entry in found["modes"].items():
        answers, runs = entry["whole"] + entry["streamed"], entry["runs"]
        assert entry["failures"] == runs["failed"] == 0
        assert answers + entry["vanished"] == runs["done"] + runs["cancelled"]
        cells = [mode, answers, entry["vanished"], runs["cancelled"], f"{entry['requests_per_second']:.2f}"]
        cells += [" / ".join(f"{seconds:.2f}" for seconds in entry["latency_seconds"].values())]
        cells += [" / ".join(f"{mib:.1f}" for mib in entry["resident_mib"].values())]
        assert f"| {' | '.join(map(str, cells))} |" in text
