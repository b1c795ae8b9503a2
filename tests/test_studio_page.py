"""The studio's page in a real Chromium, over a real server: what people see and can do."""

import json
import re
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from studio_server import Gate, serving, studio_app
from understudy import sample
from understudy.denoisers.model_set import bundled_models
from understudy.prompts import Prompt

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
ARGUMENTS += ["--disable-component-update", "--disable-sync", "--no-first-run"]
PATIENCE = 20_000  # milliseconds; everything waited for comes at once, but on a busy machine

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        found = tool.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def shared_gate():
    return Gate()


@pytest.fixture(scope="module")
def address(shared_gate):
    with serving(studio_app(shared_gate)) as found:
        yield found


@pytest.fixture
def gate(shared_gate):
    yield shared_gate
    shared_gate.open()


@pytest.fixture
def visit(browser, address):
    """Gives pages, each of a user of their own; none may have said anything on its console."""
    contexts, said = [], []

    def go(url=address, *, is_ready=True, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url)
        if is_ready:
            ready(page)
        return page

    go.said = said
    yield go
    for context in contexts:
        context.close()
    assert said == []


def ready(page):
    page.locator("body[data-state=ready][data-draft=read]").wait_for()


def fill(page, *, text="The history of the city", schedule="L25%,H75%", steps=8, new_tokens=12, seed=3, samples=1):
    fields = {"text": text, "schedule": schedule, "steps": steps, "new-tokens": new_tokens, "seed": seed}
    for name, value in {**fields, "num-samples": samples}.items():
        page.fill(f"#{name}", str(value))


def run(page, state="done", **fields):
    fill(page, **fields)
    with page.expect_response(lambda answer: answer.url.endswith("/runs") and answer.status == 201) as started:
        page.click("#run")
    found = started.value.json()["id"]
    page.locator(f".run[data-run='{found}'][data-state={state}]").wait_for()


def library(schedule="L25%,H75%", text="The history of the city", steps=8, new_tokens=12, seed=3, samples=1):
    models = bundled_models()
    template = Prompt(prefix=text).template(models, new_tokens=new_tokens)
    result = sample(models.denoisers, schedule, template=template, steps=steps, seed=seed, num_samples=samples)
    return result, [models.decode(row) for row in result.tokens.tolist()]


def texts(page, side=0):
    return page.locator(".run").nth(side).locator("[data-sample]").all_text_contents()


def revealed(page):
    return page.locator(".run [data-key]:not(.lane-names *):not(path)")


def open_tab(page, name):
    page.click(f"#tab-{name}")
    page.locator(f"#panel-{name}[data-state=ready]").wait_for()


def value(page, title, side=0):
    return (
        page.locator(".run").nth(side).locator(f".figures > div:has(dt:text-is('{title}')) .value span").text_content()
    )


def shares(page, side=0):
    return page.locator(".run").nth(side).locator(".shares b").all_text_contents()


def test_from_typing_to_the_text_that_the_library_samples(visit):
    page = visit()
    run(page, samples=2)
    result, expected = library(samples=2)
    assert texts(page) == expected
    written = [key for key in result.written_by().ravel().tolist() if key]
    assert [element.get_attribute("data-key") for element in revealed(page).all()] == written
    assert value(page, "Passes") == str(sum(result.nfe.values()))
    flops = result.flops
    saved = (flops.schedule_saved, flops.executed_saved, flops.nominal_blocks_saved, flops.nominal_saved)
    assert shares(page) == [f"{100 * share:.1f}\u202f%" for share in saved]
    assert "estimated" in page.locator(".saved-time .detail").text_content()
    assert page.locator("#announcer").text_content().endswith("finished")
    assert page.locator("[role=status], [role=alert], [aria-live]").locator("[data-key]").count() == 0


