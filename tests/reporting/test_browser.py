"""The page in a real Chromium: what a person does with the gallery."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sapiens_ray.pages import Gallery, Layer, Page, Vocabulary, render_page
from sapiens_ray.reporting import ReportOptions, make_report
from tests.reporting.made import error_row, labelled_photo, random_row, write_rows

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
selenium = pytest.importorskip("selenium", reason="selenium is not installed: pip install 'sapiens-ray[dev]'")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium with chromedriver on this machine")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,900",
)  # fmt: skip
NASTY = [
    "<script>document.title='owned'</script>.jpg",
    "<img src=x onerror=\"document.title='owned'\">.jpg",
    "\"'&.jpg",
]
ROWS = 100_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class OpenGallery:
    """The gallery of the page that is open."""

    def __init__(self, browser, page: Path) -> None:
        self.browser = browser
        browser.get(page.as_uri())
        self.run("document.getElementById('gallery').scrollIntoView()")

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def choose(self, name: str, text: str) -> None:
        """Choose an entry of a select by its text."""
        from selenium.webdriver.support.select import Select

        Select(self.browser.find_element("id", f"gallery-{name}")).select_by_visible_text(text)

    def type(self, name: str, text: str) -> None:
        field = self.browser.find_element("id", f"gallery-{name}")
        field.clear()
        field.send_keys(text)

    @property
    def count(self) -> str:
        return self.run("return document.getElementById('gallery-count').textContent")

    @property
    def titles(self) -> list[str]:
        """Of the cards in the document, in the order of the grid."""
        return self.run(
            "return [...document.querySelectorAll('.card')]"
            ".sort((a, b) => a.dataset.position - b.dataset.position).map((card) => card.title)"
        )

    @property
    def sources(self) -> list[str]:
        return self.run("return [...document.querySelectorAll('.card img')].map((image) => image.src)")

    @property
    def large(self) -> str | None:
        """The title of the large view; None if it is closed."""
        return self.run(
            "return document.getElementById('gallery-large').open"
            " ? document.getElementById('gallery-large-title').textContent : null"
        )

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.browser).send_keys(key).perform()

    def settle(self) -> None:
        """Wait until the browser has drawn."""
        self.browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(2)
    rows = [labelled_photo(folder / "photos", f"photo_{seed}.png", seed) for seed in range(8)]
    for seed in range(8):
        rows[seed] |= {"seg_confidence": 0.2 + seed / 10, "image_id": f"photo_{seed}.png"}
    rows[7]["normal_length"] = 1.35
    rows[2]["seg_classes"], rows[2]["seg_area"], rows[2]["seg_class_confidence"] = [3, 5], [0.5, 0.5], [0.5, 0.5]
    rows += [{**random_row(name, random), "seg_confidence": 0.95} for name in NASTY]
    rows += [
        error_row("cut.jpg", "corrupt", "</script>"),
        error_row("none.jpg", "empty"),
        error_row("two.jpg", "empty"),
    ]
    path = folder / "report.html"
    path.write_text(make_report(write_rows(folder / "out", rows), ReportOptions()).html, encoding="utf-8")
    return path


@pytest.fixture
def gallery(browser, page):
    browser.get_log("browser")
    yield OpenGallery(browser, page)
    assert browser.get_log("browser") == [], "errors on the console"


def test_names_stay_text(gallery):
    assert gallery.browser.title == "Labels of made"
    assert set(NASTY) <= set(gallery.titles)
    assert gallery.run("return document.querySelectorAll('script').length") == 2
    assert gallery.count == "14 images"


def test_filters(gallery):
    gallery.choose("error", "empty")
    assert (gallery.count, gallery.titles) == ("2 of 14 images match", ["none.jpg", "two.jpg"])
    gallery.choose("error", "any error")
    assert len(gallery.titles) == 3
    gallery.choose("error", "without error")
    assert gallery.count == "11 of 14 images match"
    gallery.choose("layer", "seg")
    gallery.type("from", "0.35")
    gallery.type("to", "0.55")
    assert gallery.titles == ["photo_2.png", "photo_3.png"]
    gallery.run("document.getElementById('gallery-reset').click()")
    assert gallery.count == "14 images"
    gallery.type("search", "PHOTO_")
    assert gallery.titles == [f"photo_{seed}.png" for seed in range(8)]
    names = gallery.run("return [...document.getElementById('gallery-class').options].map((one) => one.text)")
    assert names[0] == "all" and len(names) > 3
    gallery.run(
        "const list = document.getElementById('gallery-class'); list.value = '5';"
        "list.dispatchEvent(new Event('change'))"
    )
    assert gallery.titles == ["photo_2.png"]
    gallery.type("search", "nothing has this name")
    assert (gallery.count, gallery.titles) == ("0 of 14 images match", [])


def test_a_task_leaves_out_images_without_its_labels(gallery):
    gallery.choose("layer", "persons")
    assert gallery.count == "11 of 14 images match"
    assert gallery.run("return document.getElementById('gallery-class').disabled") is True
    assert gallery.run("return document.getElementById('gallery-confidence-name').textContent").startswith(
        "persons: lowest"
    )


def limits(gallery) -> list[list[str]]:
    """value, min, max and step of both fields of confidence."""
    return gallery.run(
        "return ['from', 'to'].map((name) => document.getElementById(`gallery-${name}`))"
        ".map((field) => [field.value, field.min, field.max, field.step])"
    )


def test_limits_of_confidence_belong_to_their_task(gallery):
    gallery.choose("layer", "seg")
    assert limits(gallery) == [["", "0", "0.95", "0.05"]] * 2
    gallery.type("from", "0.5")
    gallery.type("to", "0.9")
    assert gallery.count == "5 of 14 images match"
    gallery.choose("layer", "persons")
    assert gallery.count == "11 of 14 images match", "the limits of seg are gone"
    gallery.choose("layer", "normal")
    assert limits(gallery) == [["", "0", "1.4", "0.1"]] * 2
    gallery.type("from", "1.3")
    assert gallery.titles == ["photo_7.png"]
    assert gallery.run("return document.getElementById('gallery-from').validity.valid")


def test_sorting(gallery):
    gallery.choose("layer", "seg")
    gallery.type("search", "photo_")
    gallery.choose("sort", "most confident first")
    assert gallery.titles == [f"photo_{seed}.png" for seed in reversed(range(8))]
    gallery.choose("sort", "least confident first")
    assert gallery.titles == [f"photo_{seed}.png" for seed in range(8)]
    gallery.run("document.getElementById('gallery-reset').click()")
    gallery.choose("sort", "least confident first")
    assert gallery.titles[-3:] == ["cut.jpg", "none.jpg", "two.jpg"], "what has no confidence comes last"


def test_the_switch_between_photo_and_overlay(gallery):
    gallery.type("search", "photo_")
    gallery.choose("layer", "depth")
    overlays = gallery.sources
    gallery.run("document.getElementById('gallery-overlay').click()")
    photos = gallery.sources
    assert len(overlays) == len(photos) == 8 and not set(overlays) & set(photos)
    assert gallery.run("return document.getElementById('gallery-overlay').getAttribute('aria-pressed')") == "false"
    gallery.run("document.getElementById('gallery-view').focus()")
    gallery.press("o")
    assert gallery.sources == overlays


def test_the_keyboard(gallery):
    from selenium.webdriver.common.keys import Keys

    gallery.run("document.getElementById('gallery-view').focus()")
    focused = "return document.activeElement.title"
    gallery.press(Keys.ARROW_RIGHT)
    assert gallery.run(focused) == "photo_0.png", "the first arrow enters the grid"
    gallery.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert gallery.run(focused) == "photo_1.png"
    columns = gallery.run(
        "const view = document.getElementById('gallery-view');"
        "return Math.round(view.clientWidth / document.querySelector('.card').offsetWidth)"
    )
    gallery.press(Keys.ARROW_DOWN)
    assert gallery.run(focused) == gallery.titles[1 + columns]
    gallery.press(Keys.ARROW_UP, Keys.ENTER)
    assert gallery.large == "photo_1.png"
    gallery.press(Keys.ARROW_RIGHT)
    assert gallery.large == "photo_2.png"
    source = "return document.querySelector('#gallery-large-picture img').src"
    overlay = gallery.run(source)
    gallery.press("o")
    assert gallery.run(source) != overlay
    gallery.press(Keys.ESCAPE)
    assert gallery.large is None
    gallery.press("o")
    gallery.type("search", "o")
    pressed = gallery.run("return document.getElementById('gallery-overlay').getAttribute('aria-pressed')")
    assert pressed == "true", "in a field, o is a letter"


def test_pictures_of_the_contact_sheets_open(gallery):
    button = gallery.run("return document.querySelector('.sheet button').title")
    gallery.run("document.querySelector('.sheet button').click()")
    assert gallery.large == button
    facts = gallery.run("return document.getElementById('gallery-large-facts').textContent")
    gallery.run("document.getElementById('gallery-close').click()")
    gallery.settle()
    assert gallery.run("return document.activeElement === document.querySelector('.sheet button')")
    assert "120 \N{MULTIPLICATION SIGN} 160 pixels" in facts


@pytest.mark.parametrize("width", [1400, 400])
def test_nothing_is_wider_than_the_window(gallery, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    gallery.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        gallery.settle()
        assert gallery.run("return document.documentElement.scrollWidth <= window.innerWidth")
        cards = gallery.run(
            "return [...document.querySelectorAll('.card')].map((card) => card.getBoundingClientRect().right)"
        )
        assert cards and max(cards) <= width
    finally:
        gallery.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name_and_every_picture_a_text(gallery):
    unnamed = gallery.run(
        "return [...document.querySelectorAll('input, select, button')].filter((one) => !(one.labels?.length ||"
        " one.getAttribute('aria-label') || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert unnamed == []
    assert gallery.run("return [...document.images].filter((one) => !one.alt).length") == 0
    assert gallery.run("return [...document.querySelectorAll('h1, h2, h3')].map((one) => one.tagName)")[:2] == [
        "H1",
        "H2",
    ]


def contrast(one: list[float], other: list[float]) -> float:
    """The ratio of WCAG 2.2 between two colours, RGB from 0 to 255."""

    def luminance(colour: list[float]) -> float:
        parts = [value / 255 for value in colour[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_of_texts(gallery, scheme):
    gallery.browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        colours = gallery.run(
            "const style = getComputedStyle(document.documentElement), probe = document.createElement('i');"
            "document.body.append(probe); const found = {};"
            "for (const name of ['paper', 'raised', 'ink', 'muted', 'accent', 'accent-ink', 'warn']) {"
            " probe.style.color = `var(--${name})`;"
            " found[name] = getComputedStyle(probe).color.match(/[0-9.]+/g).map(Number); }"
            "probe.remove(); return found"
        )
    finally:
        gallery.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    for text, ground in [
        ("ink", "paper"),
        ("muted", "paper"),
        ("muted", "raised"),
        ("accent", "paper"),
        ("accent-ink", "accent"),
        ("warn", "paper"),
    ]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert (contrast(colours["paper"], [0, 0, 0]) < 2) == (scheme == "dark")


def test_printed_the_gallery_gives_way_to_the_contact_sheets(gallery):
    gallery.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        shown = "return getComputedStyle(document.querySelector(arguments[0])).display"
        assert gallery.run(shown, "#gallery") == "none" and gallery.run(shown, ".sheet") == "block"
    finally:
        gallery.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_hundred_thousand_rows_keep_the_document_small(browser, tmp_path):
    masks = [1 + 2 * (row % 4 == 0) for row in range(ROWS)]
    layer = Layer(
        "seg", [], [row % 1000 / 1000 for row in range(ROWS)],
        classes=Vocabulary(["background", "hair"], [[0, 0, 0], [255, 0, 0]], masks),
    )  # fmt: skip
    many = Gallery(
        [f"train/{row:06d}.jpg" for row in range(ROWS)],
        [""] * ROWS,
        [640] * ROWS,
        [480] * ROWS,
        [-1] * ROWS,
        [],
        [layer],
    )
    path = tmp_path / "many.html"
    path.write_text(render_page(Page("many", "", [], [], many)), encoding="utf-8")
    browser.get_log("browser")
    gallery = OpenGallery(browser, path)
    assert gallery.count == "100,000 images"
    height = gallery.run("return document.getElementById('gallery-view').scrollHeight")
    most = 0
    for share in np.linspace(0, 1, 40):
        gallery.run("document.getElementById('gallery-view').scrollTop = arguments[0]", float(share * height))
        gallery.settle()
        most = max(most, gallery.run("return document.querySelectorAll('*').length"))
        assert gallery.run(
            "const view = document.getElementById('gallery-view').getBoundingClientRect();"
            "const middle = document.elementFromPoint(view.left + 60, view.top + view.height / 2);"
            "return middle.closest('.card') !== null"
        ), "cards are where one looks"
    assert most < 700, "as many nodes as fit into the view, and a few rows more"
    assert gallery.titles[-1] == "train/099999.jpg"
    gallery.type("search", "99")
    expected = sum("99" in f"{row:06d}" for row in range(ROWS))
    assert gallery.count == f"{expected:,} of 100,000 images match"
    assert gallery.titles[0] == "train/000099.jpg"
    gallery.choose("class", "hair")
    gallery.choose("sort", "most confident first")
    gallery.type("search", "")
    gallery.run("document.getElementById('gallery-search').dispatchEvent(new Event('input'))")
    assert gallery.count == "25,000 of 100,000 images match"
    assert gallery.titles[0] == "train/000996.jpg"
    assert gallery.run("return document.querySelectorAll('*').length") < 700
    assert browser.get_log("browser") == []
