"""The record by which a pool gets more images, kept in its `pool.json`: written by a config, believed by its names.

{"config": name of a config of this bundle, "settings": {flag: plain value}, "sum": hash of both with that of the pool}.
A pool may come from a stranger, so a record can do no more than the configs of synthesis write into one themselves.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bundle.runs.chain import CONFIGS, is_inert
from bundle.runs.sums import content_hash
from bundle.runs.workflow import executed_config, is_setting

MAKERS = ("inference.json", "baseline_inference.json")  # the configs that make pools
# Settings that an extension chooses anew or that have no part in its images; one of them could send pictures out.
OF_THE_RUN = {
    "description", "bundle_root", "output_dir", "dataset_dir", "classes", "num_images", "pictures", "picture_scales",
    "generator_class", "mlflow_tracking_uri", "training", "inference",
}  # fmt: skip
BY_HAND = "Make more images by hand, or take the pool as it is with --maximum_rounds 0"


def extension_record(config: str, paths: Sequence[str] = ()) -> dict[str, Any] | None:
    """How the running config makes more images for its pool; None outside a config.

    See `extend` of `bundle.synthesis.pool.Pool`.

    Args:
        config: the file of the running config, in `configs/`.
        paths: settings that are paths, which are kept absolute.
    """
    executed = executed_config()
    if executed is None:
        return None
    own = json.loads((CONFIGS / config).read_text(encoding="utf-8"))  # others tell where and how fast it ran
    settings = {
        name: value for name, value in executed.items() if name in own and _is_kept(name, value) and is_inert(value)
    }
    settings |= {name: os.path.abspath(os.path.expanduser(settings[name])) for name in paths if name in settings}
    return {"config": config, "settings": settings}


def sealed(extend: dict[str, Any], pool_hash: str) -> dict[str, Any]:
    """A record with its "sum", which covers it together with the pool that it is of."""
    record = {name: extend[name] for name in ("config", "settings")}
    return {**record, "sum": content_hash([pool_hash, record])}


def checked(extend: Any, pool_hash: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Config and settings of a record.

    Args:
        extend: the record.
        pool_hash: hash of the pool's identity.
        path: of the pool's `pool.json`, for messages.

    Raises:
        ValueError: it is none, names another config or setting than such a record has, or was changed since.
    """
    try:
        config, settings, total = extend["config"], dict(extend["settings"]), extend.get("sum")
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} does not say how the pool is extended: {error!r}. {BY_HAND}") from error
    if config not in MAKERS:
        raise ValueError(f"{path}: a pool is extended by {' or '.join(MAKERS)}, not by {config!r}. {BY_HAND}")
    content = json.loads((CONFIGS / config).read_text(encoding="utf-8"))
    for name, value in settings.items():
        if name not in content or not _is_kept(name, content[name]):
            raise ValueError(f"{path}: {name!r} is no flag of configs/{config} that a pool may set. {BY_HAND}")
        if not (is_setting(value) and is_inert(value)):
            raise ValueError(f"{path}: {name!r} is {value!r}, and only plain values are taken. {BY_HAND}")
    if not isinstance(settings.get("seed", 0), int):
        raise ValueError(f"{path}: 'seed' is {settings['seed']!r}; it must be an integer. {BY_HAND}")
    if total is None:
        raise ValueError(
            f"{path} was written by an earlier version, whose record of how the pool is extended is not covered by a "
            f"hash. Give the command that made the pool again, which renews it. {BY_HAND}"
        )
    if total != sealed(extend, pool_hash)["sum"]:
        raise ValueError(f"{path}: the record of how the pool is extended was changed since it was written. {BY_HAND}")
    return config, settings


def _is_kept(name: str, content: Any) -> bool:
    return is_setting(content) and name not in OF_THE_RUN
