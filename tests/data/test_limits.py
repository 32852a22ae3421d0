"""What a file declares is compared with what it holds, and nothing is passed over without a word."""

import gzip
import os
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from bundle.data import limits
from bundle.data.array_layouts import LAYOUTS
from bundle.data.sources import UnreadableImage, find_items, list_source, read_rgb

STACK = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
WIDE, HUGE = (1, 24_000, 24_000, 3), (2**33, 16, 16, 3)


def encoded(image_format: str, image: np.ndarray = STACK[0], **options) -> bytearray:
    stream = BytesIO()
    Image.fromarray(image).save(stream, image_format, **options)
    return bytearray(stream.getvalue())


def header(shape: tuple[int, ...]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def refused(folder, name: str, reason: str) -> None:
    """Checks that the file is listed under one name, and refused with the reason when it is read."""
    assert [file for file, _, _ in find_items(folder)] == [name]
    with pytest.raises(UnreadableImage, match=reason):
        read_rgb(folder, name)


# Arrays


def test_an_array_that_declares_more_than_its_file_holds_is_refused(tmp_path):
    for folder, name in (("a", "x.npy"), ("b", "x.npz"), ("c", "wide.npz")):
        (tmp_path / folder).mkdir()
        if name == "x.npy":
            (tmp_path / folder / name).write_bytes(header(HUGE))
            continue
        with zipfile.ZipFile(tmp_path / folder / name, "w") as archive:
            archive.writestr("images.npy", header(HUGE if name == "x.npz" else WIDE))
    refused(tmp_path / "a", "x.npy", r"it declares 6597069766656 bytes and its file holds 0")
    refused(tmp_path / "b", "x.npz#images/", r"it declares 6597069766656 bytes")
    refused(tmp_path / "c", "wide.npz#images/", r"it declares 1728000000 bytes")
    with pytest.raises(UnreadableImage, match="it declares"):
        read_rgb(tmp_path / "b", "x.npz#images/0")


def test_arrays_and_members_of_zeros_are_refused_by_their_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "UNSUSPICIOUS", 10**5)
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((400, 16, 16, 3), np.uint8))
    refused(tmp_path, "x.npz#images/", "it unpacks .* bytes to 307328, more than the 100 times allowed")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(300_000))
    with pytest.raises(UnreadableImage, match="to 300000, more than the 100 times allowed"):
        read_rgb(tmp_path, "x.zip#a.png")


def test_a_zip_member_unpacks_no_further_than_it_says(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10**6))
    content = bytearray((tmp_path / "x.zip").read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, 100)
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path, "x.zip#a.png", "Bad CRC|not a PNG")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", encoded("PNG"))
    refused(tmp_path, "x.zip#a.png", "a.png is packed by another method than deflate")


# HDF5


@pytest.mark.parametrize(
    "shape, options, reason",
    [
        ((100_000, 16, 16, 3), {}, "it declares 76800000 bytes of which some were never written; it holds 0"),
        ((100_000, 16, 16, 3), {"chunks": (1, 16, 16, 3)}, "never written"),
        (WIDE, {"chunks": (1, 64, 64, 3), "compression": "gzip"}, "it unpacks to 1728000000 bytes, more than"),
    ],
)
def test_an_hdf5_set_that_declares_more_than_it_holds_is_refused(tmp_path, shape, options, reason):
    with h5py.File(tmp_path / "x.h5", "w") as archive:
        archive.create_dataset("fold/images", shape, "u1", **options)
    refused(tmp_path, "x.h5#fold/images/", reason)


