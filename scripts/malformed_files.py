"""Malformed files of every format that a source may hold: what `fuzz_sources.py` reads.

Files are made of procedural patches and then spoilt: bits turned, ends cut off, sizes and other fields of headers set
to extremes, parts of other files put in, archives that declare more than they hold or name other files.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import h5py
import nibabel
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bundle.data.generated import CLASSES, generate_patch  # noqa: E402

EXTREMES = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**24, 2**30, 2**31 - 1, 2**31, 2**32 - 1)


# Whole files


@lru_cache(maxsize=4)
def patches(seed: int) -> np.ndarray:
    """uint8 RGB [9, 32, 32, 3], one of each class."""
    return np.stack([generate_patch(name, 0, 0, 32, seed) for name in CLASSES])


def picture(image_format: str, modes: str, **choices: list) -> Callable:
    """A writer of single pictures in one of the modes, with one of the values of each option."""

    def write(random: np.random.Generator, images: np.ndarray) -> bytes:
        mode = random.choice(modes.split())
        image = images[random.integers(len(images))]
        if mode in ("F", "I;16"):
            grey = image[:, :, 0].astype(np.float32) / 255
            made = Image.fromarray(grey if mode == "F" else (grey * 65535).astype(np.uint16))
        else:
            made = Image.fromarray(image).convert(mode)
        options = {name: values[random.integers(len(values))] for name, values in choices.items()}
        stream = io.BytesIO()
        made.save(stream, image_format, **{name: value for name, value in options.items() if value is not None})
        return stream.getvalue()

    return write


def tiff(random: np.random.Generator, images: np.ndarray) -> bytes:
    """One page, or the channels as three."""
    packing = ["raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg"]
    if random.random() < 0.8:
        write = picture("TIFF", "RGB RGBA L CMYK F I;16", compression=packing[:4], tiffinfo=[{}, {278: 8}])
        return write(random, images)
    stream, pages = io.BytesIO(), [Image.fromarray(channel) for channel in images[0].transpose(2, 0, 1)]
    description = {270: "ImageJ=1.54f\nimages=3\nchannels=3\n"}
    packed = str(random.choice(packing))
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], tiffinfo=description, compression=packed)
    return stream.getvalue()


def npy(random: np.random.Generator, images: np.ndarray) -> bytes:
    """A stack of colours, of grey, with channels first, or one image."""
    stream = io.BytesIO()
    layouts = [images, images[:, :, :, 0], images.transpose(0, 3, 1, 2), images[0]]
    dtype = random.choice(["u1", "f4", "f8", "i4", ">i2", "u2"])
    np.save(stream, np.asarray(layouts[random.integers(len(layouts))], dtype))
    return stream.getvalue()


def npz(random: np.random.Generator, images: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save = np.savez_compressed if random.random() < 0.5 else np.savez
    save(stream, train_images=images, train_labels=np.arange(len(images)))
    return stream.getvalue()


def hdf5(random: np.random.Generator, images: np.ndarray) -> bytes:
    with h5py.File("memory", "w", driver="core", backing_store=False) as archive:
        options = [{}, {"compression": "gzip"}, {"chunks": (2, 16, 16, 3)}, {"compression": "lzf", "shuffle": True}]
        archive.create_dataset("fold/images", data=images, **options[random.integers(len(options))])
        archive["fold/labels"] = np.arange(len(images))
        archive.flush()
        return archive.id.get_file_image()


def nifti(random: np.random.Generator, images: np.ndarray) -> bytes:
    image = images[random.integers(len(images))].swapaxes(0, 1)
    kind = nibabel.Nifti2Image if random.random() < 0.2 else nibabel.Nifti1Image
    return kind(image[:, :, None] if random.random() < 0.5 else image, np.eye(4)).to_bytes()


def zipped(random: np.random.Generator, images: np.ndarray) -> bytes:
    stream = io.BytesIO()
    method = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(stream, "w", int(method)) as archive:
        for number, suffix in enumerate(random.choice([".png", ".jpg", ".tif", ".bmp", ".npy", ".zip"], 4)):
            inner = zipped if suffix == ".zip" and random.random() < 0.1 else WRITERS.get(suffix, npy)
            archive.writestr(f"slide/{number}{suffix}", inner(random, images) if inner is not zipped else b"PK\5\6")
    return stream.getvalue()


WRITERS: dict[str, Callable[[np.random.Generator, np.ndarray], bytes]] = {
    ".png": picture("PNG", "RGB RGBA L P 1 I;16"),
    ".jpg": picture("JPEG", "RGB L CMYK", progressive=[False, True], quality=[60, 95]),
    ".tif": tiff,
    ".bmp": picture("BMP", "RGB L P 1"),
    ".webp": picture("WEBP", "RGB RGBA", lossless=[False, True]),
    ".npy": npy,
    ".npz": npz,
    ".h5": hdf5,
    ".nii": nifti,
    ".nii.gz": lambda random, images: gzip.compress(nifti(random, images)),
    ".zip": zipped,
}


# What spoils them: (random, content, suffix) -> content


def turn_bits(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    spoilt = bytearray(content)
    end = len(spoilt) if random.random() < 0.5 else min(len(spoilt), 512)  # headers as often as all the rest
    for place in random.integers(end, size=random.choice([1, 2, 5, 30])):
        spoilt[place] ^= 1 << random.integers(8)
    return bytes(spoilt)


def cut_off(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    return content[: random.integers(len(content))]


def set_fields(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    spoilt = bytearray(content)
    end = max(1, len(spoilt) - 8)
    for place in random.integers(min(end, 1024) if random.random() < 0.7 else end, size=random.integers(1, 4)):
        code = random.choice(["<H", ">H", "<I", ">I", "<Q"])
        value = int(random.choice(EXTREMES)) % 2 ** (8 * struct.calcsize(code))
        if place + struct.calcsize(code) <= len(spoilt):
            struct.pack_into(code, spoilt, place, value)
    return bytes(spoilt)


def splice(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    other_suffix = random.choice([*WRITERS, suffix, suffix])
    other = WRITERS[other_suffix](random, patches(0))
    return content[: random.integers(len(content))] + other[random.integers(len(other)) :]


def repeat_part(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    start, end = sorted(random.integers(len(content) + 1, size=2))
    return content[:end] + content[start:end] * random.integers(1, 20) + content[end:]


def declare_size(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    """Another number of pixels or images in the field that says it, with its checksum where there is one."""
    spoilt, size = bytearray(content), int(random.choice([1, 31, 33, 64, 1000, 12_000, 16_383, 60_000, 2**31 - 1]))
    if suffix == ".png":
        struct.pack_into(">I", spoilt, int(random.choice([16, 20])), size)
        struct.pack_into(">I", spoilt, 29, zlib.crc32(spoilt[12:29]))
    elif suffix == ".jpg":
        start = re.search(rb"\xff[\xc0-\xc2]", content).start()
        struct.pack_into(">H", spoilt, start + int(random.choice([5, 7])), size % 2**16)
    elif suffix == ".tif":
        first = struct.unpack_from("<I", content, 4)[0]
        entries = range(first + 2, first + 2 + 12 * struct.unpack_from("<H", content, first)[0], 12)
        sizes = [place for place in entries if struct.unpack_from("<H", content, place)[0] in (256, 257, 278)]
        for place in random.choice(sizes, random.integers(1, 3)):
            struct.pack_into("<HII", spoilt, place + 2, 4, 1, size)
    elif suffix == ".bmp":
        struct.pack_into("<i", spoilt, int(random.choice([18, 22])), size)
    elif suffix == ".webp":
        struct.pack_into("<H", spoilt, int(random.choice([26, 28])), size % 2**14)
    elif suffix in (".nii", ".nii.gz"):
        spoilt = bytearray(gzip.decompress(content) if suffix == ".nii.gz" else content)
        if spoilt[0] == 0x5C:  # the first version, with its sizes as 16 bits
            for place in random.choice([42, 44, 46, 48], 2):
                struct.pack_into("<h", spoilt, int(place), size % 2**15)
        else:
            struct.pack_into("<q", spoilt, int(random.choice([24, 32, 40])), size)
        spoilt += bytes(int(random.choice([0, 10**7])))
        return gzip.compress(spoilt, 1) if suffix == ".nii.gz" else bytes(spoilt)
    elif suffix == ".npy":
        return declared_npy(random, size)
    elif suffix in (".npz", ".zip"):
        return declared_zip(random, suffix, size)
    else:
        return declared_hdf5(random, size)
    return bytes(spoilt)


def declared_npy(random: np.random.Generator, size: int, content: bytes = bytes(3072)) -> bytes:
    stream = io.BytesIO()
    shape = (size, int(random.choice([8, 32, 60_000])), 32, 3)
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def declared_zip(random: np.random.Generator, suffix: str, size: int) -> bytes:
    """An array or picture that the directory, or the array's own header, says is larger or smaller than it is."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        zeros = bytes(int(random.choice([3072, 10**6, 10**8], p=[0.6, 0.35, 0.05])))
        made = declared_npy(random, size, zeros) if suffix == ".npz" else b"\x89PNG\r\n\x1a\n" + zeros
        archive.writestr("images.npy" if suffix == ".npz" else "a.png", made)
    spoilt = bytearray(stream.getvalue())
    if random.random() < 0.5:
        entry = spoilt.rindex(b"PK\1\2")
        struct.pack_into("<I", spoilt, entry + int(random.choice([20, 24])), size)
    return bytes(spoilt)


