"""Tables: wrapped at spaces, what is to be pasted is whole, and nothing of somebody else reaches the terminal raw."""

from __future__ import annotations

import io

import pytest

from sapiens_ray.cli.console import columns_of, is_live, one_line, shortened, styled, wrap
from sapiens_ray.cli.tables import Facts, print_columns

PATH = "/data/a very/long/path/" + "x" * 60


def lines(table: Facts, columns: int | None) -> list[str]:
    return [(name + value).rstrip() for name, value in table.lines(columns)]


def test_prose_is_wrapped_at_spaces_and_a_path_is_whole():
    table = Facts()
    table.add("state", "stopped without a word at noon")
    table.add_whole("labels", "/short")
    table.add_whole("output", PATH)
    table.add("", "one\ntwo")
    table.add_below(lambda room: [f"fits {room}"])
    assert lines(table, 28) == [
        "state   stopped without a",
        "        word at noon",
        "labels  /short",
        "output",
        f"  {PATH}",
        "        one",
        "        two",
        "    fits 24",
    ]
    assert lines(table, None) == [
        "state   stopped without a word at noon",
        "labels  /short",
        f"output  {PATH}",
        "        one",
        "        two",
        "    fits None",
    ]


def test_a_word_that_is_too_long_is_never_cut():
    assert wrap(f"cannot read {PATH} here", 20) == [
        "cannot read /data/a", "very/long/path/" + "x" * 60, "here",
    ]  # fmt: skip
    assert wrap("日本 日本 日本", 9) == ["日本 日本", "日本"], "wide characters take two columns"
    assert wrap("", 20) == [""]


def test_text_of_others_is_one_line_without_control_characters():
    assert one_line("a\x1b[31m\nb\tc\u202e\udc80é日") == "a\\x1b[31m b c\\u202e\\udc80é日"
    assert shortened("日本日本", 5) == "日本…" and shortened("abcd", 4) == "abcd" and shortened("abcd", None) == "abcd"


def test_columns_are_as_wide_as_their_longest_cell(capsys):
    print_columns(["NAME", "GB"], [["a", "1.00"], ["longer", "10.00"]], right=[False, True])
    assert capsys.readouterr().out == "NAME       GB\na        1.00\nlonger  10.00\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def environment(monkeypatch):
    for name in ("NO_COLOR", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("name", "value", "live"),
    [("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False), ("NO_COLOR", "", True)],
)
def test_where_escape_codes_are_used(environment, name, value, live):
    environment.setenv(name, value)
    assert is_live(Terminal()) is live and not is_live(io.StringIO())
    assert styled("x", "1", Terminal()) == ("\x1b[1mx\x1b[0m" if live else "x")


def test_how_many_columns_there_are(environment):
    assert columns_of(io.StringIO()) is None, "nothing is wrapped in a pipe"
    assert columns_of(Terminal()) == 80
    environment.setenv("COLUMNS", "60")
    assert columns_of(io.StringIO()) == columns_of(Terminal()) == 60
    environment.setenv("COLUMNS", "many")
    assert columns_of(io.StringIO()) is None