def test_gaps_are_filled_and_what_is_given_stays_plain(visit):
    page = visit()
    fill(page, text="The [MASK*3] was built in [MASK].")
    page.locator("body[data-draft=read]").wait_for()
    assert page.locator("#new-tokens").is_disabled()
    assert page.locator("#text-message").text_content().endswith("4 to fill in")
    assert page.locator(".canvas .mask").count() == 4
    page.click("#run")
    page.locator(".run[data-state=done]").wait_for()
    assert revealed(page).count() == 4
    assert texts(page)[0].startswith("The")
    assert page.locator(".canvas .mask").count() == 0


def test_an_invalid_schedule_is_said_at_its_field_and_starts_nothing(visit):
    page = visit()
    fill(page, schedule="L2;H6")
    page.click("#run")
    message = page.locator("#schedule-message.error")
    message.wait_for()
    assert "column 3: ';' stands where" in message.text_content()
    assert message.locator(".at").text_content() == ";"
    field = page.locator("#schedule[aria-invalid=true]:focus")
    field.wait_for()
    assert field.get_attribute("aria-describedby") == "schedule-message"
    open_tab(page, "runs")
    assert page.locator("#panel-runs .empty").count() == 1
    page.click("#tab-sample")
    fill(page, schedule="X8")
    page.locator("#schedule-message:text('names X')").wait_for()
    fill(page, schedule="L2,H6", steps=0)
    page.click("#run")
    page.locator("#steps:focus").wait_for()
    assert page.locator("#numbers-message").text_content() == "Steps: a whole number from 1 to 4096"
    run(page)


def test_two_users_at_once_neither_see_nor_disturb_each_other(visit, gate):
    one, other = visit(), visit()
    gate.let(2)
    run(one, "running", seed=1)
    run(other, "waiting", seed=2, schedule="H8", text="")  # the engine stands before the gate
    gate.let(5)
    for page in (one, other):
        page.locator(".canvas .mask").first.wait_for()
        revealed(page).first.wait_for()
    gate.open()
    for page in (one, other):
        page.locator(".run[data-state=done]").wait_for()
    assert texts(one) == library(seed=1)[1]
    models = bundled_models()
    free = sample(models.denoisers, "H8", length=12, seed=2)
    assert texts(other) == [models.decode(free.tokens[0].tolist())]
    for page in (one, other):
        open_tab(page, "runs")
        assert page.locator("#panel-runs [data-run]").count() == 1


def test_a_reload_during_a_run_finds_it_again(visit, gate):
    page = visit()
    gate.let(4)
    run(page, "running")
    page.locator(".value span:text-is('4')").wait_for()
    before = revealed(page).count()
    assert 0 < before < 12
    page.reload()
    page.locator(".value span:text-is('4')").wait_for()
    assert revealed(page).count() == before
    assert page.input_value("#text") == "The history of the city"
    gate.open()
    page.locator(".run[data-state=done]").wait_for()
    assert texts(page) == library()[1]
    page.reload()
    page.locator(".run[data-state=done]").wait_for()
    assert texts(page) == library()[1]


def test_side_by_side_marks_what_differs(visit):
    page = visit()
    page.check("#compare")
    page.fill("#schedule-b", "H100%")
    run(page, schedule="H6,L2")
    page.locator(".run[data-state=done]").nth(1).wait_for()
    (mixed, first), (alone, second) = library("H6,L2"), library("H100%")
    assert (texts(page, 0), texts(page, 1)) == (first, second)
    differing = int((mixed.tokens != alone.tokens).sum())
    assert 0 < differing < 12
    assert page.locator("#difference").text_content() == f"{differing} of 12 tokens differ"
    for side in (0, 1):
        assert page.locator(".run").nth(side).locator("p .differs").count() == differing
    assert "measured" in page.locator(".run").nth(0).locator(".saved-time .detail").text_content()
    page.reload()
    page.locator(".run[data-state=done]").nth(1).wait_for()
    assert (texts(page, 0), texts(page, 1)) == (first, second)


