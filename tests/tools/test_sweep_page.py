"""The report of ``milpasses sweep`` in a real browser."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, browser, open_file
from milpasses_tools import sweep
from sweep_cases import RECIPES, save_data


@pytest.fixture(scope="module")
def opened(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Generator[Opened]:
    folder = tmp_path_factory.mktemp("sweep")
    data = save_data(folder / "digits.npz")
    sweep(digits_packages["iOS16"], folder / "out", [*RECIPES, "int4"], data, max_loss=2)
    with browser(folder / "profile") as context:
        yield open_file(context, folder / "out" / "report.html")


def column(page: Any, title: str) -> list[str]:
    heads = page.locator("#variants th").all_inner_texts()
    at = [head.split(" \u25b2")[0].split(" \u25bc")[0] for head in heads].index(title) + 1
    return page.locator(f"#variants tbody td:nth-child({at})").all_inner_texts()


def test_opens_alone_and_without_complaint(opened: Opened):
    assert opened.page.title() == "iOS16.mlpackage: milpasses sweep"
    assert len(opened.requests) == 1
    assert opened.complaints == []


def test_the_plot_has_every_measured_variant_and_names_its_axes(opened: Opened):
    page = opened.page
    assert page.locator("#plot .point").count() == 5
    texts = page.locator("#plot text").all_text_contents()
    assert "accuracy, %" in texts
    assert "size of the model, kB" in texts
    assert page.locator("#plot svg").bounding_box()["height"] < 600


def test_hover_tells_of_a_variant_and_marks_its_row(opened: Opened):
    page = opened.page
    page.locator("#plot .point[data-name=pal1] circle").first.hover()
    assert page.inner_text("#tip").startswith("pal1\n")
    assert "95 % interval" in page.inner_text("#tip")
    assert page.locator("#variants tr.over").get_attribute("data-name") == "pal1"


def test_the_table_sorts_with_failures_last(opened: Opened):
    page = opened.page
    page.locator("#variants th button", has_text="bytes").first.click()
    sizes = column(page, "bytes")
    assert sizes[-1] == "failed"
    numbers = [int(text.replace(",", "")) for text in sizes[:-1]]
    assert numbers == sorted(numbers)
    page.locator("#variants th button", has_text="bytes").first.click()
    again = [int(text.replace(",", "")) for text in column(page, "bytes")[:-1]]
    assert again == sorted(numbers, reverse=True)


def test_a_row_shows_details_and_failures_say_why(opened: Opened):
    page = opened.page
    page.locator("#variants tr[data-name=int4]").click()
    assert "TargetError" in page.inner_text("#details")
    page.locator("#variants tr[data-name=pal4]").click()
    assert "SQNR" in page.inner_text("#details")


def test_a_family_can_be_hidden(opened: Opened):
    page = opened.page
    page.locator("#legend button", has_text="pal").click()
    assert page.locator("#plot .point").count() == 2
    page.locator("#legend button", has_text="pal").click()
    assert page.locator("#plot .point").count() == 5


def test_every_class_has_a_column(opened: Opened):
    heads = opened.page.locator("#classes th").all_inner_texts()
    assert len(heads) == 11
    assert heads[1].startswith("0 (")