def declared_hdf5(random: np.random.Generator, size: int) -> bytes:
    """Sets without data, virtual, in other files, behind links, or of zeros that unpack to much."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as archive:
        side = min(size, 60_000) + 8
        kind = random.integers(6)
        if kind == 0:
            archive.create_dataset("images", (size, 32, 32, 3), "u1", chunks=random.choice([None, True]))
        elif kind == 1:
            external = [(str(random.choice(["/etc/passwd", "pipe"])), 0, h5py.h5f.UNLIMITED)]
            archive.create_dataset("images", (1, 8, 8, 3), "u1", external=external)
        elif kind == 2:
            archive["images"] = h5py.ExternalLink(str(random.choice(["a.h5", "pipe", "/dev/zero"])), "images")
        elif kind == 3:
            layout = h5py.VirtualLayout((size, 32, 32, 3), "u1")
            layout[:] = h5py.VirtualSource("pipe", "images", (size, 32, 32, 3))
            archive.create_virtual_dataset("images", layout)
        elif kind == 4:
            archive["images"] = h5py.SoftLink("/images")
            archive["group"] = archive["/"]
        else:
            made = archive.create_dataset("images", (1, side, side, 3), "u1", chunks=(1, 8, 8, 3), compression="gzip")
            made[:, :8, :8] = 1
        archive.flush()
        return archive.id.get_file_image()


def spoil_inside(random: np.random.Generator, content: bytes, suffix: str) -> bytes:
    """Spoils what a container holds, and packs it again as if it were whole."""
    change = INNER[random.integers(len(INNER))]
    if suffix == ".nii.gz":
        return gzip.compress(change(random, gzip.decompress(content), ".nii"), 1)
    if suffix in (".npz", ".zip"):
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
            for name in whole.namelist():
                inner = Path(name).suffix
                made.writestr(name, change(random, whole.read(name), inner if inner in WRITERS else ".npy"))
        return stream.getvalue()
    return change(random, content, suffix)


INNER = (turn_bits, cut_off, set_fields, repeat_part)
CHANGES = (*INNER, splice, declare_size, declare_size, spoil_inside)


def plan(number: int) -> tuple[str, Callable]:
    """Suffix and change of the file of a number."""
    return list(WRITERS)[number % len(WRITERS)], CHANGES[number // len(WRITERS) % len(CHANGES)]


def make_file(seed: int, number: int) -> bytes:
    """The content of the file of a number; the same for the same arguments."""
    random = np.random.default_rng([seed, number])
    suffix, change = plan(number)
    content = change(random, WRITERS[suffix](random, patches(seed)), suffix)
    return with_checksums(content) if suffix == ".png" and random.random() < 0.5 else content


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have right checksums, so that what they hold is read."""
    mended, place = bytearray(content), 8
    while place + 12 <= len(mended):
        end = place + 8 + struct.unpack_from(">I", mended, place)[0]
        if end + 4 > len(mended):
            break
        struct.pack_into(">I", mended, end, zlib.crc32(mended[place + 4 : end]))
        place = end + 4
    return bytes(mended)
