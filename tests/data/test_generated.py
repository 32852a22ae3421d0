from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import ExtraTreesClassifier

import bundle.data.generated as generated
from bundle.data.generated import CLASSES, generate_patch, is_generated, write_generated_patches
from bundle.data.marks import ALGORITHMIC_MEDIA, read_marks
from bundle.data.stain import rgb_to_optical_density

SMALL = {"slides": [0, 3], "patches_per_class": 2, "size": 16, "classes": ("TUM", "BACK"), "progress": False}


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "class_name, size", [*((name, 64) for name in CLASSES), ("NORM", 16), ("TUM", 50), ("ADI", 256)]
)
def test_patch_is_deterministic_in_its_arguments(class_name, size):
    patch = generate_patch(class_name, 1, 2, size, seed=3)
    assert patch.shape == (size, size, 3) and patch.dtype == np.uint8
    np.testing.assert_array_equal(patch, generate_patch(class_name, 1, 2, size, seed=3))
    for slide, index, seed in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        assert (patch != generate_patch(class_name, slide, index, size, seed)).any()


@pytest.mark.parametrize("class_name", ["ADI", "LYM", "MUC", "NORM", "TUM"])
def test_field_of_view_does_not_depend_on_size(class_name):
    small = generate_patch(class_name, 0, 0, 64).mean(axis=2)
    large = generate_patch(class_name, 0, 0, 256).mean(axis=2).reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), large.ravel())[0, 1] > 0.9


def test_slides_differ_in_stain_colour_and_patches_in_structure():
    def hue(slide, index):
        density = rgb_to_optical_density(generate_patch("TUM", slide, index)).mean(axis=(0, 1))
        return density / density.sum()

    hues = np.array([[hue(slide, index) for index in range(6)] for slide in range(6)])
    assert hues.mean(axis=1).std(axis=0).max() > 1.5 * hues.std(axis=1).mean(axis=0).max()
    first, second = (generate_patch("TUM", 0, index).mean(axis=2).ravel() for index in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.3


def test_white_classes_are_white_and_the_others_are_not():
    means = {name: np.mean([generate_patch(name, slide, 0) for slide in range(5)]) for name in CLASSES}
    assert means["BACK"] > 230 and means["ADI"] > 220
    assert all(mean < 215 for name, mean in means.items() if name not in ("BACK", "ADI"))


def test_classes_are_told_apart_by_grey_texture_on_an_unseen_slide():
    def features(class_name, slide, index):
        grey = generate_patch(class_name, slide, index).mean(axis=2)
        grey = (grey - grey.mean()) / (grey.std() + 1e-6)  # neither brightness nor contrast: shape alone
        spectrum = np.abs(np.fft.fftshift(np.fft.fft2(grey))) ** 2
        row, column = np.indices(grey.shape) - 32
        ring = np.bincount(np.hypot(row, column).astype(int).ravel(), spectrum.ravel())[1:32]
        sector = np.bincount(((np.arctan2(row, column) % np.pi) * 8 / np.pi).astype(int).ravel() % 8, spectrum.ravel())
        return np.concatenate([np.log(ring), np.sort(sector / sector.sum()), np.quantile(grey, np.linspace(0, 1, 9))])

    def table(slides):
        keys = [(name, slide, index) for name in CLASSES for slide in slides for index in range(10)]
        return np.array([features(*key) for key in keys]), [key[0] for key in keys]

    classifier = ExtraTreesClassifier(100, random_state=0).fit(*table([0, 1, 2]))
    assert classifier.score(*table([3, 4])) > 0.75


@pytest.mark.parametrize("group_by, group", [("slide", "slide_03"), ("class", "TUM")])
def test_written_files_are_named_marked_and_recorded(tmp_path, group_by, group, caplog):
    caplog.set_level("INFO")
    folder = write_generated_patches(tmp_path / "pool", **SMALL, group_by=group_by, seed=5)
    assert len(list(folder.glob("*/*.png"))) == 2 * 2 * 2
    path = folder / group / "TUM_slide_03_0001.png"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), generate_patch("TUM", 3, 1, 16, 5))
    marks = read_marks(path)
    assert marks["DigitalSourceType"] == ALGORITHMIC_MEDIA and "not tissue" in marks["Description"]
    assert [marks[name] for name in ("Class", "Slide", "Index", "Seed")] == ["TUM", "3", "1", "5"]
    assert json.loads((folder / "generated.json").read_text())["slides"] == [0, 3]
    assert {entry.name for entry in folder.iterdir() if entry.is_file()} == {"generated.json"}
    assert is_generated(folder) and is_generated(path.parent)
    assert "not tissue" in caplog.text


