"""Selecting while a pool is made gives what selecting from the finished pool does."""

import json

import numpy as np
import pytest
from candidates import CLASSES, IDENTITY, candidate, fill_pool, keys
from ignite.engine import Engine
from torch import as_tensor

from bundle.data.transforms import scale_patch
from bundle.selection.handlers import SelectiveAugmentation
from bundle.selection.table import read_selection
from bundle.synthesis.handlers import PoolWriter
from bundle.synthesis.pool import Pool


@pytest.fixture
def selector(selected, workflow):
    """As a user gets it: from the config, with the scorer of an earlier run."""
    made = workflow("select.json", **{**selected.given, "output_dir": str(selected.folder)})
    return made.parser.get_parsed_content("selector")


def evaluator(*handlers):
    """Gives what the evaluator of configs/inference.json gives, for batches of (class, seed)."""

    def make(engine, batch):
        names, seeds = zip(*batch)
        engine.state.batch = {"class": list(names), "seed": as_tensor(seeds)}
        pixels = np.stack([candidate(name, seed) for name, seed in batch])
        return {"pred": scale_patch(as_tensor(pixels).permute(0, 3, 1, 2))}

    engine = Engine(make)
    for handler in handlers:
        handler.attach(engine)
    return engine


def batches(requests, size):
    return [requests[start : start + size] for start in range(0, len(requests), size)]


def same_table(path, folder):
    rows, facts = read_selection(path)
    expected, others = read_selection(folder / "selection.csv")
    assert path.read_bytes() == (folder / "selection.csv").read_bytes()
    assert rows == expected
    assert {**facts, "pool": ""} == {**others, "pool": ""}


@pytest.mark.parametrize("size", [1, 5, 48])
@pytest.mark.parametrize("writer_first", [True, False])
def test_the_stage_and_the_handler_decide_alike(selected, selector, tmp_path, size, writer_first):
    pool = Pool(tmp_path / "pool", IDENTITY)
    handlers = [PoolWriter(pool), SelectiveAugmentation(selector, pool, tmp_path / "on_the_fly" / "selection.csv")]
    engine = evaluator(*(handlers if writer_first else handlers[::-1]))
    engine.run(batches(keys(16), size))
    pool.close()
    same_table(tmp_path / "on_the_fly" / "selection.csv", selected.folder)
    rows, facts = engine.state.selection
    assert rows == read_selection(selected.folder / "selection.csv")[0] and facts["pool"] == str(tmp_path / "pool")


def test_two_rounds_and_images_that_were_there_before(selected, selector, tmp_path):
    """Nine of the images are there; the rest come in two rounds, the first of which makes some of them anew."""
    fill_pool(tmp_path / "pool", keys(3, first=2))
    pool = Pool(tmp_path / "pool", IDENTITY)
    path = tmp_path / "selection.csv"
    engine = evaluator(PoolWriter(pool), SelectiveAugmentation(selector, pool, path))
    engine.run(batches([key for key in keys(16) if key[1] % 2 == 0], 7))
    first, facts = read_selection(path)
    assert len(first) == 3 * 9 and facts["shortfall"]["TUM"][133] > 2  # the even ones, and seed 3
    engine.run(batches([key for key in reversed(keys(16)) if key[1] % 2], 2))
    pool.close()
    same_table(path, selected.folder)


def test_what_is_on_the_disk_counts_where_another_picture_is_made(selected, selector, tmp_path):
    """As where a batch of another size is made again for its missing images: those there are not replaced."""
    fill_pool(tmp_path / "pool", keys(16))
    pool = Pool(tmp_path / "pool", IDENTITY)
    engine = evaluator(SelectiveAugmentation(selector, pool, tmp_path / "selection.csv"))
    process = engine._process_function

    def black(engine, batch):
        return {"pred": process(engine, batch)["pred"] * 0 - 1}

    engine._process_function = black
    engine.run(batches(keys(4), 4))
    pool.close()
    same_table(tmp_path / "selection.csv", selected.folder)


def test_without_a_path_nothing_is_written(selector, tmp_path):
    pool = Pool(tmp_path / "pool", IDENTITY)
    engine = evaluator(PoolWriter(pool), SelectiveAugmentation(selector, pool))
    engine.run(batches(keys(2), 3))
    pool.close()
    assert len(engine.state.selection[0]) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"pool"}


def test_shares_of_a_torchrun_are_refused(selector, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="each process of a torchrun sees a share of the pool: .*configs/select.json"):
        SelectiveAugmentation(selector, Pool(tmp_path / "pool", IDENTITY)).attach(Engine(lambda *_: None))


def test_beside_the_pool_writer_of_the_synthesis_config(workflow, adapted, tmp_path):
    """In the evaluator of configs/inference.json, whose images are decided on as they are written."""
    split = {"split_file": str(adapted / "split.csv"), "cache_dir": str(tmp_path / "cache")}
    synthesis = workflow("inference.json", adapted_dir=str(adapted), output_dir=str(tmp_path / "synthesis"))
    content = synthesis.parser.get_parsed_content
    pool = tmp_path / "synthesis" / "pool"
    # The scorer is there before the pool: it is made of the labelled images alone.
    scoring = {**split, "output_dir": str(tmp_path / "run"), "pool_dir": str(pool)}
    workflow("select.json", run_id="scorer", **scoring).run()
    selector = workflow("select.json", **scoring).parser.get_parsed_content("selector")
    path = tmp_path / "on_the_fly.csv"
    SelectiveAugmentation(selector, content("pool"), path).attach(content("evaluator"))
    synthesis.run()
    assert len(read_selection(path)[0]) == 2 * 9
    workflow("select.json", **scoring).run()
    assert path.read_bytes() == (tmp_path / "run/selection.csv").read_bytes()
    found = [json.loads(file.read_text()) for file in (path.with_suffix(".json"), tmp_path / "run/selection.json")]
    assert found[0] == found[1] and set(found[0]["classes"]) >= set(CLASSES)
