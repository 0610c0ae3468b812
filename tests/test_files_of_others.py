"""Files as other devices, programs and disks give them: read right, or refused by what is wrong."""

import errno
import os
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from small_trees import dicom as dicom_file

from medrobust_utils import data
from medrobust_utils.core import disk
from medrobust_utils.core.errors import DataError
from medrobust_utils.data import dicom, splits
from medrobust_utils.data.duplicates import near_duplicates
from medrobust_utils.data.phantoms import phantom_set

RAMP = np.tile(np.arange(0, 4096, 64), (64, 1))  # 0 to 4032, as all files of one device
GRAYS = RAMP.astype(float)


def item(**elements):
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return pydicom.Sequence([found])


def lut(values, bits, first=0):
    found = Dataset()
    found.add_new(0x00283002, "SS" if first < 0 else "US", [len(values), first, bits])
    found.add_new(0x00283006, "US", [int(v) for v in values])
    return pydicom.Sequence([found])


def window(values, centre, width):
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


SQUARE = np.rint((np.arange(4096) / 4095) ** 2 * 4095)
CURVE = np.rint(4095 / (1 + np.exp(-(np.arange(4096) - 1000) / 150)))
W = {"WindowCenter": 1000, "WindowWidth": 800}
PAD = np.where(RAMP < 512, -2000, RAMP - 1024)
PLAIN, SHOWN = GRAYS / 4095 * 255, window(GRAYS, 1000, 800)
GRAY_FILES = {
    "plain": ({}, PLAIN),
    "window": (W, SHOWN),
    "several windows": ({"WindowCenter": [1000, 40], "WindowWidth": [800, 400]}, SHOWN),
    "first window of width 0": ({"WindowCenter": [40, 1000], "WindowWidth": [0, 800]}, SHOWN),
    "empty window": ({"WindowCenter": None, "WindowWidth": None}, PLAIN),
    "exact": (W | {"VOILUTFunction": "LINEAR_EXACT"}, np.clip((GRAYS - 600) / 800, 0, 1) * 255),
    "sigmoid": (W | {"VOILUTFunction": "SIGMOID"}, 255 / (1 + np.exp((1000 - GRAYS) / 200))),
    "rescaled": (
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400},
        window(GRAYS * 2 - 1024, 40, 400),
    ),
    "weak counts": ({"RescaleSlope": 1 / 1024, "RescaleIntercept": 0}, GRAYS / 4096 * 255),
    "modality LUT": (
        {"ModalityLUTSequence": lut(SQUARE, 16)} | W,
        window(SQUARE[RAMP], 1000, 800),
    ),
    "VOI LUT of 12 bits": ({"VOILUTSequence": lut(CURVE, 12)}, CURVE[RAMP] / 4095 * 255),
    "VOI LUT of 12 bits in 16": ({"VOILUTSequence": lut(CURVE, 16)}, CURVE[RAMP] / 4095 * 255),
    "VOI LUT to 8 bits": ({"VOILUTSequence": lut(CURVE // 16, 8)}, CURVE[RAMP] // 16),
    "VOI LUT from 500 on": (
        {"VOILUTSequence": lut(CURVE[500:], 12, first=500)},
        CURVE[np.maximum(RAMP, 500)] / 4095 * 255,
    ),
    "inverted": ({"PhotometricInterpretation": "MONOCHROME1"} | W, 255 - SHOWN),
    "rescaled by a falling slope": (
        {"RescaleSlope": -1, "WindowCenter": -1000, "WindowWidth": 800},
        window(-GRAYS, -1000, 800),
    ),
    "an intercept alone": ({"RescaleIntercept": -24} | W, window(GRAYS - 24, 1000, 800)),
    "window narrower than a number": (
        {"WindowCenter": 1000, "WindowWidth": 0.5},
        (GRAYS > 1000) * 255,
    ),
    "VOI LUT beside a window": ({"VOILUTSequence": lut(CURVE, 12)} | W, CURVE[RAMP] / 4095 * 255),
    "VOI LUT from -1024 on, of rescaled numbers": (
        {"RescaleIntercept": -1024, "VOILUTSequence": lut(CURVE, 12, first=-1024)},
        CURVE[RAMP] / 4095 * 255,
    ),
    "VOI LUT without entries": ({"VOILUTSequence": item()} | W, SHOWN),
    "modality LUT to 8 bits": (
        {"ModalityLUTSequence": lut(np.arange(4096) // 16, 8), "WindowCenter": 128}
        | {"WindowWidth": 100},
        window(GRAYS // 16, 128, 100),
    ),
    "enhanced, one frame": (
        {
            "SharedFunctionalGroupsSequence": item(
                PixelValueTransformationSequence=item(RescaleSlope=1, RescaleIntercept=-1024)
            ),
            "PerFrameFunctionalGroupsSequence": item(FrameVOILUTSequence=item(**W)),
        },
        window(GRAYS - 1024, 1000, 800),
    ),
}


@pytest.mark.parametrize("kind", GRAY_FILES)
def test_gray_of_a_scanner_is_shown_as_the_standard_says(tmp_path, kind):
    elements, wanted = GRAY_FILES[kind]
    shown = dicom.picture(dicom_file(tmp_path / "x.dcm", RAMP, **elements))
    np.testing.assert_allclose(np.asarray(shown), wanted, atol=1)


def test_padding_is_black_and_leaves_the_contrast_to_the_rest(tmp_path):
    path = dicom_file(tmp_path / "x.dcm", PAD, BitsStored=16, HighBit=15, PixelPaddingValue=-2000)
    shown = np.asarray(dicom.picture(path)).astype(int)
    assert (shown[PAD == -2000] == 0).all()
    wanted = (PAD + 512.0) / (4095 + 512) * 255  # from -512 on, the power of two that holds all
    np.testing.assert_allclose(shown[PAD > -2000], wanted[PAD > -2000], atol=1)


def test_one_bright_pixel_does_not_take_the_contrast_without_a_word(tmp_path):
    for i in range(4):
        stored = np.random.default_rng(i).integers(0, 100, (64, 64))
        stored[0, 0] = 4000
        dicom_file(tmp_path / "ab"[i % 2] / f"{i}.dcm", stored)
    with pytest.raises(DataError, match="keep .* gray levels.*window"):
        data.load(f"folder:{tmp_path}", size=64)


def test_weak_images_are_no_copies_and_share_their_range(tmp_path):
    for i in range(12):
        stored = np.random.default_rng(i).integers(0, 12 + 100 * (i == 3), (64, 64))
        dicom_file(tmp_path / "ab"[i % 2] / f"{i}.dcm", stored, PatientID=f"p{i}")
    found = data.load(f"folder:{tmp_path}", size=64)
    assert len(found) == 12 and found.census["dicom_range"].startswith("0 to 127")


DISC = np.hypot(*(np.mgrid[:64, :64] - 24)) < 10


def rgba(light, alpha):
    return Image.fromarray(np.dstack([light] * 3 + [alpha]).astype(np.uint8))


def palette(*colours):
    image = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    image.putpalette([*colours, *[0] * (768 - len(colours))])
    return image


smooth = Image.fromarray((DISC * 255).astype(np.uint8)).resize((256, 256), Image.Resampling.BICUBIC)
OUTLINES = {
    "0 and 1": Image.fromarray(DISC.astype(np.uint8)),
    "0 and 127": Image.fromarray((DISC * 127).astype(np.uint8)),
    "1 bit": Image.fromarray(DISC),
    "16 bits": Image.fromarray((DISC * 65535).astype(np.uint16)),
    "palette, dark red": palette(0, 0, 0, 128, 0, 0),
    "green": Image.fromarray(np.dstack([DISC * 0, DISC * 200, DISC * 0]).astype(np.uint8)),
    "shape in alpha": rgba(DISC * 0, DISC * 255),
    "white, shape in alpha": rgba(DISC * 0 + 255, DISC * 255),
    "opaque": rgba(DISC * 255, DISC * 0 + 255),
    "1 and 2": Image.fromarray((DISC + 1).astype(np.uint8)),
    "254 and 255": Image.fromarray((DISC + 254).astype(np.uint8)),
    "yellow on blue": Image.fromarray(
        np.where(DISC[..., None], [255, 255, 0], [0, 0, 255]).astype(np.uint8)
    ),
    "gray, shape in alpha": Image.fromarray(np.dstack([DISC * 255] * 2).astype(np.uint8)),
}


def noise(path, seed, size=(64, 64)):
    """A coloured picture of nothing, saved at ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    (image := Image.fromarray(pixels)).save(path)
    return image


def listed(root, heading, lines):
    (root / "labels.csv").write_text("\n".join([heading, *lines]))


def outlined(root, mask, size=(64, 64)):
    for i in range(4):
        name = f"{'ab'[i % 2]}/{i}.png"
        noise(root / name, i, size)
        (root / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        mask.save(root / "masks" / name)
    return data.load(f"folder:{root}", size=64)


@pytest.mark.parametrize("kind", OUTLINES)
def test_two_colours_are_an_outline_whatever_they_are(tmp_path, kind):
    np.testing.assert_array_equal(outlined(tmp_path, OUTLINES[kind]).masks[0] > 0, DISC)


@pytest.mark.parametrize("turn", range(1, 9))
def test_outlines_of_a_turned_photograph_lie_as_it_is_shown(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        noise(path, i, (96, 64) if turn < 5 else (64, 96)).save(path, exif=exif)
        left = np.zeros((64, 96), np.uint8)
        left[:, :24] = 1
        (outline := tmp_path / "masks" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(left).save(outline / f"{i}.png")
    masks = data.load(f"folder:{tmp_path}", size=32).masks[:]
    assert masks[:, :, :8].all() and not masks[:, :, 8:].any()


MAPS = {"8 bits": "uint8", "1 bit": "bool", "16 bits": "uint16"}


@pytest.mark.parametrize("kind", MAPS)
def test_the_numbers_of_classes_are_read_at_any_depth(tmp_path, kind):
    """What a mask of 0 and 255 means is said, for 255 is a pixel of unknown class."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.txt").write_text("background\nlesion\n")
    for i in range(4):
        noise(tmp_path / f"images/{i}.png", i)
        Image.fromarray(DISC.astype(MAPS[kind])).save(tmp_path / f"labels/{i}.png")
    found = data.load(f"folder:{tmp_path}", size=64)
    np.testing.assert_array_equal(found.targets, [DISC] * 4)
    for i in range(4):
        Image.fromarray((DISC * 255).astype(np.uint8)).save(tmp_path / f"labels/{i}.png")
    with pytest.raises(DataError, match="no pixel of class lesion.*are 255, which says .* unknown"):
        data.load(f"folder:{tmp_path}", size=64)


def test_smoothed_edges_are_cut_classes_are_refused_and_empty_outlines_said(tmp_path):
    with pytest.warns(UserWarning, match="all outlines are empty"):
        found = outlined(tmp_path / "empty", Image.new("L", (64, 64)))
    assert found.census["outlines_empty"] == 4 and not found.masks[:].any()
    found = outlined(tmp_path / "smooth", smooth)
    assert (found.masks[0] != DISC).mean() < 0.01
    four = Image.fromarray((np.indices((64, 64))[0] // 16).astype("u1"))
    with pytest.raises(DataError, match="holds 4 values .0, 1, 2, 3.*black and white"):
        outlined(tmp_path / "classes", four)


@pytest.mark.parametrize("size", [(96, 64), (60, 100), (64, 128)])
def test_an_outline_of_another_shape_is_refused_and_a_smaller_one_fits(tmp_path, size):
    with pytest.raises(DataError, match=f"{size[0]} x {size[1]} pixels, but its image"):
        outlined(tmp_path / "other", Image.new("L", size, 255), (64, 96))
    assert outlined(tmp_path / "half", Image.new("L", (32, 48), 255), (64, 96)).masks[:].all()


@pytest.mark.parametrize("number", disk.SENTENCES, ids=errno.errorcode.get)
@pytest.mark.parametrize("where", ["png", "dcm", "csv"])
def test_what_is_wrong_with_a_disk_never_advises_to_delete(tmp_path, monkeypatch, number, where):
    names = [f"{i}.{'dcm' if where == 'dcm' else 'png'}" for i in range(4)]
    for i, name in enumerate(names):
        if where == "dcm":
            dicom_file(tmp_path / name, RAMP + i)
        else:
            Image.fromarray((RAMP // 16 + i).astype(np.uint8)).save(tmp_path / name)
    listed(tmp_path, "image,label", [f"{name},{'ab'[i % 2]}" for i, name in enumerate(names)])
    real_open = open

    def fail(path, *args, **how):
        if str(path).endswith(where):
            raise OSError(number, os.strerror(number), str(path))
        return real_open(path, *args, **how)

    monkeypatch.setattr("builtins.open", fail)
    monkeypatch.setattr("io.open", fail)
    with pytest.raises(DataError, match="not to blame") as caught:
        data.load(f"folder:{tmp_path}", size=32)
    said = str(caught.value)
    assert disk.SENTENCES[number] in said
    assert not any(word in said.lower() for word in ("delete", "remove", "download", "save it"))


def test_no_array_is_mapped_on_a_disk_that_cannot_hold_it(tmp_path, home, monkeypatch):
    for i in range(4):
        noise(tmp_path / "ab"[i % 2] / f"{i}.png", i)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk.os, "posix_fallocate", full)
    with pytest.raises(DataError, match="decoded: 0 MB are needed, .* MB are free.*MEDROBUST_HOME"):
        data.load(f"folder:{tmp_path}", size=32)
    assert not list((home / "decoded").iterdir())


def eyes(count, side=128):
    """Photographs of different eyes by one camera: the same field, lighting and surround."""
    drawn = phantom_set("fundus", count, size=side).images.astype(np.float64)
    y, x = np.mgrid[:side, :side] / side - 0.5
    inside = np.hypot(x, y) < 0.46
    light = (1 - 1.2 * (x**2 + y**2))[..., None] * np.array([190.0, 95, 50])
    found = light + (drawn - drawn.mean((1, 2), keepdims=True)) * 0.25
    return np.clip(np.where(inside[..., None], found, 4), 0, 255).astype(np.uint8)


def test_eyes_of_one_camera_are_no_chain_and_every_copy_is_found(tmp_path):
    different = eyes(120)
    images, wanted = [*different], set()
    for original in (3, 40, 77):  # smaller, and compressed anew
        whole, new = Image.fromarray(different[original]), len(images)
        whole.save(tmp_path / "x.jpg", quality=60)
        images.append(whole.resize((96, 96), Image.Resampling.BICUBIC).resize(whole.size))
        images.append(Image.open(tmp_path / "x.jpg"))
        wanted |= {(original, new), (original, new + 1), (new, new + 1)}
        images[-2:] = map(np.asarray, images[-2:])
    flat = different.mean(3).reshape(120, -1)
    assert np.mean(np.corrcoef(flat) > 0.99) > 0.3, "they are not alike enough to test anything"
    found = near_duplicates(np.stack(images))[0]
    assert {tuple(pair) for pair in found.T.tolist()} == wanted


def test_a_chain_too_large_to_split_is_cut_and_a_patient_column_is_believed(tmp_path):
    """Sixty frames of a slow film: each is like the next, the first is not like the last."""
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16), dtype=np.uint8))
    film = np.asarray(scene.resize((640, 320), Image.Resampling.BICUBIC))
    (tmp_path / "images").mkdir()
    for i in range(60):
        Image.fromarray(film[:, 2 * i : 2 * i + 320]).save(tmp_path / f"images/{i}.png")
    listed(tmp_path, "image,label", lines := [f"{i},{'ab'[i % 2]}" for i in range(60)])
    with pytest.warns(UserWarning, match="pairs of near duplicates would chain"):
        found = data.load(f"folder:{tmp_path}", size=64)
    assert found.census["near_duplicate_pairs_not_joined"] > 0
    assert np.bincount(found.groups).max() <= 6
    splits.split_by_group(found, seed=0)
    listed(tmp_path, "image,label,patient", [f"{line},p{i // 3}" for i, line in enumerate(lines)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = data.load(f"folder:{tmp_path}", size=64)
    assert len(np.unique(found.groups)) == 20
    assert found.census["near_duplicates_of_different_patients"] > 0


def test_a_telephones_photograph_is_its_first_picture(tmp_path):
    for i in range(4):
        path = tmp_path / "ab"[i % 2] / f"{i}.jpg"
        photo = noise(path, i)
        photo.save(path, format="MPO", save_all=True, append_images=[photo.resize((20, 15))])
    found = data.load(f"folder:{tmp_path}", size=32)
    assert len(found) == 4 and found.census["files_first_of_several"] == 4


PROGRAMS = {
    "a challenge": ("image,MEL,NV,UNK", "ISIC_{i},{odd}.0,{even}.0,0.0"),
    "names with suffix": ("image,MEL,NV,UNK", "ISIC_{i}.jpg,{odd},{even},0"),
    "a decimal comma": ("Image;MEL;NV;UNK", "ISIC_{i};{odd},0;{even},0;0,0"),
    "blanks and quotes": ("image , MEL, NV, UNK", '"ISIC_{i}", "{odd}", "{even}", "0"'),
    "Windows' folders": ("IMAGE\tMEL\tNV\tUNK", ".\\ISIC_{i}.jpg\t{odd}\t{even}\t0"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_table_of_a_challenge_is_read_as_any_program_writes_it(tmp_path, program):
    for i in range(8):
        noise(tmp_path / f"images/ISIC_{i}.jpg", i)
    heading, line = PROGRAMS[program]
    listed(tmp_path, heading, [line.format(i=i, odd=i % 2, even=1 - i % 2) for i in range(8)])
    found = data.load(f"folder:{tmp_path}", size=32)
    assert found.classes == ("MEL", "NV")
    assert found.targets.tolist() == [[i % 2, 1 - i % 2] for i in range(8)]
    assert found.census["columns_left_out"] == ["UNK"]
