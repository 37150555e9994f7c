"""The three pages in Chromium: narrow and wide, light and dark; figures first, nothing on anything else."""

import itertools
import math
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Opened, browser, open_file
from milpasses_tools import digits, dump, sensitivity, sweep
from milpasses_tools._sensitivity.page import page as sensitivity_page

import milpasses as mp

RECIPES = ["int8", "pal8", "pal6", "pal1", "int8-tensor"]
CONTRAST = """(selector) => {
  const luminance = (text, paper) => {
    const canvas = document.createElement('canvas').getContext('2d');
    for (const color of [paper, text]) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255)
      .map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  };
  const probe = document.createElement('div');
  probe.style.color = 'Canvas'; document.body.append(probe);
  const canvas = getComputedStyle(probe).color; probe.remove();
  return [...document.querySelectorAll(selector)].filter((one) => one.textContent.trim()).map((one) => {
    let under = canvas;
    for (let up = one; up; up = up.parentElement) {
      const color = getComputedStyle(up).backgroundColor;
      if (color !== 'rgba(0, 0, 0, 0)') { under = color; break; }
    }
    const style = getComputedStyle(one);
    const color = one.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const ink = luminance(color, canvas), paper = luminance(under, canvas);
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  });
}"""


@pytest.fixture(scope="module")
def pages(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    model, found = digits_packages["iOS18"], digits.load()
    arrays: dict[str, Any] = {digits.INPUT: found.images[:40, None], "labels": found.labels[:40]}
    np.savez(folder / "d.npz", **arrays)
    sweep(model, folder / "out", RECIPES, folder / "d.npz", max_loss=50)
    small = folder / "small.mlpackage"
    mp.compress(model, "pal4", output=small)
    (folder / "dump.html").write_text(dump(small, "html"), encoding="utf-8")
    table = sensitivity(model, candidates=["pal1", "pal4", "int8", "unique"])
    text = sensitivity_page(table, "small.mlpackage", "as a test does")
    (folder / "sensitivity.html").write_text(text, encoding="utf-8")
    return {
        "sweep": folder / "out" / "report.html",
        "dump": folder / "dump.html",
        "sensitivity": folder / "sensitivity.html",
    }


@pytest.fixture(scope="module")
def opened(pages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, Opened]]:
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield {name: open_file(context, path) for name, path in pages.items()}


