"""What a file is, judged by its bytes."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.media import recognised
from tests.support.pictures import gif, jpeg, png, webp


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        (png(7, 5), "image/png"),
        (gif(7, 5), "image/gif"),
        (jpeg(7, 5), "image/jpeg"),
        (webp(7, 5), "image/webp"),
        (webp(7, 5, b"VP8L"), "image/webp"),
        (webp(7, 5, b"VP8 "), "image/webp"),
    ],
)
def test_an_image_is_known_by_its_first_bytes_with_its_size(content: bytes, media_type: str) -> None:
    found = recognised(content, filename="notes.txt", said_type="text/plain")

    assert found is not None
    assert (found.media_type, found.pixel_count) == (media_type, 35)


@pytest.mark.parametrize(
    ("filename", "said_type", "media_type"),
    [
        ("table.CSV", "", "text/csv"),
        ("a.json", "text/plain", "application/json"),
        (None, "text/markdown", "text/markdown"),
        ("a.unknown", "image/png", "text/plain"),
        (None, "application/x-msdownload", "text/plain"),
    ],
)
def test_of_a_text_the_name_says_the_kind_else_the_sender(
    filename: str | None, said_type: str, media_type: str
) -> None:
    found = recognised("grün, 1".encode(), filename=filename, said_type=said_type)

    assert found is not None
    assert (found.media_type, found.is_image) == (media_type, False)


def test_a_pdf_is_known_by_its_first_bytes() -> None:
    found = recognised(b"%PDF-1.7\n\x00\xff", filename="a.exe", said_type="")

    assert found is not None
    assert found.media_type == "application/pdf"


@pytest.mark.parametrize("content", [b"MZ\x90\x00", b"\xff\xfeh\x00i\x00", b"a\x00b", b"caf\xe9", b"PK\x03\x04"])
def test_what_is_neither_image_nor_pdf_nor_text_is_nothing(content: bytes) -> None:
    assert recognised(content, filename="a.txt", said_type="text/plain") is None


def test_a_jpeg_of_endless_segments_is_given_up() -> None:
    found = recognised(b"\xff\xd8" + (b"\xff\xfe" + struct.pack(">H", 2)) * 100_000, filename=None, said_type="")

    assert found is not None
    assert found.pixel_count == 0


@given(
    st.sampled_from([png(), gif(), jpeg(), webp(), webp(form=b"VP8L"), webp(form=b"VP8 ")]),
    st.integers(min_value=4, max_value=40),
    st.binary(max_size=40),
)
def test_broken_images_are_read_without_an_error(image: bytes, kept: int, rest: bytes) -> None:
    recognised(image[:kept] + rest, filename=None, said_type="")
