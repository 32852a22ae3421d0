from __future__ import annotations

import multiprocessing
import os
import pickle
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image

from bundle.data.sources import UnreadableImage, find_items, list_source, parse_sources, read_rgb

RGB = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
STACK = np.random.default_rng(1).integers(0, 256, (3, 9, 12, 3), dtype=np.uint8)


def png(rows: list[bytes], width: int, depth: int, colour_type: int, extra: list[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG written by hand, after its specification: unfiltered rows, one IDAT."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in chunks)


def encoded(array: np.ndarray, image_format: str, mode: str | None = None, **options) -> bytes:
    stream = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, image_format, **options)
    return stream.getvalue()


def files(root) -> list[str]:
    return [file for file, _, _ in find_items(root)]


# What is given as dataset_dir


def test_the_ways_of_giving_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "with,comma"):
        (tmp_path / name).mkdir()
    assert parse_sources("a") == parse_sources(tmp_path.joinpath("a").relative_to(tmp_path)) == {"a": None}
    assert parse_sources("a, b") == parse_sources(("a", "b")) == parse_sources(["a", "b"]) == {"a": None, "b": None}
    assert list(parse_sources("b,a")) == ["b", "a"]
    assert parse_sources("with,comma") == {"with,comma": None}
    assert parse_sources({"a": 3, "b": 1}) == {"a": 0.75, "b": 0.25}
    assert parse_sources({"a": None, "b": None}) == {"a": None, "b": None}
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_sources("~/a") == {str(tmp_path / "a"): None}


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "2", True])
def test_a_bad_weight_is_named(tmp_path, weight):
    with pytest.raises(ValueError, match=f"{tmp_path}.*{weight!r}.*positive"):
        parse_sources({str(tmp_path): weight})


@pytest.mark.parametrize("nothing", [None, 3, "", [], {}, [None], True])
def test_what_is_no_path_is_refused(nothing):
    with pytest.raises(ValueError, match="--dataset_dir"):
        parse_sources(nothing)


def test_bad_sources_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.*--dataset_dir"):
        parse_sources(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="absent"):
        parse_sources(f"{tmp_path},{tmp_path}/absent")
    with pytest.raises(ValueError, match="twice"):
        parse_sources([tmp_path, str(tmp_path)])
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match="some sources only"):
        parse_sources({str(tmp_path): 1, str(tmp_path / "b"): None})


# What is found


def test_items_of_any_depth_are_sorted_with_size_and_time(tmp_path):
    content = encoded(RGB, "PNG")
    for name in (
        "b.PNG",
        "a/deep/er/c.jpeg",
        "a/b.webp",
        ".hidden.png",
        ".cache/x.png",
        "labels.csv",
        "a/readme",
        "a/t.csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.utime(tmp_path / "b.PNG", ns=(1, 5_000_000_007))
    listing = list_source(tmp_path)
    assert [file for file, _, _ in listing.items] == ["a/b.webp", "a/deep/er/c.jpeg", "b.PNG"]
    assert listing.items[2] == ("b.PNG", len(content), 5_000_000_007)
    assert listing.ignored == {".csv": 2, "(no suffix)": 1, "(hidden)": 2}
    assert find_items(str(tmp_path)) == listing.items


def test_links_are_followed_once_and_pipes_left_alone(tmp_path):
    (tmp_path / "root/a").mkdir(parents=True)
    (tmp_path / "root/a/x.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "root/a/loop").symlink_to(tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/y.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "root/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "root/pipe.png")
    assert files(tmp_path / "root") == ["a/x.png", "b/y.png", "gone.png"]
    with pytest.raises(UnreadableImage, match="gone.png: FileNotFoundError"):
        read_rgb(tmp_path / "root", "gone.png")


def test_a_missing_an_empty_and_an_imageless_folder_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/absent"):
        find_items(tmp_path / "absent")
    with pytest.raises(ValueError, match=f"{tmp_path}.*is empty.*Put images there"):
        find_items(tmp_path)
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").touch()
    with pytest.raises(ValueError, match=r"no images in it \(found only: 2 .csv\).*\.png.*\.nii"):
        find_items(tmp_path)
    with pytest.raises(ValueError, match="no images in it"):
        find_items(tmp_path / "a.csv")


# Decoding of single files


def read_bytes(tmp_path, name: str, content: bytes) -> np.ndarray:
    (tmp_path / name).write_bytes(content)
    return read_rgb(tmp_path, name)


@pytest.mark.parametrize(
    "name, image_format", [("a.png", "PNG"), ("a.tif", "TIFF"), ("a.tiff", "TIFF"), ("a.bmp", "BMP")]
)
def test_lossless_formats_come_back_exactly(tmp_path, name, image_format):
    rgb = read_bytes(tmp_path, name, encoded(RGB, image_format))
    assert rgb.dtype == np.uint8 and rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, RGB)