def test_hdf5_reads_no_other_file(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(768))
    with h5py.File(tmp_path / "other.hdf5", "w") as archive:
        archive["images"] = STACK
    (tmp_path / "source").mkdir()
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    with h5py.File(tmp_path / "source/x.h5", "w") as archive:
        for name in ("secret", "pipe"):
            external = [(str(tmp_path / name), 0, h5py.h5f.UNLIMITED)]
            archive.create_dataset(f"images_{name}", (1, 16, 16, 3), "u1", external=external)
        archive["image_link"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "images")
        layout = h5py.VirtualLayout(STACK.shape, "u1")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "images", STACK.shape)
        archive.create_virtual_dataset("image_virtual", layout)
        archive["again"] = h5py.SoftLink("/image_link")
        archive["images_own"] = STACK
    listing = list_source(tmp_path / "source")
    assert [file for file, _, _ in listing.items] == [
        "x.h5#image_link/",
        "x.h5#image_virtual/",
        *(f"x.h5#images_own/{n}" for n in range(3)),
        "x.h5#images_pipe/",
        "x.h5#images_secret/",
    ]
    assert listing.ignored == {"second name of an array": 1}
    with pytest.raises(UnreadableImage, match="again"):
        read_rgb(tmp_path / "source", "x.h5#again/0")
    for name in ("image_link", "image_virtual", "images_pipe", "images_secret"):
        for member in (f"{name}/", f"{name}/0"):
            with pytest.raises(UnreadableImage, match="only what the file itself holds is read; copy them into it"):
                read_rgb(tmp_path / "source", f"x.h5#{member}")


# Pictures


