"""The page as a browser's parser sees it, without a browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from sapiens_ray import pages
from sapiens_ray.pages.render import percent

NASTY = "<script>alert(1)</script> \"'& {{ 7 * 7 }}"
VOID = {"meta", "link", "img", "input", "br"}


class Seen(HTMLParser):
    """Tags, attributes and texts; raises if tags are not balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(page: pages.Page) -> Seen:
    seen = Seen()
    seen.feed(pages.render_page(page))
    assert seen.open == []
    return seen


def full_page() -> pages.Page:
    blocks = [
        pages.Note(NASTY),
        pages.Facts([(NASTY, NASTY), ("number", 1234)]),
        pages.Table(NASTY, [NASTY], [[NASTY], [pages.Text(NASTY, NASTY, (1, 2, 3))], [None]], fold=NASTY),
        pages.Bars(NASTY, ("a", "b"), [pages.Bar(NASTY, 0.5, NASTY, (255, 0, 16), NASTY)]),
        pages.Histogram(NASTY, [0.25, 0.75], [NASTY, "b"], (NASTY, "1"), NASTY),
        pages.HeatTable(NASTY, [NASTY], ["x", "y"], [[0.5, None]]),
        pages.Sheet(
            NASTY, [pages.Picture(NASTY, "", NASTY), pages.Picture(NASTY, "data:image/webp;base64,AA", NASTY, 3)]
        ),
    ]
    return pages.Page(NASTY, NASTY, [(NASTY, NASTY)], [pages.Section(NASTY, "one", blocks)], None, NASTY, [NASTY])


def test_texts_stay_texts():
    seen = read(full_page())
    assert "script" not in {tag for tag, _ in seen.tags}
    assert sum(NASTY in text for text in seen.texts) > 20
    assert [attributes["alt"] for tag, attributes in seen.tags if tag == "img"] == [NASTY]


def test_nothing_is_loaded_from_elsewhere():
    seen = read(full_page())
    policy = next(one["content"] for tag, one in seen.tags if tag == "meta" and "http-equiv" in one)
    assert policy.startswith("default-src 'none';")
    for _, attributes in seen.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))


def test_headings_are_in_order_and_tables_have_captions():
    seen = read(full_page())
    assert [tag for tag, _ in seen.tags if tag in ("h1", "h2", "h3")] == ["h1", "h2"]
    tables = [tag for tag, _ in seen.tags if tag in ("table", "caption", "figcaption")]
    assert tables.count("caption") == 2 and tables.count("figcaption") == 3


def test_colours_and_widths():
    html = pages.render_page(full_page())
    assert "background:#ff0010" in html and "width:50.00%" in html and "height:33.33%" in html


def test_a_count_of_zero_has_no_bar_and_a_small_one_has():
    rows = [pages.Bar("none", 0.0, "0"), pages.Bar("few", 0.0001, "1"), pages.Bar("many", 1.0, "9,999")]
    block = pages.Bars("counts", ("a", "b"), rows)
    html = pages.render_page(pages.Page("p", "", [], [pages.Section("s", "s", [block])]))
    cells = re.findall(r'<td class="bar">(.*?)</td>', html)
    assert cells == ["", '<span style="width:0.01%"></span>', '<span style="width:100.00%"></span>']


def test_the_text_below_a_drawing_is_html():
    block = pages.Svg(NASTY, Markup("<svg></svg>"), NASTY)
    seen = read(pages.Page("p", "", [], [pages.Section("s", "s", [block])]))
    assert ("p", {"class": "summary"}) in seen.tags and sum(NASTY in text for text in seen.texts) == 2


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.0004, "< 0.1 %"), (0.012, "1.2 %"), (0.346, "35 %"), (1, "100 %")]
)
def test_percent(share, text):
    assert percent(share) == text
