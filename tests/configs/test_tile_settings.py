"""The settings of configs/tile.json: found from anywhere, each does what it says."""

from helpers import ROOT, build_elsewhere, flag_tests


def fields(w):
    return w("work").fields


# Each setting a user may change, another value for it, and what then must have changed.
FLAGS = [
    ("slides_dir", "/some/where", lambda w: str(w("work").slides.slides_dir) == "/some/where"),
    ("output_dir", "elsewhere", lambda w: str(w("work").folder.path) == "elsewhere"),
    ("output_dir", "elsewhere", lambda w: "--dataset_dir elsewhere" in w("run::0::next_command")),
    ("output_dir", "elsewhere", lambda w: str(w("work").slides.slides_dir) == "elsewhere/cache/generated_slides"),
    ("mpp", 1.0, lambda w: fields(w).mpp == 1.0),
    ("patch_size", 64, lambda w: fields(w).patch_size == 64),
    ("overlap", 32, lambda w: fields(w).overlap == 32),
    ("minimum_tissue", 0.9, lambda w: fields(w).minimum_tissue == 0.9),
    ("maximum_patches", 9, lambda w: fields(w).maximum_patches == 9),
    ("minimum_sharpness", 0.5, lambda w: fields(w).minimum_sharpness == 0.5),
    ("fields#maximum_pen", 0.5, lambda w: fields(w).maximum_pen == 0.5),
    ("assume_mpp", 0.25, lambda w: w("work").slides.assume_mpp == 0.25),
    ("regions_dir", str(ROOT), lambda w: w("work").regions.regions_dir == str(ROOT)),
    ("region_classes", ["a"], lambda w: w("work").regions.region_classes == ["a"]),
    ("minimum_region", 0.5, lambda w: w("work").regions.minimum_region == 0.5),
    ("coordinates_dir", str(ROOT), lambda w: fields(w).coordinates_dir == str(ROOT)),
    ("format", "png", lambda w: w("work").storage.format == "png"),
    ("jpeg_quality", 80, lambda w: w("work").storage.jpeg_quality == 80),
    ("storage#jpeg_subsampling", "4:2:0", lambda w: w("work").storage.jpeg_subsampling == "4:2:0"),
    ("seed", 7, lambda w: fields(w).seed == w("work").slides.seed == 7),
    ("processes", 3, lambda w: w("work").processes == 3),
    ("shard", "2/3", lambda w: w("work").folder.place == (1, 3)),
    ("slides#reader", "tifffile", lambda w: w("work").slides.reader == "tifffile"),
    ("slides#generated_slides", 1, lambda w: w("work").slides.generated_slides == 1),
    *(
        (f"tissue#{name}", value, lambda w, name=name, value=value: getattr(w("work").tissue, name) == value)
        for name, value in (
            ("mpp", 4.0), ("smoothing", 1.0), ("saturation", 0.1), ("saturation_bounds", [0.1, 0.2]), ("density", 0.1),
            ("density_bounds", [0.1, 0.2]), ("closing", 0.0), ("least_area", 0.1), ("least_width", 1.0), ("pen", False),
        )
    ),
]  # fmt: skip

test_each_flag_changes_what_it_says, test_every_setting_has_its_flag_test = flag_tests(
    "tile.json", FLAGS, beside={"region_classes": {"regions_dir": str(ROOT)}}
)


def test_it_is_built_from_anywhere(tmp_path):
    """Without slides, from another folder, and nothing is written."""
    build_elsewhere(str(ROOT / "configs" / "tile.json"), ("work", "evaluator"), tmp_path)
