"""Pictures that somebody uploads: what is taken, what is made of it, and what is refused."""

import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_trees import dicom

from medrobust_utils.core.errors import DataError
from medrobust_utils.data import decoding
from medrobust_utils.data.upload import picture, readable

RNG = np.random.default_rng(5)
COLOUR = RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)
GRAY = COLOUR[:, :, 0]
SECOND = Image.fromarray(GRAY)
DEEP = GRAY.astype(np.uint16) * 14 + 300  # as a 12-bit radiograph may come


def saved(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def upload(content: bytes, channels: int = 3) -> tuple[np.ndarray, tuple[str, ...]]:
    return picture("a.png", content, size=24, channels=channels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_upload_is_decoded_as_the_readers_decode_a_file(tmp_path, kind, channels):
    path = tmp_path / "a"
    path.write_bytes(saved(Image.fromarray(COLOUR).resize((40, 24)), kind))
    for size in (24, 16):
        found = picture("x.txt", memoryview(path.read_bytes()), size=size, channels=channels)[0]
        np.testing.assert_array_equal(found, decoding.decode(path, size, channels)[0])
        assert found.dtype == np.uint8 and found.flags.writeable


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_deep_grays_are_shown_by_the_bits_they_use(kind):
    exact = DEEP.astype(np.float64) / 4095 * 255
    found, words = upload(saved(DEEP, kind), 1)
    np.testing.assert_allclose(found[..., 0], exact, atol=0.5001)
    assert words == ("16 bits: 0 to 4095 becomes black to white",)
    negative = saved(DEEP, "TIFF", tiffinfo={262: 0})
    np.testing.assert_array_equal(upload(negative, 1)[0], 255 - found)


def test_dicom_is_told_by_its_mark_and_shown_by_its_own_rules(tmp_path):
    path = dicom(tmp_path / "x", DEEP, PatientName="Secret^Name")
    found, words = picture("x.png", path.read_bytes(), size=24, channels=1)
    np.testing.assert_allclose(found[..., 0], DEEP.astype(np.float64) / 4095 * 255, atol=1)
    assert words == ("no window: 0 to 4095 becomes black to white",)
    with pytest.raises(DataError, match=r"^scan.DCM: cannot be read as DICOM") as caught:
        picture("scan.DCM", path.read_bytes()[:-200], size=24, channels=1)
    assert "Secret" not in str(caught.value)


def test_transparent_parts_are_laid_on_white():
    alpha = np.full((24, 24), 255, np.uint8)
    assert upload(saved(np.dstack([COLOUR, alpha])))[1] == ()
    alpha[:12] = 0
    found, words = upload(saved(np.dstack([COLOUR, alpha])))
    assert words == ()
    assert (found[:12] == 255).all() and (found[12:] == COLOUR[12:]).all()
    half = upload(saved(np.dstack([GRAY, alpha // 2])), 1)[0]  # gray with transparency
    assert (half[:12] == 255).all() and (half[12:] >= 127).all()
    image = Image.fromarray((np.indices((24, 24))[0] // 12).astype(np.uint8))
    image.putpalette([200, 0, 0, 0, 90, 0])
    assert upload(saved(image))[0][0, 0].tolist() == [200, 0, 0]
    assert upload(saved(image, transparency=0))[0][0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photograph_is_turned_as_its_camera_noted(kind):
    image = np.zeros((24, 24, 3), np.uint8)
    image[:12, :12] = 255  # bright in the upper left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    options = {"tiffinfo": {0x0112: 6}} if kind == "TIFF" else {"exif": exif}
    found, _ = upload(saved(image, kind, **options))
    assert found[4, 20].min() > 200 and found[4, 4].max() < 50


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (bytes(50_000_001), "50 MB"),
        (b"%PDF-1.7\n%...", "cannot be read as an image"),
        (saved(COLOUR, "GIF"), "cannot be read as an image"),
        (saved(COLOUR)[:-200], "cannot be read as an image"),
        (saved(COLOUR, "JPEG", quality=95)[:-500], "cannot be read as an image"),
        (saved(COLOUR, "TIFF", save_all=True, append_images=[SECOND]), "holds several pictures"),
        (bytes(128) + b"DICM" + bytes(99), "DICOM"),
        (saved(Image.new("1", (5001, 5000))), "5001 x 5000 pixels, more than the 25 million"),
        (saved(Image.new("1", (20_000, 20_000))), "at most 25 million"),  # for Pillow, a bomb
        (saved(GRAY[:7]), "too small"),
        (saved(GRAY.astype(np.float32), "TIFF"), "its pixels are kept as F"),
        (saved(Image.new("LAB", (9, 9)), "TIFF"), "its pixels are kept as LAB"),
    ],
)
def test_what_is_refused_is_named_with_a_remedy(content, said):
    with pytest.raises(DataError, match=f"^mine.png: .*{said}") as caught:
        picture("mine.png", content, size=24, channels=3)
    assert any(word in str(caught.value).lower() for word in ("save ", "choose ", "export "))


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", "a\0b\r\n\x1b[31m", "x" * 500, "", "\u202egnp.exe"]
)
def test_hostile_names_are_harmless_in_messages(name):
    safe = readable(name)
    assert 0 < len(safe) <= 60 and safe.isprintable() and not set("<>&\"'\\`") & set(safe)
    with pytest.raises(DataError) as caught:
        picture(name, b"text", size=24, channels=3)
    assert str(caught.value).startswith(f"{safe}: ")


SEEDS = [
    saved(COLOUR),
    saved(DEEP),
    saved(Image.fromarray(COLOUR).convert("P"), transparency=3),
    saved(COLOUR, save_all=True, append_images=[Image.fromarray(255 - COLOUR)]),
    saved(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"),
    saved(DEEP, "TIFF", compression="tiff_lzw"),
    saved(GRAY.astype(np.float32), "TIFF", compression="tiff_adobe_deflate"),
    saved(COLOUR, "WEBP"),
    saved(GRAY, "BMP"),
]


@st.composite
def damaged(draw) -> bytes:
    """A picture of which some bytes are others, missing, or twice there."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        # Often near an end: there lie the fields that steer the decoders.
        least, most = draw(st.sampled_from([(0, 100), (len(content) - 200, len(content))]))
        place = draw(st.integers(max(0, least), most) | st.integers(0, len(content)))
        bits = draw(st.binary(max_size=6))
        content[place : place + draw(st.sampled_from([len(bits)] * 3 + [0, 5]))] = bits
    return bytes(content[: draw(st.integers(len(content) // 2, len(content)))])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=damaged(), channels=st.sampled_from([1, 3]))
@pytest.mark.filterwarnings("ignore")  # Pillow's, of odd metadata
def test_damaged_bytes_give_a_picture_or_a_refusal(content, channels):
    try:
        pixels, _ = picture("a.png", content, size=16, channels=channels)
    except DataError as error:
        assert str(error).startswith("a.png: ")
    else:
        assert pixels.shape == (16, 16, channels) and pixels.dtype == np.uint8