def test_a_point_of_the_frontier_is_used(visit):
    page = visit()
    fill(page, steps=16)
    open_tab(page, "frontier")
    point = page.locator(".point.named[data-schedule='H12,L4']")
    assert point.count() == 1
    point.locator(".shape").click(force=True)
    page.locator("body[data-tab=sample][data-draft=read]").wait_for()
    assert (page.input_value("#schedule"), page.input_value("#steps")) == ("H75%,L25%", "16")
    page.fill("#steps", "32")  # which a schedule in counts would not stand
    page.locator("body[data-draft=read]").wait_for()
    assert page.locator("#schedule[aria-invalid=false]").count() == 1
    page.fill("#steps", "16")
    open_tab(page, "frontier")
    page.locator(".point[tabindex='0']").focus()
    page.keyboard.press("Home")
    assert page.locator(".point:focus").get_attribute("data-schedule") == "H16"
    page.keyboard.press("ArrowRight")
    chosen = page.locator(".point:focus").get_attribute("data-schedule")
    assert chosen == "L1,H15"
    page.keyboard.press("Enter")
    page.locator("body[data-tab=sample]").wait_for()
    assert page.input_value("#schedule") == "L6.25%,H93.75%"
    page.click("#run")
    page.locator(".run[data-state=done]").wait_for()


def test_what_lies_on_one_place_of_the_frontier_is_seen_and_named_together(visit):
    for width in (1280, 390):
        page = visit(viewport={"width": width, "height": 844})
        fill(page, steps=64)
        open_tab(page, "frontier")
        outer, inner = (
            page.locator(f".point{kind} .shape").first.bounding_box()
            for kind in (".plan", ".named[data-schedule='L16,H48']")
        )
        assert inner["width"] * 2**0.5 < outer["width"], "a square does not cover the ring around it"
        names = page.locator(".chart .name")
        assert sorted(names.all_text_contents())[2:4] == ["light middle", "planned = light first"]
        boxes = [name.bounding_box() for name in names.all()]
        chart = page.locator(".frontier .chart").bounding_box()
        for number, box in enumerate(boxes):
            assert chart["x"] <= box["x"] <= box["x"] + box["width"] <= chart["x"] + chart["width"] + 2
            for other in boxes[:number]:
                assert apart(box, other) > -5, "names do not lie on one another; 2 pixels around each are its halo"
        near = next(box for name, box in zip(names.all(), boxes, strict=True) if "=" in name.text_content())
        assert apart(near, outer) < 40


def apart(one, other):
    """Pixels between two boxes, below 0 where they overlap."""
    gaps = [
        max(one[side], other[side]) - min(one[side] + one[size], other[side] + other[size])
        for side, size in (("x", "width"), ("y", "height"))
    ]
    return max(gaps)


def test_a_finger_looks_before_it_takes_and_sees_what_it_started(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, reduced_motion="reduce")
    fill(page, steps=16, new_tokens=96)
    open_tab(page, "frontier")
    assert "Tap a point" in page.locator(".frontier .note").first.text_content()
    page.locator(".point.named[data-schedule='H12,L4'] .target").dispatch_event("click")
    assert page.locator(".selected code").text_content() == "H12,L4"
    page.locator(".selected .primary").tap()
    page.locator("body[data-tab=sample][data-draft=read]").wait_for()
    assert page.input_value("#schedule") == "H75%,L25%"
    open_tab(page, "importance")
    assert page.locator(".readout").first.text_content().startswith("Touch the curve")
    page.click("#tab-sample")
    for motion in ("reduce", "no-preference"):
        page.emulate_media(reduced_motion=motion)
        page.evaluate("() => window.scrollTo({top: 0, behavior: 'instant'})")
        page.locator("#run").tap()
        page.wait_for_function("() => Math.abs(document.querySelector('#stage').getBoundingClientRect().top) < 60")
        page.locator(".run[data-state=done]").wait_for()


