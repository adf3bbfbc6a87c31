"""URIs in rows, files and messages: readable, and without secrets."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sapiens_ray.storage.uris import absolute, readable, redact_uri, redact_uris_in, relative_to, without_query


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:S3CRET@host/a.jpg", "https://host/a.jpg"),
        ("https://me:S3C@RET@host/a.jpg", "https://host/a.jpg"),
        ("https://host/a@b.jpg?x=c@d", "https://host/a@b.jpg?x=c@d"),
        ("https://host?x=c@d", "https://host?x=c@d"),
        ("simplecache::https://me:S3CRET@host/a.zip", "simplecache::https://host/a.zip"),
        ("zip://in.jpg::https://me:S3CRET@host/a.zip", "zip://in.jpg::https://host/a.zip"),
        ("git+https://me:S3CRET@host/a", "git+https://host/a"),
        ("https://h/a?X-Amz-Security-Token=S3CRET&w=3", "https://h/a?X-Amz-Security-Token=...&w=3"),
        ("https://h/a?w=3&api_KEY=S3CRET#part", "https://h/a?w=3&api_KEY=...#part"),
        ("https://h/a?passwd=S3CRET&x-credential=S3CRET&secret=", "https://h/a?passwd=...&x-credential=...&secret=..."),
        ("s3://bucket/token=b/key=1.jpg", "s3://bucket/token=b/key=1.jpg"),
        ("photos/me:word@home.jpg?key=1", "photos/me:word@home.jpg?key=1"),
    ],
)
def test_a_uri_loses_its_secrets(uri, expected):
    assert redact_uri(uri) == expected
    assert redact_uri(expected) == expected, "once is enough"


def test_names_that_are_not_utf8_become_text():
    assert redact_uri(os.fsdecode(b"/photos/\xe9t\xc3\xa9.jpg")) == "/photos/\\xe9t\u00e9.jpg"
    assert redact_uri(os.fsdecode(b"s3://a:b@c/\xff")) == "s3://c/\\xff"
    assert readable("half \ud83d") == "half \\ud83d"


@given(st.one_of(st.text(), st.text("ab:/@?&=", max_size=12)))
def test_every_text_becomes_one_that_a_file_can_hold(text):
    readable(text).encode()
    redact_uri(text).encode()
    if "://" not in text and text.isascii():
        assert redact_uri(text) == redact_uris_in(text) == text


def test_every_uri_in_a_text_is_redacted():
    text = "GET 'https://me:S3CRET@h/a?sig=S3CRET&v=1' failed, not <s3://b/k?token=S3CRET>: see /photos/a?key=b"
    assert redact_uris_in(text) == "GET 'https://h/a?sig=...&v=1' failed, not <s3://b/k?token=...>: see /photos/a?key=b"
    assert redact_uris_in("nothing to see") == "nothing to see"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://me:word@host:8080/a/b.tar?sig=1&v=2", "https://host:8080/a/b.tar"),
        ("https://me:wo@rd@host/a", "https://host/a"),
        ("https://host?sig=1", "https://host"),
        ("zip://in.jpg::https://me:word@host/a.zip?sig=1", "zip://in.jpg::https://host/a.zip"),
        ("s3://bucket/a@b/c.jpg", "s3://bucket/a@b/c.jpg"),
        ("s3://bucket", "s3://bucket"),
        ("/photos/me@home?.jpg", "/photos/me@home?.jpg"),
        ("", ""),
    ],
)
def test_a_url_without_its_query(uri, expected):
    assert without_query(uri) == expected


@pytest.mark.parametrize(
    ("folder", "path", "expected"),
    [
        ("/data", "a.jpg", "/data/a.jpg"),
        ("/data", "./a/b.jpg", "/data/a/b.jpg"),
        ("s3://bucket/lists", "../a.jpg", "s3://bucket/lists/../a.jpg"),
        ("/data", "/other/a.jpg", "/other/a.jpg"),
        ("/data", "https://host/a.jpg", "https://host/a.jpg"),
        ("s3://bucket", ".hidden", "s3://bucket/.hidden"),
    ],
)
def test_relative_paths_lie_below_the_folder(folder, path, expected):
    assert relative_to(folder, path) == expected


def test_an_absolute_path_has_no_scheme_and_no_links(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for uri in (f"{tmp_path}/link", f"file://{tmp_path}/link", f"local://{tmp_path}/a/../real"):
        assert absolute(uri) == f"{tmp_path}/real"
    assert absolute("s3://bucket/a/") == "s3://bucket/a"
