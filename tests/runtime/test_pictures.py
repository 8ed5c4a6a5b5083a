"""Pictures at the border: what is taken is what Pillow and llama.cpp see, without its metadata."""

from __future__ import annotations

import base64
import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pedsup_testing import stb
from pedsup_testing.pictures import (
    PLACE,
    Image,
    chunk,
    opened,
    pattern,
    png,
    private_jpeg,
    private_png,
    saved,
)  # fmt: skip
from PIL import ImageChops, ImageOps

from pedsup.errors import BadFileError, PedsupError, UnsupportedError
from pedsup.pictures import limits
from pedsup.pictures.orientation import turned_upright
from pedsup.pictures.picture import Picture
from pedsup.pictures.read import picture_from_bytes, picture_from_data_url, read_picture


def taken(data: bytes) -> Picture:
    return picture_from_bytes(data, where="photo")


def refused(data: bytes) -> PedsupError:
    with pytest.raises(PedsupError) as caught:
        taken(data)
    return caught.value


def noise(mode: str, size: tuple[int, int] = (64, 48)) -> Any:
    channels = len(mode.replace("YCbCr", "RGB")) if mode not in ("L", "P") else 1
    data = random.Random(7).randbytes(size[0] * size[1] * channels)
    return Image.frombytes(mode, size, data)


TAKEN = {
    "baseline": saved(pattern(), "JPEG"),
    "progressive": saved(pattern(), "JPEG", progressive=True),
    "full colour": saved(pattern(), "JPEG", subsampling=0),
    "half colour": saved(pattern(), "JPEG", subsampling=1),
    "grey": saved(pattern(mode="L"), "JPEG"),
    "restarts": saved(pattern(), "JPEG", restart_marker_blocks=2),
    "stored as RGB": saved(pattern(), "JPEG", keep_rgb=True),
    "odd size": saved(pattern(97, 61), "JPEG"),
    "png": saved(noise("RGB"), "PNG"),
    "png smooth": saved(pattern(), "PNG"),
    "png grey": saved(pattern(mode="L"), "PNG"),
    "png black and white": saved(pattern(mode="1"), "PNG"),
    "png palette": saved(pattern().quantize(16), "PNG"),
    "png opaque alpha": saved(pattern(mode="RGBA"), "PNG"),
    "png opaque grey alpha": saved(pattern(mode="L").convert("LA"), "PNG"),
    "png 16 bits": saved(Image.linear_gradient("L").convert("I;16"), "PNG"),
    "png interlaced": png((20, 20, 8, 0, 1), b"".join(
        (b"\0" + bytes(range(40, 40 + w))) * h
        for w, h in ((3, 3), (2, 3), (5, 2), (5, 5), (10, 5), (10, 10), (20, 10)))),
}  # fmt: skip
PRIVATE = {
    "jpeg": private_jpeg(),
    "progressive jpeg": private_jpeg(progressive=True),
    "png": private_png(),
}


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_what_is_taken_is_what_it_was(data: bytes) -> None:
    picture = taken(data)
    before, after = opened(data), opened(picture.data)
    assert (picture.width, picture.height) == before.size
    assert after.tobytes() == before.tobytes()
    # llama.cpp's decoder rounds in its own way, and sees the same of both files.
    seen = stb.decoded(picture.data)
    assert seen is not None and seen[:2] == before.size
    assert seen == stb.decoded(data)


@pytest.mark.parametrize("data", PRIVATE.values(), ids=PRIVATE)
def test_metadata_is_gone(data: bytes) -> None:
    assert data.count(PLACE) >= 3
    picture = taken(data)
    assert PLACE not in picture.data and b"Lima" not in picture.data
    image = Image.open(io.BytesIO(picture.data))
    assert not image.getexif() and not set(image.info) - {
        "jfif", "jfif_version", "jfif_unit", "jfif_density", "progressive", "progression",
    }  # fmt: skip
    assert opened(picture.data).tobytes() == opened(data).tobytes()


def test_the_same_photo_with_other_metadata_is_the_same_picture() -> None:
    assert taken(private_jpeg(1)).sha256 == taken(private_jpeg(6)).sha256
    assert taken(taken(private_jpeg()).data) == taken(private_jpeg())


@pytest.mark.parametrize("make", [private_jpeg, private_png])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_kept_beside_the_picture(make: Any, orientation: int) -> None:
    data = make(orientation)
    picture = taken(data)
    assert picture.orientation == orientation
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    stored = opened(picture.data)
    rgb, *size = turned_upright(stored.tobytes(), *stored.size, orientation)
    assert (tuple(size), rgb) == (wanted.size, wanted.tobytes())
    assert picture.upright_size == wanted.size


@pytest.mark.parametrize("broken", [b"", b"Exif\0\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08"])
def test_broken_metadata_breaks_nothing(broken: bytes) -> None:
    data = saved(pattern(), "JPEG")
    content = b"Exif\0\0" + broken
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    assert taken(data[:2] + segment + data[2:]) == taken(data)