def resize(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_timeout(100)
    if page.locator("#plot svg").count():  # an observer lays the chart out anew
        page.wait_for_function(
            "() => document.querySelector('#plot svg').viewBox.baseVal.width === "
            "document.querySelector('#plot').clientWidth"
        )


@pytest.mark.parametrize("name", ["sweep", "dump", "sensitivity"])
class TestEveryPage:
    def test_opens_alone_and_without_complaint(self, opened: dict[str, Opened], name: str):
        assert opened[name].complaints == []
        assert len(opened[name].requests) == 1

    @pytest.mark.parametrize("width", [1280, 400])
    def test_nothing_reaches_past_the_window(self, opened: dict[str, Opened], name: str, width: int):
        page = opened[name].page
        resize(page, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for wide in page.locator(".wide").all():
            scrolls = wide.evaluate("(one) => one.scrollWidth > one.clientWidth + 2")
            if name != "dump" and wide.is_visible():
                assert wide.evaluate("(one) => one.classList.contains('more')") == scrolls
        resize(page, 1280)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out(self, opened: dict[str, Opened], name: str, scheme: str):
        page = opened[name].page
        page.emulate_media(color_scheme=scheme)
        ratios = page.evaluate(CONTRAST, "h1, p, .note, th, td, #legend span, #headline b, svg text")
        page.emulate_media(color_scheme="light")
        assert len(ratios) > 10
        assert min(ratios) >= 4.5


class TestSweep:
    def test_headline_figures_come_first(self, opened: dict[str, Opened]):
        page = opened["sweep"].page
        chosen = page.locator("#variants tr.chosen td:nth-child(2)").inner_text()
        figures = page.locator("#headline b").all_inner_texts()
        assert figures[0] == chosen
        assert figures[1].endswith("\u00d7")
        tops = [page.locator(one).bounding_box()["y"] for one in ("#headline", "#verdict", "#about", "#plot")]
        assert tops == sorted(tops)

    @pytest.mark.parametrize("width", [1280, 400])
    def test_the_chart_is_laid_out_for_its_width(self, opened: dict[str, Opened], width: int):
        page = opened["sweep"].page
        resize(page, width)
        shown = page.locator("#plot svg").bounding_box()
        drawn = page.locator("#plot svg").get_attribute("viewBox").split()
        assert shown["width"] == pytest.approx(float(drawn[2]), rel=0.01)  # text is not scaled
        assert page.locator("#plot .tick-y").first.bounding_box()["height"] > 12
        boxes = [one.bounding_box() for one in page.locator("#plot text").all()]
        assert all(box["x"] >= shown["x"] - 1 for box in boxes)
        assert all(box["x"] + box["width"] <= shown["x"] + shown["width"] + 1 for box in boxes)
        resize(page, 1280)

    def test_points_on_each_other_are_apart(self, opened: dict[str, Opened]):
        page = opened["sweep"].page
        boxes = [one.bounding_box() for one in page.locator("#plot .point > circle:nth-last-child(1)").all()]
        centres = [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2) for box in boxes]
        assert len(centres) == len(RECIPES)
        assert min(math.dist(a, b) for a, b in itertools.combinations(centres, 2)) > 5
        assert page.locator("#plot .leader").count() >= 2  # int8 and pal8 are as large and as good

    def test_the_axis_ends_where_values_can(self, opened: dict[str, Opened]):
        ticks = [float(one) for one in opened["sweep"].page.locator("#plot .tick-y").all_text_contents()]
        assert 0 <= min(ticks) < max(ticks) <= 100


class TestSensitivity:
    def test_every_weight_has_its_bytes_and_cells(self, opened: dict[str, Opened], digits_packages: Any):
        page = opened["sensitivity"].page
        table = sensitivity(digits_packages["iOS18"], candidates=["pal1", "pal4", "int8", "unique"])
        rows = page.locator("#weights tbody tr")
        assert rows.count() == len([one for one in table if not one.pinned])
        for weight in table:
            cells = page.locator("#weights tbody tr", has_text=weight.name).first.locator("td")
            assert cells.nth(2).inner_text() == f"{weight.nbytes:,}"

    def test_it_sorts_and_shows_bytes_saved(self, opened: dict[str, Opened]):
        page = opened["sensitivity"].page
        page.locator("#weights th button", has_text="pal1").click()
        shown = [float(one) for one in page.locator("#weights tbody td:nth-child(4)").all_inner_texts()]
        assert shown == sorted(shown)
        page.select_option("#show", "saved")
        saved = page.locator("#weights tbody td:nth-child(4)").all_inner_texts()
        numbers = [int(one.replace(",", "")) for one in saved]
        assert numbers == sorted(numbers)
        assert (
            page.locator("#weights tfoot tr").nth(1).locator("td").nth(3).inner_text() == f"{sum(numbers):,}"
        )
        page.select_option("#show", "db")

    def test_colours_follow_the_error(self, opened: dict[str, Opened]):
        page = opened["sensitivity"].page
        colour = "(one) => getComputedStyle(one).backgroundColor"
        cells = page.locator("#weights tbody tr").first.locator("td.cell")
        assert cells.first.evaluate(colour) != cells.nth(2).evaluate(colour)  # one bit, eight bits


def test_the_dump_colours_weights_by_bits_or_error(opened: dict[str, Opened]):
    page = opened["dump"].page
    colours = "() => [...document.querySelectorAll('#map button')].map((one) => one.style.background)"
    bits, labels = page.evaluate(colours), page.locator("#legend").inner_text()
    page.select_option("#by", "sqnr")
    assert page.evaluate(colours) != bits
    assert "dB" in page.locator("#legend").inner_text()
    page.select_option("#by", "bits")
    assert (page.evaluate(colours), page.locator("#legend").inner_text()) == (bits, labels)
