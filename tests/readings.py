"""A prepared reading of built-in patches and a pool of three classes, for tests of what comes after."""

from __future__ import annotations

from candidates import SIDE, fill_pool, keys, write_labelled

from bundle.data.labelled import LabelledPatches
from bundle.reading.answers import AnswerFile
from bundle.reading.preparation import Preparation
from bundle.reading.sealed import read_sealed
from bundle.runs.context import RunContext
from bundle.synthesis.stored_pool import StoredPool


def preparation(folder, per_class=2, pool="pool", output="reading", **settings):
    """Of the labelled set and the pool in `folder`, see :func:`write_arms`; nothing is written yet."""
    labelled = LabelledPatches(
        folder / "data", None, SIDE, folder / "cache", folder / output / "split.csv", split_file=folder / "split.csv"
    )
    given = {"third_pool": None, "models": None, "augmented": None, "part": "unused"}
    given |= {"pool": pool and StoredPool(folder / pool, SIDE), "key_dir": folder / f"{output}_key"}
    seed = settings.pop("seed", 0)
    context = RunContext(folder / output, seed=seed)
    return Preparation(labelled, context=context, per_class=per_class, **{**given, **settings})


def write_arms(folder, count=4):
    write_labelled(folder, labels_per_class=4)
    fill_pool(folder / "pool", keys(count))
    return folder


def prepare(folder, **settings):
    """The reading, prepared in `folder`/reading, with its key in `folder`/reading_key."""
    made = preparation(folder, **settings)
    made.check()
    made.run()
    made.folder.close()
    return read_sealed(made.folder.path)


def answer(picture, called="real", seen="ADI", confidence=3, **more):
    """An answer as a page sends it."""
    given = {"picture": picture, "called": called, "class": seen, "comment": "", "mark": None, "seconds": 1.5}
    return {**given, "confidence": None if called == "unsure" else confidence, **more}


def read_all(sealed, reader, say):
    """Has a reader answer all pictures: `say(name)` gives what is other than in :func:`answer`."""
    file = AnswerFile(sealed, reader)
    while file.next is not None:
        file.add(answer(file.next, **say(file.next)))
    return file
