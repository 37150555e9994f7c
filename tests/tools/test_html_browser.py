"""The page of ``milpasses dump`` in a real browser."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, browser, open_file
from milpasses_tools import dump
from models import conv_linear_program, convert

import milpasses


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    convert(conv_linear_program()).save(str(folder / "plain.mlpackage"))
    milpasses.compress(folder / "plain.mlpackage", "pal4-g16", output=folder / "small.mlpackage")
    text = dump(folder / "small.mlpackage", "html", original=folder / "plain.mlpackage")
    path = folder / "small.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Opened]:
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield open_file(context, page_file)


def visible_ops(page: Any) -> int:
    return page.locator("#program .op:visible").count()


def test_opens_alone_and_without_complaint(opened: Opened, page_file: Path):
    assert opened.page.title() == "small.mlpackage: milpasses dump"
    assert opened.requests == [page_file.absolute().as_uri()]
    assert opened.complaints == []


def test_search_narrows_and_comes_back(opened: Opened):
    page = opened.page
    before = visible_ops(page)
    page.fill("#search", "conv1_weight lut")
    assert page.inner_text("#count").startswith("1 of ")
    assert page.locator("#program .op:visible", has_text="constexpr_lut_to_dense").count() == 1
    assert visible_ops(page) < before
    page.fill("#search", "")
    assert visible_ops(page) == before


def test_collapse_and_expand(opened: Opened):
    page = opened.page
    before = visible_ops(page)
    assert before > 3
    page.click("#collapse")
    assert visible_ops(page) == 0
    page.click("#expand")
    assert visible_ops(page) == before


def test_a_picked_weight_shows_its_values_before_and_after_and_its_codes(opened: Opened):
    page = opened.page
    page.locator("#map button").first.click()
    picked = page.locator("#picked")
    assert picked.locator("b").inner_text() == "conv1_weight_0_to_fp16"
    assert picked.locator("svg path").evaluate_all("all => all.map((one) => one.getAttribute('class'))") == [
        "after",
        "before",
        "codes",
    ]
    assert "16 of 16 are used" in picked.inner_text()
    assert picked.locator("svg").first.bounding_box()["height"] > 100
    assert page.locator("#program .picked").count() == 1