def test_webp_and_jpeg(tmp_path):
    np.testing.assert_array_equal(read_bytes(tmp_path, "a.webp", encoded(RGB, "WEBP", lossless=True)), RGB)
    flat = np.full((16, 16, 3), (200, 80, 160), np.uint8)
    for name in ("a.jpg", "a.jpeg", "a.JPG"):
        np.testing.assert_allclose(read_bytes(tmp_path, name, encoded(flat, "JPEG", quality=100)), flat, atol=2)


def test_greyscale_and_one_bit_are_repeated(tmp_path):
    grey = read_bytes(tmp_path, "grey.png", png([bytes([0, 7]), bytes([200, 255])], 2, 8, 0))
    assert grey.tolist() == [[[0] * 3, [7] * 3], [[200] * 3, [255] * 3]]
    bits = read_bytes(tmp_path, "bits.png", png([bytes([0b10100000])], 3, 1, 0))
    assert bits.tolist() == [[[255] * 3, [0] * 3, [255] * 3]]


def test_alpha_is_composited_on_white(tmp_path):
    rows = [bytes([10, 20, 30, 255, 10, 20, 30, 0, 0, 100, 200, 51])]  # opaque, clear, one fifth
    assert read_bytes(tmp_path, "rgba.png", png(rows, 3, 8, 6)).tolist() == [
        [[10, 20, 30], [255, 255, 255], [204, 224, 244]]
    ]
    assert read_bytes(tmp_path, "la.png", png([bytes([0, 255, 0, 0])], 2, 8, 4)).tolist() == [[[0] * 3, [255] * 3]]
    clear_red = [(b"tRNS", struct.pack(">HHH", 255, 0, 0))]
    rows = [bytes([255, 0, 0, 0, 0, 255])]
    assert read_bytes(tmp_path, "key.png", png(rows, 2, 8, 2, clear_red)).tolist() == [[[255] * 3, [0, 0, 255]]]


def test_a_palette_goes_through_its_table(tmp_path):
    table = [(b"PLTE", bytes([1, 2, 3, 250, 100, 50, 9, 9, 9]))]
    assert read_bytes(tmp_path, "a.png", png([bytes([1, 0])], 2, 8, 3, table)).tolist() == [[[250, 100, 50], [1, 2, 3]]]
    table.append((b"tRNS", bytes([255, 255, 0])))
    assert read_bytes(tmp_path, "b.png", png([bytes([1, 2])], 2, 8, 3, table)).tolist() == [[[250, 100, 50], [255] * 3]]


def test_sixteen_bit_keeps_its_full_range(tmp_path):
    grey = read_bytes(tmp_path, "grey.png", png([struct.pack(">4H", 0, 257, 40000, 65535)], 4, 16, 0))
    assert grey.tolist() == [[[0] * 3, [1] * 3, [156] * 3, [255] * 3]]  # 40000 / 257 = 155.64
    tiff = read_bytes(tmp_path, "grey.tif", encoded(np.array([[0, 257, 40000, 65535]], np.uint16), "TIFF"))
    np.testing.assert_array_equal(tiff, grey)
    colour = read_bytes(tmp_path, "rgb.png", png([struct.pack(">6H", 0, 257, 40000, 65535, 514, 30000)], 2, 16, 2))
    np.testing.assert_allclose(colour[0].ravel(), [0, 1, 155.64, 255, 2, 116.73], atol=1)


def test_cmyk(tmp_path):
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255]]], np.uint8)
    stream = BytesIO()
    Image.frombytes("CMYK", (5, 1), inks.tobytes()).save(stream, "TIFF")
    expected = [[255, 255, 255], [0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0]]
    assert read_bytes(tmp_path, "a.tif", stream.getvalue())[0].tolist() == expected


