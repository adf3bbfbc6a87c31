"""The page in a real Chromium: pairs, the switch between A, B and the photo, sorting by difference."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sapiens_ray.comparing import compare_outputs
from sapiens_ray.storage import Folder
from tests.evaluation.labelled import png, write_labels

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'sapiens-ray[dev]'")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on this machine")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
NAMES = ["<script>document.title='owned'</script>.jpg", "two.jpg", "three.jpg"]
HEIGHT, WIDTH = 40, 60


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    photo = folder / "photo.png"
    cv2.imwrite(str(photo), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    for name, changed in (("a", (0, 0, 0)), ("b", (5, 30, 0))):
        rows = []
        for image_id, columns in zip(NAMES, changed, strict=True):
            ids = np.full((HEIGHT, WIDTH), 2, np.uint8)
            ids[:, :columns] = 9
            rows.append(
                {"image_id": image_id, "width": WIDTH, "height": HEIGHT, "uri": str(photo), "seg": png(ids),
                 "seg_classes": np.unique(ids).tolist()}
            )  # fmt: skip
        write_labels(folder / name, [{"task": "seg"}], rows)
    made = compare_outputs(*(Folder(str(folder / name)) for name in "ab"))
    path = folder / "compare.html"
    path.write_text(made.html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory, page):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.get(page.as_uri())
    yield driver
    assert driver.get_log("browser") == [], "errors on the console"
    driver.quit()


def test_names_stay_text_and_pairs_have_two_pictures(browser):
    assert browser.title == "Two outputs compared"
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    pairs = browser.execute_script(
        "return [...document.querySelectorAll('li.pair')].map((pair) => [pair.querySelector('button').title,"
        " pair.querySelector('.detail').textContent, ...[...pair.querySelectorAll('img')].map((one) => one.src)])"
    )
    assert [pair[:2] for pair in pairs] == [["two.jpg", "0.5000"], [NAMES[0], "0.0833"]]
    assert all(len(pair) == 4 and pair[2] != pair[3] for pair in pairs)


def test_the_switch_goes_from_a_to_b_to_the_photo(browser):
    def shown() -> tuple[str, str]:
        script = (
            "return [document.getElementById('gallery-overlay').textContent, document.querySelector('.card img').src]"
        )
        text, source = browser.execute_script(script)
        return text, source

    seen = []
    for _ in range(4):
        seen.append(shown())
        browser.execute_script("document.getElementById('gallery-overlay').click()")
    assert [text for text, _ in seen] == ["Shown: A", "Shown: B", "Shown: photo", "Shown: A"]
    assert len({source for _, source in seen}) == 3 and seen[0] == seen[3]
    browser.execute_script("for (let k = 0; k < 2; k++) document.getElementById('gallery-overlay').click()")
    assert shown() == seen[0]


def test_images_are_sorted_by_difference(browser):
    from selenium.webdriver.support.select import Select

    Select(browser.find_element("id", "gallery-layer")).select_by_visible_text("seg")
    Select(browser.find_element("id", "gallery-sort")).select_by_visible_text("seg: difference, falling")
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.card')].sort((a, b) => a.dataset.position - b.dataset.position)"
        ".map((card) => card.title)"
    )
    assert titles == [NAMES[1], NAMES[0], NAMES[2]]


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits_the_screen(browser, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    frame = browser.execute_script(
        "const box = document.querySelector('.pair .frame').getBoundingClientRect(); return box.width"
    )
    assert 300 < frame < width