def test_a_schedule_in_counts_brings_its_steps(visit):
    page = visit()
    fill(page, steps=48, schedule="L25%,H75%")
    page.fill("#schedule", "L4,H12")
    assert page.input_value("#steps") == "16"
    page.click("#run")
    page.locator(".run[data-state=done] h2:has-text('L4,H12')").wait_for()
    page.fill("#schedule", "L12")
    assert page.input_value("#steps") == "12"
    page.fill("#schedule", "L12.5%,H87.5%")
    assert page.input_value("#steps") == "48"
    page.fill("#steps", "40")
    page.fill("#schedule", "H7")
    page.select_option("#preset", label="Sandwich")
    assert page.input_value("#steps") == "40"


def test_the_path_kl_says_what_it_is_of(visit):
    page = visit()
    fill(page, text="", schedule="L25%,H75%", steps=64, new_tokens=40)
    line = page.locator("#schedule-message")
    page.locator("#schedule-message:has-text('not these 40')").wait_for()
    of = re.search(r"path KL [\d.]+ nats for (\d+) free tokens without a prefix, not these 40$", line.text_content())[1]
    page.fill("#new-tokens", of)
    page.locator(f"#schedule-message:text-matches('{of} free tokens without a prefix$')").wait_for()
    page.fill("#text", "word " * 400)
    page.locator("#text-message.error").wait_for()
    assert "path KL" not in line.text_content()


def test_what_is_saved_so_far_is_marked_until_it_is_all(visit, gate):
    page = visit()
    page.check("#compare")
    page.fill("#schedule-b", "H100%")
    gate.let(4)
    run(page, "running", schedule="L25%,H75%")
    page.locator("#difference:has-text('so far')").wait_for()
    marks = page.locator(".run").first.locator(".so-far")
    assert all(mark.is_visible() for mark in marks.all())
    assert page.locator(".run .shares > div:has-text('so far')").count() == 4  # two of each; what is nominal is known
    gate.open()
    page.locator(".run[data-state=done]").nth(1).wait_for()
    page.locator("#difference:text-matches('differ$')").wait_for()
    assert not any(mark.is_visible() for mark in marks.all())


def test_a_seed_that_is_too_large_is_told_the_largest(visit):
    page = visit()
    page.fill("#seed", str(2**53))
    assert page.locator("#numbers-message").text_content() == "Seed: a whole number from 0 to 9007199254740991"


def test_everything_by_keyboard(visit, gate):
    page = visit()
    page.keyboard.press("Tab")
    assert page.locator(".skip:focus").count() == 1
    page.keyboard.press("Tab")
    for name in ("importance", "frontier", "runs", "sample"):
        page.keyboard.press("ArrowRight")
        assert page.locator(f"#tab-{name}:focus[aria-selected=true]").count() == 1
        assert page.locator("[role=tabpanel]:not([hidden])").get_attribute("id") == f"panel-{name}"
    page.keyboard.press("End")
    assert page.locator("#tab-runs:focus").count() == 1
    page.keyboard.press("Home")
    reached = []
    while "canvas" not in reached:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("() => document.activeElement.id || document.activeElement.className"))
    wanted = [
        "insert-gap",
        "text",
        "preset",
        "schedule",
        "compare",
        "steps",
        "new-tokens",
        "num-samples",
        "temperature",
    ]
    assert [name for name in reached if name in wanted] == wanted
    assert {"seed", "dice", "run", "canvas"} <= set(reached)
    outline = "() => getComputedStyle(document.activeElement).outlineStyle"
    page.locator("#schedule").focus()
    assert page.evaluate(outline) == "solid"
    gate.let(3)
    page.keyboard.press("Control+a")
    page.keyboard.type("H100%")
    page.keyboard.press("Control+Enter")
    page.locator(".run[data-state=running]").wait_for()
    page.keyboard.press("Escape")
    gate.open()
    page.locator(".run[data-state=cancelled]").wait_for()
    page.keyboard.press("Control+Enter")
    page.locator(".run[data-state=done]").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (768, "light"), (1920, "dark")])
