"""The settings of `--extractors` and `--extractor`: checked before anything is read, refused with what is needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bundle.data.views import VIEWS
from bundle.evaluation.encoders import ENCODERS
from bundle.models.torchscript import WHY_SHA256
from bundle.runs.sums import require_sha256

# The first digits of the SHA-256 of the weights that FID is defined with, as torch-fidelity publishes them:
# github.com/toshas/torch-fidelity/releases, weights-inception-2015-12-05-6726825d.pth.
FID_WEIGHTS = "6726825d"
INCEPTION = "inception"
NAMED = (*(f"judge_{view}" for view in VIEWS), "scorer")
KEYS = {
    "trunk": {"name", "trunk", "weights", "sha256", "input_side", "arguments"},
    "torchscript": {"name", "torchscript", "sha256", "input_side", "mean", "std"},
    INCEPTION: {"name", "weights", "sha256"},
    "known": {"name", "weights", "sha256"},
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
EXAMPLES = (
    'one of {"name": "inception", "weights": FILE}, {"name": NAME, "trunk": A TIMM MODEL, "weights": FILE} and '
    '{"name": NAME, "torchscript": FILE, "sha256": OF THE FILE}'
)
_NAMES = f"name one of {', '.join(ENCODERS)}; any other network is given by --extractors"


def checked(setting: Any) -> str | dict[str, Any]:
    """A setting of one extractor, or a refusal that says what is needed."""
    if isinstance(setting, str) and setting in NAMED:
        return setting
    if isinstance(setting, str) and setting in ENCODERS:
        raise ValueError(f"--extractors names {setting!r} without weights: give --extractor {setting} {_ask(setting)}")
    if not isinstance(setting, Mapping):
        raise ValueError(
            f"--extractors names {setting!r}, which is none of {', '.join(NAMED)}. Any other is given with its weights "
            f"on this machine, as {EXAMPLES}"
        )
    setting = dict(setting)
    name, kind = setting.get("name"), kind_of(setting)
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in NAMED:
        raise ValueError(
            f'--extractors has {setting!r}: its "name" must be one of its own, of letters, digits and _.+-'
        )
    needed = {"trunk": ("trunk", "weights"), "torchscript": ("torchscript", "sha256")}
    missing = (
        [key for key in needed.get(kind, ("weights",)) if setting.get(key) is None]
        if kind
        else ["trunk or torchscript"]
    )
    if missing:
        why = f" ({WHY_SHA256})" if "sha256" in missing else ""
        raise ValueError(f"--extractors: {name!r} lacks {missing[0]}{why}. Give {EXAMPLES}")
    unknown = sorted(set(setting) - KEYS[kind])
    if unknown:
        raise ValueError(f"--extractors: {name!r} has {unknown[0]!r}; it can have {', '.join(sorted(KEYS[kind]))}")
    return setting


def kind_of(setting: Mapping[str, Any]) -> str | None:
    """ "trunk", "torchscript", "inception" or "known"."""
    for kind in ("trunk", "torchscript"):
        if kind in setting:
            return kind
    if setting.get("name") in ENCODERS:
        return "known"
    return INCEPTION if setting.get("name") == INCEPTION else None


def by_name(extractor: str | None, weights: str | Path | None) -> list[dict[str, str]]:
    """The setting that --extractor and --extractor_weights make, if any."""
    if extractor is None:
        if weights is not None:
            raise ValueError(f"--extractor_weights is {str(weights)!r} without --extractor: {_NAMES}")
        return []
    if extractor not in ENCODERS:
        raise ValueError(f"--extractor is {extractor!r}, which is no encoder known here: {_NAMES}")
    if weights is None:
        raise ValueError(f"--extractor {extractor} lacks its weights: give {_ask(extractor)}")
    return [{"name": extractor, "weights": str(weights)}]


def _ask(name: str) -> str:
    """The flag that a published encoder needs, and where its file is."""
    known = ENCODERS[name]
    return f"--extractor_weights FILE, {known.file} of {known.source} ({known.licence}); nothing is downloaded"


def weights_file(name: str, path: str | Path, sha256: str | None) -> tuple[Path, str]:
    """A file of weights and its SHA-256, which must be the one given."""
    path = Path(path).expanduser()
    if not path.is_file():
        hint = ""
        if name == INCEPTION:
            hint = f" (weights-inception-2015-12-05-{FID_WEIGHTS}.pth of github.com/toshas/torch-fidelity/releases)"
        elif name in ENCODERS:
            hint = f" ({ENCODERS[name].file} of {ENCODERS[name].source})"
        raise FileNotFoundError(
            f"the extractor {name} has no weights at {str(path)!r}: nothing is downloaded, so get the file"
            f"{hint} and name it in {'--extractor_weights' if name in ENCODERS else '--extractors'}"
        )
    return path, require_sha256(path, sha256, f"the extractor {name}")