def with_height(content: bytearray, image_format: str, height: int) -> bytes:
    if image_format == "PNG":
        struct.pack_into(">I", content, 20, height)
        struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    elif image_format == "JPEG":
        struct.pack_into(">H", content, max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2")) + 5, height)
    else:
        first = struct.unpack_from("<I", content, 4)[0]
        places = range(first + 2, first + 2 + 12 * struct.unpack_from("<H", content, first)[0], 12)
        place = next(place for place in places if struct.unpack_from("<H", content, place)[0] == 257)
        struct.pack_into("<HII", content, place + 2, 4, 1, height)
    return bytes(content)


@pytest.mark.parametrize(
    "image_format, options",
    [("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"subsampling": 0}), ("TIFF", {})],
)
@pytest.mark.parametrize("height", [34, 60, 4000])
def test_an_altered_height_is_noticed(tmp_path, image_format, options, height):
    content = encoded(image_format, STACK[0].repeat(2, 0).repeat(2, 1), **options)
    (tmp_path / "x.png").write_bytes(with_height(content, image_format, height))
    refused(tmp_path, "x.png", f"its header declares 32 x {height} pixels and its data end before the last")


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize(
    "image_format, options", [("PNG", {}), ("PNG", {"optimize": True}), ("JPEG", {}), ("JPEG", {"progressive": True})]
)
def test_whole_pictures_that_end_black_or_grey_are_read(tmp_path, image_format, options, value):
    image = STACK[0].repeat(4, 0).repeat(4, 1)
    image[32:] = value
    (tmp_path / "x.png").write_bytes(encoded(image_format, image, **options))
    assert read_rgb(tmp_path, "x.png")[-1, -1].tolist() == [value] * 3


def test_an_interlaced_png_is_counted_by_its_passes(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # Columns and rows of the passes of 6 x 5 pixels, by the standard.
    sizes = ((1, 1), (1, 1), (2, 1), (1, 2), (3, 1), (3, 3), (6, 2))
    rows = b"".join((b"\0" + bytes(columns)) * count for columns, count in sizes)
    for missing in (0, 1):
        header = struct.pack(">IIBBBBB", 6, 5, 8, 0, 0, 0, 1)
        content = zlib.compress(rows[: len(rows) - missing])
        made = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
        (tmp_path / f"{missing}.png").write_bytes(made)
    assert read_rgb(tmp_path, "0.png").shape == (5, 6, 3)
    with pytest.raises(UnreadableImage):
        read_rgb(tmp_path, "1.png")


def test_a_nifti_that_declares_more_than_it_holds_is_refused(tmp_path, monkeypatch):
    content = bytearray(nibabel.Nifti1Image(STACK[0], np.eye(4)).to_bytes())
    struct.pack_into("<hh", content, 42, 32_000, 32_000)
    for name, made in (("x.nii", bytes(content)), ("x.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(made)
        refused(tmp_path, name, "it declares 3072000000 bytes of voxels and holds 768")
        (tmp_path / name).unlink()
    monkeypatch.setattr(limits, "LARGEST_IMAGE", 10**5)
    monkeypatch.setattr("bundle.data.nifti.LARGEST_IMAGE", 10**5)
    (tmp_path / "x.nii.gz").write_bytes(gzip.compress(content + bytes(10**6)))
    refused(tmp_path, "x.nii.gz", "it unpacks to 100001 bytes, more than the 100000 allowed")


def test_a_tiff_of_another_layout_is_called_one(tmp_path):
    stream = BytesIO()
    Image.fromarray(STACK[0]).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    place = content.index(struct.pack("<HHI", 262, 3, 1)) + 8  # photometric interpretation
    struct.pack_into("<H", content, place, 32_803)
    (tmp_path / "x.tif").write_bytes(content)
    refused(
        tmp_path, "x.tif", r"it is a TIFF file of a layout that is not supported.*unknown pixel mode.*RGBA and CMYK"
    )


# All threads together


def test_threads_wait_for_room(monkeypatch):
    monkeypatch.setattr(limits, "LARGEST_IMAGE", 100)
    monkeypatch.setattr(limits, "UNSUSPICIOUS", 100)
    at_once, most, lock = [0], [0], threading.Lock()

    def decode(size: int) -> None:
        with limits.decoding(size, size):
            with lock:
                at_once[0] += size
                most[0] = max(most[0], at_once[0])
            time.sleep(0.001)
            with lock:
                at_once[0] -= size

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decode, [60, 10, 30, 100, 50] * 8))
    assert 60 <= most[0] <= 100 and limits._taken == 0
    with pytest.raises(ValueError, match="it unpacks to 101 bytes, more than the 100 allowed"):
        decode(101)


# What is not read is counted


def test_what_cannot_be_examined_is_named_and_the_rest_read(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "closed").mkdir(parents=True)
    (root / "a.png").write_bytes(encoded("PNG"))
    for name in ("loop", "loop.png"):
        (root / name).symlink_to(root / name)
    here = os.getcwd()
    try:
        os.chdir(root)
        for _ in range(20):  # 20 x 251 characters are over the 4096 that a path may have
            os.mkdir("d" * 250)
            os.chdir("d" * 250)
    finally:
        os.chdir(here)
    scandir = os.scandir

    def refusing(path):  # as the system does to whoever is not root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = list_source(root)
    assert [file for file, _, _ in listing.items] == ["a.png"]
    found = {name[:8]: reason for name, reason in listing.unexamined}
    assert found.keys() == {"loop", "loop.png", "closed/", "dddddddd"}
    assert "Too many levels" in found["loop"] and "Permission denied" in found["closed/"]
    assert "File name too long" in found["dddddddd"]
    assert "4 that cannot be examined, the first " in listing.passed_over()


def test_what_archives_hold_besides_images_is_counted(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "inner.zip", "deep/inner.npz", "b.nii.gz", ".hidden.png", "README", "folder/"):
            archive.writestr(name, encoded("PNG"))
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("a.png", encoded("PNG"))
    np.savez(tmp_path / "y.npz", x=STACK, planes=np.zeros((2, 4, 16, 16), np.uint8), labels=np.zeros((3, 1), np.int64))
    listing = list_source(tmp_path)
    assert len(listing.items) == 4
    assert listing.ignored == {
        ".zip in a .zip": 1,
        ".npz in a .zip": 1,
        ".gz in a .zip": 1,
        "(hidden)": 1,
        "(no suffix) in a .zip": 1,
        "repeated name in a .zip": 1,
        "array uint8 [2, 4, 16, 16]": 1,
        "array int64 [3, 1]": 1,
    }
    assert listing.passed_over().endswith(f"; of arrays, {LAYOUTS} are read")