def test_it_fits(visit, width, scheme):
    page = visit(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.check("#compare")
    fill(page, schedule=",".join(["L1,H1"] * 30), steps=60, text="word " * 30, samples=2)
    for name in ("sample", "importance", "frontier", "runs"):
        if name == "sample":
            page.click("#run")
            page.locator(".run[data-state=done]").nth(1).wait_for()
        else:
            open_tab(page, name)
        assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")


def test_nothing_moves_while_a_text_fills(visit, gate):
    page = visit(viewport={"width": 390, "height": 800})
    fill(page, new_tokens=60, steps=16, schedule="H16")
    page.locator("body[data-draft=read]").wait_for()
    measure = """() => [".canvas", ".figures", ".figures > .wide"].map((name) => {
        const { top, height } = document.querySelector(name).getBoundingClientRect();
        return [top - document.querySelector("#views").getBoundingClientRect().top, height];
    })"""
    places = []
    gate.let(3)
    page.click("#run")
    page.locator(".value span:text-is('3')").wait_for()
    places.append(page.evaluate(measure))
    gate.let(5)
    page.locator(".value span:text-is('8')").wait_for()
    places.append(page.evaluate(measure))
    gate.open()
    page.locator(".run[data-state=done]").wait_for()
    places.append(page.evaluate(measure))
    assert places[0] == places[1] == places[2]


def test_motion_is_spared_those_who_ask(visit):
    for motion, name in (("reduce", "none"), ("no-preference", "reveal")):
        page = visit(reduced_motion=motion)
        run(page)
        style = "element => getComputedStyle(element).animationName"
        assert page.locator(".fresh").first.evaluate(style) == name


def test_what_looks_like_html_is_text(visit):
    page = visit()
    hostile = '<img src="x" onerror="document.title=1"><b>bold</b>'
    run(page, text=hostile)
    assert texts(page)[0].startswith(hostile)
    assert page.locator(".canvas img, .canvas b").count() == 0
    open_tab(page, "runs")
    assert page.locator("#panel-runs h3").text_content() == hostile
    assert page.title() == "Understudy studio"
    assert page.context.cookies() == []


def test_past_runs_are_opened_kept_and_run_again(visit, tmp_path):
    page = visit()
    run(page, seed=8)
    run(page, seed=9, schedule="H8")
    open_tab(page, "runs")
    rows = page.locator("#panel-runs [data-run]")
    assert rows.count() == 2
    with page.expect_download() as waiting:
        rows.nth(1).get_by_text("JSON").click()
    waiting.value.save_as(tmp_path / "run.json")
    kept = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert ([entry["text"] for entry in kept["samples"]], kept["seed"]) == (library(seed=8)[1], 8)
    rows.nth(1).get_by_text("Open").click()
    page.locator(".run[data-state=done] h2:has-text('L2,H6')").wait_for()
    assert (texts(page), page.input_value("#seed")) == (library(seed=8)[1], "8")
    open_tab(page, "runs")
    rows.nth(0).get_by_text("Run again").click()
    page.locator(".run[data-state=done] h2:has-text('H8')").wait_for()
    open_tab(page, "runs")
    assert rows.count() == 3


def test_both_halves_of_a_comparison_stay_together(visit):
    page = visit()
    run(page, seed=7)
    page.check("#compare")
    page.fill("#schedule-b", "H100%")
    page.click("#run")
    page.locator(".run[data-state=done]").nth(1).wait_for()
    open_tab(page, "runs")
    pair = page.locator("#panel-runs .pair")
    assert (pair.count(), page.locator("#panel-runs [data-run]").count()) == (1, 3)
    assert pair.locator(".plan code").all_text_contents() == ["L2,H6", "H8"]
    assert str(datetime.now(UTC).year) in pair.locator("li .note").first.text_content()
    pair.get_by_text("Open both").click()
    page.locator(".run[data-state=done]").nth(1).wait_for()
    assert (page.is_checked("#compare"), page.input_value("#schedule-b")) == (True, "H100%")


def test_importance_can_be_read_point_by_point(visit):
    page = visit()
    open_tab(page, "importance")
    curve = page.get_by_role("slider", name="KL per masked token")
    curve.focus()
    page.keyboard.press("End")
    assert curve.get_attribute("aria-valuetext").startswith("t = 0.031: L 0.61")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".readout").first.text_content().startswith("t = 0.094: L 0.57")
    page.locator("summary").first.click()
    assert page.locator("details[open] tbody tr").count() == 16
    assert page.locator(".chart .band").count() == 2


