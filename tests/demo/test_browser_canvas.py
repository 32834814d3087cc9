"""The canvas in a real Chromium: pictures, pointing, zoom, keys, touch, small and dark pages."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from demo.models import Chooser
from demo.session import Session
from qformer.view import View

pytestmark = [
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),
]


@pytest.fixture
def visitor(visit, tiny_assistant, noise):
    made = visit(lambda: tiny_assistant)
    made.choose()
    yield made
    assert made.complaints == []


def region(visitor, number):
    """What the page knows of a region."""
    return visitor.page.evaluate(
        "n => document.querySelector(`.lc-chip[data-region='${n}']`).className", number
    )


def test_click_box_refine_choose_and_delete(visitor):
    visitor.click(10.5 / 60, 10.5 / 40)
    visitor.drag(0.1, 0.1, 0.5, 0.8)
    visitor.click(0.2, 0.2, button="right")
    assert visitor.chips() == ["region 1", "region 2"]
    assert visitor.page.locator(".lc-name[aria-pressed=true]").count() == 2
    visitor.page.click(".lc-name >> nth=0")
    visitor.settle()
    assert "asked" not in region(visitor, 1).split()
    visitor.page.click("[aria-label='Delete region 1']")
    visitor.settle()
    visitor.click(0.9, 0.9)
    assert visitor.chips() == ["region 2", "region 3"]
    visitor.act("clear")
    assert visitor.chips() == []


def test_undo_and_redo_by_button_and_key(visitor):
    visitor.click(0.2, 0.2)
    visitor.click(0.8, 0.8)
    visitor.act("undo")
    assert visitor.chips() == ["region 1"]
    visitor.keys("Control+z", operations=1)
    assert visitor.chips() == []
    assert visitor.page.is_disabled("[data-act=undo]")
    visitor.act("redo")
    visitor.keys("Control+y", operations=1)
    assert visitor.chips() == ["region 1", "region 2"]


def test_the_readings_of_a_click_are_gone_through(visitor):
    visitor.click(0.5, 0.5)
    assert "1 of 3" in visitor.note()
    visitor.page.click(".lc-cycle")
    visitor.settle()
    assert "2 of 3" in visitor.note()
    visitor.page.focus(".lc canvas")
    visitor.keys("c", operations=1)
    assert "3 of 3" in visitor.note()


def test_the_brush_paints_adds_and_erases(visitor):
    visitor.tool("brush")
    visitor.drag(0.2, 0.3, 0.5, 0.3)
    first = visitor.note()
    visitor.page.click("[data-sign=add]")
    visitor.drag(0.2, 0.6, 0.5, 0.6)
    more = visitor.note()
    visitor.page.click("[data-sign=exclude]")
    visitor.drag(0.2, 0.6, 0.5, 0.6)
    less = visitor.note()
    share = [float(note.split(": ")[1].split(" %")[0]) for note in (first, more, less)]
    assert share[0] < share[1] > share[2]
    assert visitor.chips() == ["region 1"]


def test_everything_is_shown_hovered_and_picked(visitor, monkeypatch):
    def everything(view, settings=None, progress=None, cancel=None):
        import torch

        from qformer.proposals import Proposal

        areas = torch.zeros(2, 40, 60, dtype=torch.bool)
        areas[0, 5:15, 5:25] = True
        areas[1, 20:35, 30:55] = True
        progress(1, 1)
        return [Proposal.of(area, 0.9) for area in areas]

    monkeypatch.setattr(View, "everything", everything)
    visitor.tool("everything")
    visitor.settle()  # the canvas asks for what was found
    assert "2 things found" in visitor.note()
    visitor.click(0.7, 0.7)
    assert visitor.chips() == ["region 1"]
    assert visitor.note().startswith("Region 1: 16 %")
    visitor.page.mouse.click(*visitor.at(0.99, 0.01))  # nothing there: nothing is sent
    visitor.click(0.2, 0.2)
    assert visitor.chips() == ["region 1", "region 2"]


def test_a_click_lands_where_it_looks_when_zoomed(visitor, tiny_assistant, monkeypatch):
    clicks = []
    segment = View.segment

    def spy(view, points=(), box=None, logits=None):
        clicks.append(points)
        return segment(view, points, box, logits)

    monkeypatch.setattr(View, "segment", spy)
    visitor.page.mouse.move(*visitor.at(0.25, 0.25))
    for _ in range(4):
        visitor.page.mouse.wheel(0, -300)
    visitor.page.wait_for_function(
        "() => parseInt(document.querySelector('.lc-zoom output').textContent) > 200"
    )
    visitor.click(0.25, 0.25)
    ((x, y, _),) = clicks[0]
    assert (x, y) == pytest.approx((15, 10), abs=0.3)
    visitor.page.click("[data-act=fit]")
    visitor.click(0.5, 0.5)
    ((x, y, _),) = clicks[1]
    assert (x, y) == pytest.approx((30, 20), abs=0.3)


def test_six_fast_clicks_are_all_taken(visitor):
    for place in range(6):
        visitor.page.mouse.click(*visitor.at(0.1 + 0.15 * place, 0.5))
    visitor.settle(6)
    assert len(visitor.chips()) == 6


def test_a_name_is_text_and_comes_by_key_or_double_click(visitor):
    visitor.click(0.5, 0.5)
    visitor.page.dblclick(".lc-name")
    visitor.page.keyboard.type("<img src=x onerror=document.title='gone'>")
    visitor.keys("Enter", operations=3)  # asked about or not, and back
    assert "asked" in region(visitor, 1).split()
    assert visitor.chips() == ["<img src=x onerror=document.title='gone'>"]
    visitor.page.focus(".lc-name")
    visitor.keys("F2", "Control+a")
    visitor.page.keyboard.type("mug")
    visitor.keys("Enter", operations=1)
    assert visitor.chips() == ["mug"]
    assert visitor.page.title() == "Loupe"


def test_the_keyboard_alone_is_enough(visitor):
    visitor.page.focus(".lc canvas")
    visitor.keys("ArrowRight", "ArrowDown", "Enter", operations=1)
    visitor.keys("b", "Shift+ArrowLeft", "Enter", "Shift+ArrowRight", "Shift+ArrowDown", "Enter",
                 operations=1)  # fmt: skip
    assert visitor.chips() == ["region 1", "region 2"]
    visitor.keys("1", operations=1)
    assert "asked" not in region(visitor, 1).split()
    visitor.keys("Delete", operations=1)
    assert visitor.chips() == ["region 1"]
    visitor.keys("?")
    visitor.page.wait_for_selector("dialog[open]")
    visitor.keys("Escape", "/")
    visitor.page.keyboard.type("what is this?")
    visitor.keys("Enter")
    visitor.page.wait_for_selector(".lt-entry.answer")
    assert visitor.answered()


def test_touch_taps_and_pinches(visit, tiny_assistant, noise):
    visitor = visit(lambda: tiny_assistant, width=390, height=844, has_touch=True)
    visitor.choose()
    visitor.page.touchscreen.tap(*visitor.at(0.5, 0.5))
    visitor.settle()
    assert visitor.chips() == ["region 1"]
    visitor.page.evaluate(
        """() => {
          const canvas = document.querySelector('.lc canvas');
          const box = canvas.getBoundingClientRect();
          const finger = (type, id, dx) => canvas.dispatchEvent(new PointerEvent(type, {
            pointerId: id, pointerType: 'touch', bubbles: true, button: 0,
            clientX: box.x + box.width / 2 + dx, clientY: box.y + box.height / 2 }));
          canvas.setPointerCapture = () => {};
          finger('pointerdown', 11, -30); finger('pointerdown', 12, 30);
          finger('pointermove', 11, -90); finger('pointermove', 12, 90);
          finger('pointerup', 11, -90); finger('pointerup', 12, 90);
        }"""
    )
    visitor.page.wait_for_selector("canvas[data-zoomed=true]")
    assert visitor.chips() == ["region 1"]
    assert visitor.complaints == []


def test_an_uploaded_picture_shows_upright_and_a_bad_file_is_said(visitor, noise, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(noise).save(tmp_path / "turned.jpg", exif=exif)
    visitor.page.set_input_files(".lc input[type=file]", tmp_path / "turned.jpg")
    visitor.settle()
    rect = visitor.page.get_attribute(".lc canvas", "data-rect").split(",")
    assert float(rect[2]) / float(rect[3]) == pytest.approx(40 / 60, abs=0.02)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    visitor.page.set_input_files(".lc input[type=file]", tmp_path / "bad.png")
    visitor.settle()
    assert "not a picture" in visitor.page.locator(".lc-note.error").inner_text()
    visitor.click(0.5, 0.5)
    assert visitor.chips() == ["region 1"]


def test_pictures_stand_side_by_side(visitor):
    visitor.click(0.5, 0.5)
    visitor.choose()
    assert visitor.chips() == []
    visitor.page.click("[data-picture='1']")
    visitor.settle()
    assert visitor.chips() == ["region 1"]
    visitor.page.click(".lc-shut >> nth=0")
    visitor.settle()
    assert visitor.page.locator("[data-picture]").count() == 1
    assert visitor.chips() == []


def test_a_session_is_saved_and_loaded_again(visitor, tmp_path):
    visitor.click(0.5, 0.5)
    answer = visitor.ask("what is this?")
    for form in ("json", "html", "png"):
        visitor.page.click(".l-menu summary")
        with visitor.page.expect_download() as download:
            visitor.page.click(f"[data-form={form}]")
        download.value.save_as(tmp_path / f"saved.{form}")
        visitor.settle()
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert saved["pictures"][0]["transcript"][1]["text"].split() == answer.split()
    assert Image.open(tmp_path / "saved.png").size == (60, 40)
    visitor.page.set_input_files(".lh input[type=file]", tmp_path / "saved.json")
    visitor.settle()
    assert visitor.page.locator("[data-picture]").count() == 2
    assert visitor.chips() == ["region 1"]
    assert visitor.answers()[0].split() == answer.split()


def test_a_reloaded_page_goes_on_where_it_was(visitor):
    visitor.click(0.5, 0.5)
    said = visitor.ask("what is this?")
    visitor.page.reload()
    visitor.page.wait_for_selector(".lc[data-state=ready]")
    assert visitor.chips() == ["region 1"]
    assert visitor.answers() == [said]
    visitor.operations = 0
    visitor.click(0.2, 0.2)
    assert visitor.chips() == ["region 1", "region 2"]


def test_a_session_of_large_pictures_is_saved_and_loaded_again(visitor, tmp_path):
    generator = np.random.default_rng(0)
    for name in ("one.png", "two.png"):  # 12 MB each
        noise = generator.integers(0, 256, (2000, 2000, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name, compress_level=0)
        visitor.page.set_input_files(".lc input[type=file]", tmp_path / name)
        visitor.settle()
    visitor.click(0.5, 0.5)
    visitor.page.click(".l-menu summary")
    with visitor.page.expect_download() as download:
        visitor.page.click("[data-form=json]")
    download.value.save_as(tmp_path / "saved.json")
    visitor.settle()
    assert (tmp_path / "saved.json").stat().st_size > 30 * 2**20
    visitor.page.set_input_files(".lh input[type=file]", tmp_path / "saved.json")
    visitor.settle()
    assert visitor.note() == ""
    assert visitor.page.locator("[data-picture]").count() == 6
    assert visitor.chips() == ["region 1"]
    with (tmp_path / "large.json").open("wb") as file:
        file.truncate(65 * 2**20)
    visitor.page.set_input_files(".lh input[type=file]", tmp_path / "large.json")
    visitor.page.wait_for_selector(".lc-note.error")
    assert "larger than 64 MB" in visitor.note()


def test_a_duplicated_tab_goes_on_apart(visitor):
    visitor.click(0.5, 0.5)
    said = visitor.ask("what is this?")
    with visitor.page.expect_popup() as opened:  # as with a duplicate, what the tab keeps is copied
        visitor.page.evaluate("window.open(location.href)")
    twin = opened.value
    twin.wait_for_selector(".lc[data-state=ready]")
    assert twin.locator(".lc-name span").all_inner_texts() == ["region 1"]
    assert twin.locator(".lt-entry.answer .lt-bubble > p").all_inner_texts() == [said]
    twin.click(".lc [data-act=clear]")
    twin.wait_for_selector(".lc-chips:empty", state="attached")
    visitor.click(0.2, 0.2)
    assert visitor.chips() == ["region 1", "region 2"]
    assert twin.locator(".lc-name span").all_inner_texts() == []
    twin.reload()
    twin.wait_for_selector(".lc[data-state=ready]")
    assert twin.locator(".lc-name span").all_inner_texts() == []
    visitor.page.reload()
    visitor.page.wait_for_selector(".lc[data-state=ready]")
    assert visitor.chips() == ["region 1", "region 2"]


@pytest.mark.parametrize("width", [390, 1280, 3840])
def test_nothing_is_cut_off_at_any_width(visit, tiny_assistant, noise, width):
    visitor = visit(lambda: tiny_assistant, width=width, height=844)
    visitor.choose()
    visitor.click(0.5, 0.5)
    visitor.ask("what is this?")
    wide = visitor.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= width
    for part in (".lt-ask textarea", ".lc canvas", ".lh-theme"):
        box = visitor.page.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    if width == 390:
        for part in ("[data-tool=box]", ".lc-name", ".lt-send"):
            assert visitor.page.locator(part).first.bounding_box()["height"] >= 44
    assert visitor.complaints == []


def test_on_a_phone_the_writing_line_and_the_answer_stay_in_sight(visit, tiny_assistant, noise):
    visitor = visit(lambda: tiny_assistant, width=390, height=844, has_touch=True)
    visitor.choose()
    line, picture = visitor.page.locator(".lt-ask"), visitor.page.locator(".lc canvas")

    def sides(part):
        box = part.bounding_box()
        return box["y"], box["y"] + box["height"]

    assert sides(picture)[0] > 0
    assert sides(line)[1] <= 844
    for _ in range(2):
        visitor.ask("what is this?")
        top, bottom = sides(visitor.page.locator(".lt-entry.answer .lt-bubble").last)
        assert 0 <= top < bottom <= sides(line)[0]
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.tool("point")
    visitor.click(0.5, 0.5)
    assert visitor.page.evaluate("scrollY") == 0  # nothing was asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(visit, tiny_assistant, noise, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe").Axe()
    chooser = Chooser(lambda *_: tiny_assistant)
    window = {"width": width, "height": 844, "color_scheme": scheme}
    visitor = visit(lambda: tiny_assistant, chooser=chooser, **window)

    def dialog(opens, shows):
        visitor.page.keyboard.press("Escape")
        visitor.page.click(opens)
        visitor.page.wait_for_selector(shows)

    states = [lambda: None, visitor.choose, lambda: visitor.click(0.5, 0.5)]
    states += [lambda: visitor.ask("what is region 1?")]
    states += [lambda: visitor.page.click("[data-act=settings]")]
    states += [lambda: visitor.page.click(".l-menu summary")]
    states += [lambda: dialog(".lc [data-act=help]", ".lc dialog[open]")]
    states += [lambda: dialog(".lh-choose", ".lh-model .lh-memory:not(:empty)")]
    for state in states:
        state()
        found = axe.run(visitor.page)
        assert found.violations_count == 0, found.generate_report()


def test_two_visitors_do_not_meet(visit, tiny_assistant, noise):
    one = visit(lambda: tiny_assistant)
    two = visit()
    one.choose()
    one.click(0.5, 0.5)
    one.ask("what is this?")
    assert two.page.get_attribute(".lc", "data-state") == "empty"
    two.choose()
    assert (two.chips(), two.answers()) == ([], [])
    assert one.complaints == two.complaints == []


def test_a_full_queue_is_said_and_the_page_goes_on(visitor):
    visitor.page.route("**/queue/join*", lambda route: route.fulfill(
        status=503, json={"detail": "Queue is full."}))  # fmt: skip
    visitor.page.mouse.click(*visitor.at(0.5, 0.5))
    visitor.page.wait_for_selector(".lc-note.error")
    assert "busy" in visitor.note()
    visitor.page.unroute("**/queue/join*")
    visitor.operations += 1
    visitor.click(0.5, 0.5)
    assert visitor.chips() == ["region 1"]
    visitor.complaints.clear()  # the browser's own line about the 503


def test_a_closed_tab_stops_its_answer(visit, tiny_assistant, noise, monkeypatch):
    stopped, going = threading.Event(), threading.Event()

    def endless(session, question):
        going.set()
        try:
            while True:
                time.sleep(0.02)  # as a model's step does, it leaves the server time to see
                yield ""
        finally:
            stopped.set()

    monkeypatch.setattr(Session, "ask", endless)
    visitor = visit(lambda: tiny_assistant)
    visitor.choose()
    visitor.page.fill(".lt-ask textarea", "what is this?")
    visitor.page.press(".lt-ask textarea", "Enter")
    assert going.wait(60)
    visitor.page.close()
    assert stopped.wait(60)