def test_a_palette_is_laid_on_white() -> None:
    image = pattern().quantize(4)
    data = saved(image, "PNG", transparency=bytes([0, 255, 128, 255]))
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(Image.open(io.BytesIO(data)).convert("RGBA"))
    seen = opened(taken(data).data)
    difference = ImageChops.difference(seen, white.convert("RGB"))
    assert max(top for _, top in difference.getextrema()) <= 1  # Pillow rounds in its own way


def half_transparent(mode: str) -> bytes:
    image = pattern(mode=mode)
    image.putpixel((70, 50), (*image.getpixel((70, 50))[:-1], 254))
    return saved(image, "PNG")


KINDS = {
    "HEIC": (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0mif1avif", "AVIF"),
    "WebP": (saved(pattern(), "WEBP"), "WebP"),
    "GIF": (saved(pattern(), "GIF"), "GIF"),
    "TIFF": (saved(pattern(), "TIFF"), "TIFF"),
    "BMP": (saved(pattern(), "BMP"), "BMP"),
    "JPEG 2000": (saved(pattern(), "JPEG2000"), "JPEG 2000"),
    "PDF": (saved(pattern(), "PDF"), "PDF"),
    "SVG": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "DICOM": (bytes(128) + b"DICM\x02\0\0\0", "DICOM"),
    "MP4": (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video"),
    "text": (b"not a picture at all", "not a picture"),
    "empty": (b"", "empty"),
    "CMYK": (saved(pattern(mode="CMYK"), "JPEG"), "CMYK"),
    "animated": (saved(pattern(), "PNG", save_all=True, append_images=[noise("RGB", (96, 64))]),
                 "animated"),
    "transparent": (half_transparent("RGBA"), "transparent"),
    "transparent grey": (half_transparent("LA"), "transparent"),
    "colour key": (saved(pattern(), "PNG", transparency=(0, 0, 40)), "transparent"),
    "Apple's": (b"\x89PNG\r\n\x1a\n" + chunk(b"CgBI", b"\x50\0\x20\x02"), "Apple"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), KINDS.values(), ids=KINDS)
def test_other_kinds_are_named_with_what_to_do(data: bytes, said: str) -> None:
    error = refused(data)
    assert said in error.found and error.where == "photo" and error.remedy


def jpeg_with(frame: bytes, data: bytes = TAKEN["baseline"]) -> bytes:
    """The baseline JPEG with another frame header (its content from the precision on)."""
    at = data.index(b"\xff\xc0")
    old = struct.unpack_from(">H", data, at + 2)[0]
    new = b"\xff" + frame[:1] + struct.pack(">H", len(frame) + 1) + frame[1:]
    return data[:at] + new + data[at + 2 + old :]


def frame(kind: int = 0xC0, bits: int = 8, height: int = 64, width: int = 96, h: int = 1) -> bytes:
    parts = bytes([1, 0x22, 0, 2, h << 4 | 1, 1, 3, 0x11, 1])
    return struct.pack(">BBHHB", kind, bits, height, width, 3) + parts


def scans(n: int) -> bytes:
    """A progressive JPEG with more scans than any that is meant to be seen."""
    data = TAKEN["progressive"]
    first = data.index(b"\xff\xda")
    length = struct.unpack_from(">H", data, first + 2)[0]
    begin = data[first : first + 2 + length]
    return data[:-2] + (begin + b"\0") * n + data[-2:]


BAD = {
    "12 bits": (jpeg_with(frame(bits=12)), "12 bits"),
    "arithmetic": (jpeg_with(frame(kind=0xC9)), "rare kind"),
    "lossless": (jpeg_with(frame(kind=0xC3)), "rare kind"),
    "no height": (jpeg_with(frame(height=0)), "how large"),
    "sampling": (jpeg_with(frame(h=3)), "damaged"),
    "huge jpeg": (jpeg_with(frame(height=65000, width=65000)), "25 megapixels"),
    "two frames": (jpeg_with(frame()).replace(b"\xff\xda", b"\xff\xc0" + struct.pack(">H", 17)
                   + frame()[1:] + b"\xff\xda"), "damaged"),
    "scans": (scans(limits.MAX_SCANS), "scans"),
    "no scan": (TAKEN["baseline"][: TAKEN["baseline"].index(b"\xff\xda")] + b"\xff\xd9", "cut off"),
    "dot": (saved(pattern(1, 1), "PNG"), "nothing"),
    "line": (saved(pattern(2000, 16), "JPEG"), "20 times"),
    "huge png": (png((30000, 30000, 8, 2, 0), b""), "25 megapixels"),
    "deep png": (png((5000, 5000, 16, 6, 0), b""), "MB of memory"),
    "too few rows": (png((20, 20, 8, 0, 0), bytes(21 * 19)), "cut off"),
    "too many rows": (png((20, 20, 8, 0, 0), bytes(21 * 21)), "more pixels"),
    "filter": (png((20, 20, 8, 0, 0), b"\5" + bytes(21 * 20 - 1)), "damaged"),
    "depth": (png((20, 20, 3, 0, 0), bytes(9 * 20)), "damaged"),
    "no palette": (png((20, 20, 8, 3, 0), bytes(21 * 20)), "damaged"),
    "sum": (TAKEN["png"][:-1] + b"x", "damaged"),
    "not packed": (png((20, 20, 8, 0, 0), b"", packed=b"x" * 50), "damaged"),
    "needed chunk": (png((20, 20, 8, 0, 0), bytes(21 * 20), chunk(b"NEED", b"")), "damaged"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_what_the_decoder_would_choke_on_is_refused(data: bytes, said: str) -> None:
    assert said in refused(data).found


@pytest.mark.parametrize("data", TAKEN.values(), ids=TAKEN)
def test_no_beginning_of_a_file_is_taken(data: bytes) -> None:
    for length in range(0, len(data) - 1, 7):
        refused(data[:length])
    # A PNG's last chunk ends with its sum, a JPEG with two bytes.
    refused(data[:-1])


def peak_of(data: bytes) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(PedsupError):
            taken(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_unpacked() -> None:
    """100 MB of zeros in half a megabyte, where 400 pixels are declared."""
    packed = zlib.compress(bytes(100_000_000), 1)
    assert len(packed) < 500_000
    assert peak_of(png((20, 20, 8, 0, 0), b"", packed=packed)) < 8_000_000


def test_the_largest_png_is_checked_a_row_at_a_time() -> None:
    """A peak of a few times the file, and not of its 75 MB of pixels."""
    packed = zlib.compress(bytes(15001 * 5000), 1)
    tracemalloc.start()
    picture = taken(png((5000, 5000, 8, 2, 0), b"", packed=packed))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (picture.width, picture.height) == (5000, 5000)
    assert peak < 8_000_000


@given(st.data())
@settings(max_examples=150)
def test_a_changed_file_is_taken_whole_or_refused(data: st.DataObject) -> None:
    """Never another exception; and what is taken has the size that the decoder then makes."""
    file = bytearray(data.draw(st.sampled_from([*TAKEN.values(), *PRIVATE.values()])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(
            st.integers(0, min(len(file) - 1, data.draw(st.sampled_from((700, 1 << 30)))))
        )
        match data.draw(st.sampled_from(("set", "cut", "put", "double"))):
            case "set":
                file[at] = data.draw(st.integers(0, 255))
            case "cut":
                del file[at : at + data.draw(st.integers(1, 40))]
            case "put":
                file[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case "double":
                file[at:at] = file[at : at + data.draw(st.integers(1, 80))]
    agrees(bytes(file))


def agrees(file: bytes) -> None:
    try:
        picture = taken(file)
    except PedsupError:
        return
    assert picture == taken(picture.data) or picture.orientation != 1
    seen = stb.decoded(picture.data)
    # A JPEG's entropy-coded data are not read here: the decoder may still refuse them.
    assert seen is not None or picture.media_type == "image/jpeg"
    assert seen is None or seen[:2] == (picture.width, picture.height)
    assert len(picture.data) <= len(file) + 3 * 256 + 64


@given(st.binary(max_size=300), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]))
@example(b"\xe0", b"\xff\xd8\xff")
@settings(max_examples=100)
def test_nonsense_is_refused(rest: bytes, magic: bytes) -> None:
    refused(magic + rest)


def test_a_file_is_read_by_its_bytes_not_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.heic"
    path.write_bytes(TAKEN["baseline"])
    assert read_picture(path) == taken(TAKEN["baseline"])


def test_a_large_file_is_refused_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(TAKEN["baseline"] + bytes(limits.MAX_BYTES))
    with pytest.raises(UnsupportedError, match="more than 20 MB"):
        read_picture(path)
    with pytest.raises(BadFileError, match="not a regular file"):
        read_picture(tmp_path)
    with pytest.raises(BadFileError, match="cannot be read"):
        read_picture(tmp_path / "none.jpg")


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_data_urls() -> None:
    # Clients get the type wrong: the bytes say what it is.
    for kind in ("image/jpeg", "image/png", "image/x.y+z"):
        assert picture_from_data_url(data_url(TAKEN["png"], kind), where="x") == taken(TAKEN["png"])


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.org/rash.jpg", "nothing is fetched"),
        ("file:///sdcard/DCIM/rash.jpg", "nothing is fetched"),
        ("data:text/plain;base64,AAAA", "nothing is fetched"),
        ("data:image/png,AAAA", "nothing is fetched"),
        ("data:image/png;base64,A*AA", "base64"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64," + "A" * (limits.MAX_BYTES * 4 // 3 + 100), "20 MB"),
    ],
    ids=["http", "file", "text", "plain", "letters", "empty", "large"],
)
def test_other_urls_are_refused(url: str, said: str) -> None:
    with pytest.raises(PedsupError) as caught:
        picture_from_data_url(url, where="messages[0]")
    assert said in caught.value.found