@contextmanager
def allowing(visit, part):
    """Let the browser itself speak on the console of what a test provokes."""
    yield
    visit.said[:] = [message for message in visit.said if part not in message]


def test_a_server_that_is_gone_is_said_and_found_again(visit, gate):
    own = Gate()
    with allowing(visit, "Failed to load resource"):
        with serving(studio_app(own)) as place:
            page = visit(place)
            own.let(3)
            run(page, "running")
            page.locator(".value span:text-is('3')").wait_for()
            before = revealed(page).count()
            own.let(0)
            page.context.set_offline(True)
            page.fill("#text", "Another text")
            page.locator("#connection:not([hidden])").wait_for()
            assert "does not answer" in page.locator("#connection").text_content()
            for name in ("text", "schedule"):
                assert "the server does not answer" in page.locator(f"#{name}-message").text_content()
            assert "A run is under way" in page.locator("#run-message").text_content()
            page.context.set_offline(False)
            page.locator("#connection[hidden]").wait_for(state="attached")
            page.locator("#text-message:text-matches('^[0-9]+ tokens given')").wait_for()
            assert page.locator("#run-message").text_content() == ""
            own.open()
            page.locator(".run[data-state=done]").wait_for()
            assert revealed(page).count() == 12 > before
            port = int(place.rpartition(":")[2])
            last = page.locator(".run").get_attribute("data-run")
        fill(page, seed=12)
        page.click("#run")
        page.locator("#run-message:has-text('this run starts once it does')").wait_for()
        with serving(studio_app(own), port):
            page.locator("#connection[hidden]").wait_for(state="attached")
            page.locator(f".run[data-state=done]:not([data-run='{last}'])").wait_for()
            assert texts(page) == library(seed=12)[1]
            run(page, seed=13)
            assert texts(page) == library(seed=13)[1]
            page.reload()
            ready(page)


def test_a_run_that_the_server_forgot_is_said_to_be_lost(visit, gate):
    with allowing(visit, "404"):
        page = visit()
        gate.let(3)
        run(page, "running")
        page.locator(".value span:text-is('3')").wait_for()
        answer = {"status": 404, "json": {"error": {"message": "the server knows no such run of yours"}}}
        page.route("**/events", lambda route: route.fulfill(**answer))
        page.reload()
        page.locator(".run[data-state=lost]").wait_for()
        assert "no longer knows this run" in page.locator(".run .state").text_content()
        page.unroute("**/events")
        gate.open()
        run(page, seed=4)
        assert texts(page) == library(seed=4)[1]


def test_a_key_is_asked_for_and_kept_for_the_tab(visit):
    with allowing(visit, "401"), serving(studio_app(Gate(), keys=["open sesame".replace(" ", "-")])) as place:
        page = visit(place, is_ready=False)
        page.locator("#key-dialog[open]").wait_for()
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.locator("#key-message:text('does not take')").wait_for()
        page.fill("#key", "open-sesame")
        page.keyboard.press("Enter")
        ready(page)
        run(page)
        assert texts(page) == library()[1]
        page.reload()
        page.locator(".run[data-state=done]").wait_for()
        assert page.evaluate("() => JSON.stringify(localStorage)").count("sesame") == 0
        page.close()