def test_interrupted_writing_resumes_and_refuses_other_arguments(tmp_path, monkeypatch):
    whole = tree(write_generated_patches(tmp_path / "whole", **SMALL))
    calls, folder = [], tmp_path / "broken"

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate_patch(*arguments)

    monkeypatch.setattr(generated, "generate_patch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_generated_patches(folder, **SMALL)
    assert not (folder / "generated.json").exists() and is_generated(folder)
    assert not list(folder.rglob("*.tmp"))
    with pytest.raises(ValueError, match="'seed': 0.*'seed': 1"):
        write_generated_patches(folder, **SMALL, seed=1)
    write_generated_patches(folder, **SMALL)
    assert tree(folder) == whole
    assert len(calls) == 8 + 1  # only the interrupted patch was begun twice

    write_generated_patches(folder, **SMALL)
    assert tree(folder) == whole and len(calls) == 9
    with pytest.raises(ValueError, match="'size': 16.*'size': 32"):
        write_generated_patches(folder, **{**SMALL, "size": 32})
    assert tree(folder) == whole


def test_two_runs_that_begin_at_the_same_time_share_a_folder(tmp_path):
    """In the middle of a run's work another waits for it, and then finds all of it."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(*arguments):
        begun.set()
        assert go_on.wait(60)
        return np.zeros((16, 16, 3), np.uint8)

    def write(results):
        results.append(write_generated_patches(tmp_path / "made", [0], 1, 16, classes=["ADI"], progress=False))

    first, second = [], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(generated, "generate_patch", slowly)
        threads = [threading.Thread(target=write, args=(results,)) for results in (first, second)]
        threads[0].start()
        assert begun.wait(60)
        (tmp_path / "made" / "generated.unfinished.json").rename(tmp_path / "hidden")  # as before the note was written
        threads[1].start()
        threads[1].join(0.3)
        assert threads[1].is_alive()  # not refused
        (tmp_path / "hidden").rename(tmp_path / "made" / "generated.unfinished.json")
        go_on.set()
        for thread in threads:
            thread.join(60)
    assert first == second == [tmp_path / "made"] and is_generated(tmp_path / "made")


def test_a_folder_of_other_images_is_refused_and_not_called_generated(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "mine.png")
    with pytest.raises(ValueError, match="empty folder"):
        write_generated_patches(tmp_path, **SMALL)
    assert not is_generated(tmp_path) and not is_generated(tmp_path / "missing")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.png"]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"classes": ("TUM", "LIVER")}, "LIVER.*ADI, BACK"),
        ({"classes": "TUM"}, "sequence"),
        ({"classes": ()}, "sequence"),
        ({"size": 15}, "15.*16 or more"),
        ({"patches_per_class": 0}, "0.*1 or more"),
        ({"slides": []}, "one or more"),
        ({"slides": [-1]}, "-1.*0 or more"),
        ({"seed": -1}, "-1.*0 or more"),
        ({"group_by": "organ"}, "organ.*'slide' or 'class'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_generated_patches(tmp_path / "pool", **{**SMALL, **wrong})
    assert not (tmp_path / "pool").exists()


def test_a_negative_index_is_refused():
    with pytest.raises(ValueError, match="index -1"):
        generate_patch("TUM", 0, -1)