@pytest.mark.parametrize("name, image_format", [("a.png", "PNG"), ("a.tif", "TIFF")])
@pytest.mark.parametrize(
    "orientation, upright", [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (2, lambda a: a[:, ::-1])]
)
def test_orientation_is_applied(tmp_path, name, image_format, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_bytes(tmp_path, name, encoded(RGB, image_format, exif=exif)), upright(RGB))


def test_float_tiff_and_the_first_of_several_frames(tmp_path):
    values = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert read_bytes(tmp_path, "f.tif", encoded(values, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    frames = [Image.fromarray(frame) for frame in STACK]
    stream = BytesIO()
    frames[0].save(stream, "TIFF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_bytes(tmp_path, "frames.tif", stream.getvalue()), STACK[0])


def test_damage_is_named_with_its_reason(tmp_path):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = {"a.png": encoded(noise, "PNG"), "a.jpg": encoded(noise, "JPEG"), "a.bmp": encoded(noise, "BMP")}
    whole |= {"a.webp": encoded(noise, "WEBP"), "a.tif": encoded(noise, "TIFF", compression="tiff_deflate")}
    for name, content in whole.items():
        assert read_bytes(tmp_path, name, content).shape == (64, 64, 3)
        with pytest.raises(UnreadableImage) as caught:
            read_bytes(tmp_path, name, content[: len(content) // 2])
        assert caught.value.file == str(tmp_path / name) and caught.value.reason
    for name, content in {"empty.png": b"", "text.jpg": b"not an image", "gif.png": encoded(RGB, "GIF")}.items():
        with pytest.raises(UnreadableImage, match=f"{name}: it is empty or not a PNG"):
            read_bytes(tmp_path, name, content)
    with pytest.raises(UnreadableImage, match="absent.png"):
        read_rgb(tmp_path, "absent.png")


def test_pillows_limit_on_pixels_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UnreadableImage, match="DecompressionBomb"):
        read_bytes(tmp_path, "a.png", encoded(RGB, "PNG"))


def test_the_error_survives_pickling():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "torn")))
    assert (error.file, error.reason, str(error)) == ("a.png", "torn", "a.png: torn") and isinstance(error, ValueError)


# NIfTI


def test_nifti_of_each_layout(tmp_path):
    turned = RGB.swapaxes(0, 1)  # [W, H, 3]
    voxels = np.zeros(turned.shape[:2], [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel, name in enumerate("RGB"):
        voxels[name] = turned[:, :, channel]
    layouts = {
        "a.nii": turned,
        "b.nii.gz": turned[:, :, None, :],
        "c.nii": voxels,
        "d.nii": voxels[:, :, None],
        "e.nii": turned.astype(np.float32) / 255,
    }
    for name, array in layouts.items():
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
    assert files(tmp_path) == sorted(layouts)
    for name in layouts:
        np.testing.assert_array_equal(read_rgb(tmp_path, name), RGB, err_msg=name)


def test_a_nifti_volume_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((8, 9, 5, 3), np.uint8), np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(UnreadableImage, match=r"a.nii: its shape is \(8, 9, 5, 3\)"):
        read_rgb(tmp_path, "a.nii")


# Archives


def test_pathmnist_npz(tmp_path):
    labels = np.zeros((3, 1), np.uint8)
    np.savez_compressed(
        tmp_path / "path.npz",
        train_images=STACK,
        train_labels=labels,
        val_images=STACK[:1],
        test_images=STACK[:, :, :, 0],
    )
    assert files(tmp_path) == (
        [f"path.npz#test_images/{n}" for n in range(3)]
        + [f"path.npz#train_images/{n}" for n in range(3)]
        + ["path.npz#val_images/0"]
    )
    np.testing.assert_array_equal(read_rgb(tmp_path, "path.npz#train_images/2"), STACK[2])
    np.testing.assert_array_equal(
        read_rgb(tmp_path, "path.npz#test_images/1"), np.repeat(STACK[1, :, :, :1], 3, axis=2)
    )
    assert files(tmp_path / "path.npz") == files(tmp_path)  # the archive itself as the source
    np.testing.assert_array_equal(read_rgb(tmp_path / "path.npz", "path.npz#val_images/0"), STACK[0])


def test_which_arrays_are_images(tmp_path):
    masks = np.zeros((3, 9, 12), np.int32)
    np.savez(tmp_path / "named.npz", images=STACK, masks=masks)
    np.savez(tmp_path / "unnamed.npz", x=STACK)
    np.savez(tmp_path / "few.npz", y=np.zeros((3, 1)), small=np.zeros((9, 7, 3)), flags=np.zeros((3, 9, 12), bool))
    listing = list_source(tmp_path)
    assert [file for file, _, _ in listing.items] == [f"named.npz#images/{n}" for n in range(3)] + [
        f"unnamed.npz#x/{n}" for n in range(3)
    ]
    assert listing.ignored == {
        "(masks or labels)": 3,
        "array float64 [3, 1]": 1,
        "array float64 [9, 7, 3]": 1,
        "array bool [3, 9, 12]": 1,
    }


@pytest.mark.parametrize("dtype", [np.float64, np.uint8, np.int64])
def test_pannuke_npy(tmp_path, dtype):
    np.save(tmp_path / "images.npy", STACK.astype(dtype))
    np.save(tmp_path / "masks.npy", np.zeros((3, 9, 12, 6)))
    assert files(tmp_path) == ["images.npy#0", "images.npy#1", "images.npy#2"]
    np.testing.assert_array_equal(read_rgb(tmp_path, "images.npy#1"), STACK[1])


def test_hdf5(tmp_path):
    with h5py.File(tmp_path / "stack.h5", "w") as archive:
        archive["fold/images"] = STACK
        archive["fold/labels"] = np.zeros(3)
    with h5py.File(tmp_path / "pcam.hdf5", "w") as archive:
        archive["x"] = STACK[:1]
    assert files(tmp_path) == ["pcam.hdf5#x/0"] + [f"stack.h5#fold/images/{n}" for n in range(3)]
    np.testing.assert_array_equal(read_rgb(tmp_path, "stack.h5#fold/images/2"), STACK[2])
    np.testing.assert_array_equal(read_rgb(tmp_path, "pcam.hdf5#x/0"), STACK[0])


def test_zip_is_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        for name in (
            "slide/b.png",
            "a.png",
            "readme.txt",
            "__MACOSX/a.png",
            "slide/.x.png",
            "slide/@eaDir/b.png/S.jpg",
        ):
            archive.writestr(name, encoded(RGB, "PNG"))
        archive.writestr("torn.png", encoded(RGB, "PNG")[:60])
    assert files(tmp_path) == ["tiles.zip#a.png", "tiles.zip#slide/b.png", "tiles.zip#torn.png"]
    assert list_source(tmp_path).ignored == {".txt in a .zip": 1, "(made by a system)": 2, "(hidden)": 1}
    np.testing.assert_array_equal(read_rgb(tmp_path, "tiles.zip#slide/b.png"), RGB)
    with pytest.raises(UnreadableImage, match="tiles.zip#torn.png"):
        read_rgb(tmp_path, "tiles.zip#torn.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiles.zip"]


@pytest.mark.parametrize("member", ["../up.png", "a/../../up.png", "/absolute.png", "C:/drive.png"])
def test_unsafe_zip_members_are_refused_by_name(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(member, encoded(RGB, "PNG"))
    assert files(tmp_path) == [f"bad.zip#{member}"]
    with pytest.raises(UnreadableImage, match="leads outside the zip") as caught:
        read_rgb(tmp_path, f"bad.zip#{member}")
    assert caught.value.file.endswith(f"bad.zip#{member}")


def test_an_encrypted_zip_member_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a.png", encoded(RGB, "PNG"))
    content = bytearray((tmp_path / "locked.zip").read_bytes())
    content[6] |= 1  # the flag in the local header, and in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    with pytest.raises(UnreadableImage, match="a.png: it is encrypted"):
        read_rgb(tmp_path, "locked.zip#a.png")


def test_a_member_too_large_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("bundle.data.limits.LARGEST_IMAGE", 10)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as archive:
        archive.writestr("a.png", encoded(RGB, "PNG"))
    with pytest.raises(UnreadableImage, match="unpacks to .* cut it into patches"):
        read_rgb(tmp_path, "bomb.zip#a.png")


class Trap:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.save(tmp_path / "trap.npy", np.array([Trap(tmp_path / "sprung")], object), allow_pickle=True)
    np.savez(tmp_path / "trap.npz", images=np.array([Trap(tmp_path / "sprung")], object))
    assert list_source_ignored(tmp_path) == {"array object [1]": 2}
    for file in ("trap.npy#0", "trap.npz#images/0"):
        with pytest.raises(UnreadableImage, match="trap"):
            read_rgb(tmp_path, file)
    assert not (tmp_path / "sprung").exists()


def list_source_ignored(root) -> dict:
    (root / "a.png").write_bytes(encoded(RGB, "PNG"))
    return dict(list_source(root).ignored)


@pytest.mark.parametrize("name", ["torn.npz", "torn.npy", "torn.h5", "torn.zip"])
def test_a_damaged_archive_is_listed_and_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 nothing of the kind")
    assert files(tmp_path) == [name]
    with pytest.raises(UnreadableImage, match=name):
        read_rgb(tmp_path, name)


def test_values_out_of_range_are_errors_and_not_guessed(tmp_path):
    stacks = np.zeros((7, 9, 12), np.float64)
    stacks[0, 0, 0], stacks[1, 0, 0], stacks[2, 0, 0], stacks[3, 0, 0] = 256, -0.5, np.nan, np.inf
    stacks[4, 0, 0], stacks[5, 0, :2], stacks[6, 0, 0] = 1, (1.5, 254.5), 1.75
    np.save(tmp_path / "a.npy", stacks)
    for index in range(4):
        with pytest.raises(UnreadableImage, match=rf"a.npy#{index}: its float64 values span .*\[0, 255\] is needed"):
            read_rgb(tmp_path, f"a.npy#{index}")
    assert read_rgb(tmp_path, "a.npy#4").max() == 255  # in [0, 1]
    assert read_rgb(tmp_path, "a.npy#5")[0, :2, 0].tolist() == [2, 254]  # in [0, 255], rounded to even
    assert read_rgb(tmp_path, "a.npy#6").max() == 255  # just above one, so in [0, 1], and clipped
    assert read_rgb(tmp_path, "a.npy#6", unit=False).max() == 2  # where the set lies in [0, 255]
    with pytest.raises(UnreadableImage, match=r"#5: its float64 values span \[0.0, 254.5\], and \[0, 1\] in most"):
        read_rgb(tmp_path, "a.npy#5", unit=True)
    np.save(tmp_path / "b.npy", np.full((1, 9, 12), 1000, np.int32))
    with pytest.raises(UnreadableImage, match="int32 values span"):
        read_rgb(tmp_path, "b.npy#0")
    np.save(tmp_path / "c.npy", np.full((1, 9, 12), 65535, np.uint16))
    assert (read_rgb(tmp_path, "c.npy#0") == 255).all()


@pytest.mark.parametrize("member", ["images/3", "other/0", "images/x"])
def test_an_absent_member_is_named(tmp_path, member):
    np.savez(tmp_path / "a.npz", images=STACK)
    with pytest.raises(UnreadableImage, match=f"a.npz#{member}"):
        read_rgb(tmp_path, f"a.npz#{member}")


def test_archives_serve_many_threads_and_forked_processes(tmp_path):
    names = []
    with zipfile.ZipFile(tmp_path / "tiles.zip", "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}.png", encoded(np.full((40, 40, 3), number, np.uint8), "PNG"))
    with h5py.File(tmp_path / "stack.h5", "w") as archive:
        archive["images"] = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 40, 40, 3))
    for number in range(40):
        names += [f"tiles.zip#{number}.png", f"stack.h5#images/{number}"]
    expected = [number for number in range(40) for _ in range(2)]
    read = partial(read_mean, tmp_path)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(read, names)) == expected
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.map(read, names, chunksize=5) == expected
    assert list(map(read, names)) == expected  # the parent's own files still serve


def read_mean(root, name: str) -> float:
    return read_rgb(root, name).mean()


def test_a_replaced_archive_is_opened_anew(tmp_path):
    np.save(tmp_path / "a.npy", STACK)
    assert (read_rgb(tmp_path, "a.npy#0") == STACK[0]).all()
    np.save(tmp_path / "new.npy", STACK[::-1])
    os.utime(tmp_path / "new.npy", ns=(1, 1))
    os.replace(tmp_path / "new.npy", tmp_path / "a.npy")
    assert (read_rgb(tmp_path, "a.npy#0") == STACK[2]).all()
