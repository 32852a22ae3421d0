"""What MONAI's config runner leaves to the bundle: refusing unknown settings, and keeping the executed config.

MONAI accepts any `--flag value` and ignores those nobody reads; and it hands its configs no way to see themselves. The
config calls :func:`check_settings` from `initialize`, and the functions here find the running parser in the call
stack that leads to them, which is the only place MONAI keeps it.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties

# Ids that MONAI reads by name or adds by itself, so that no `@id` needs to point at them.
READ_BY_MONAI = {"imports", "initialize", "run", "finalize", "_meta_", "save_execute_config", "description"}
READ_BY_MONAI |= {re.split("::|#", prop["id"])[0] for prop in [*TrainProperties.values(), *InferProperties.values()]}
REFERENCE = re.compile(r"@(?:::|#)*(\w+)")


def running_parser() -> ConfigParser | None:
    """The ConfigParser whose expression is being evaluated now, or None outside a config."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        parser = owner if isinstance(owner, ConfigParser) else getattr(owner, "__dict__", {}).get("parser")
        if isinstance(parser, ConfigParser):
            return parser
        frame = frame.f_back
    return None


def references(content: Any) -> set[str]:
    """Top-level ids that a part of a config refers to by `@id`."""
    return set(REFERENCE.findall(json.dumps(content, default=str)))


def check_settings(bundle_root: str, entry_points: Iterable[str] = ()) -> None:
    """Refuses a config with a top-level setting that nothing reads, such as a misspelt flag of the command line.

    Also fixes `bundle_root` in the config, since its default looks at the call stack.

    Args:
        bundle_root: the folder of the bundle.
        entry_points: ids that a user may run, besides `run`.

    Raises:
        ValueError: names each such setting and the one it may be meant for.
    """
    parser = running_parser()
    if parser is None:
        return
    config = parser.get()
    parser["bundle_root"] = bundle_root
    known = READ_BY_MONAI | set(entry_points)
    for name, content in config.items():
        known |= references(content) - {name}
    unread = [name for name in config if name not in known]
    if not unread:
        return
    hints = []
    for name in unread:
        close = difflib.get_close_matches(name, [key for key in config if key in known], n=1)
        hints.append(f"--{name}" + (f" (did you mean --{close[0]}?)" if close else ""))
    settings = sorted(name for name, content in config.items() if name in known and is_setting(content))
    raise ValueError(f"no such setting: {', '.join(hints)}. The settings of this config are: {', '.join(settings)}")


def is_setting(content: Any) -> bool:
    """Whether a config item is a plain value or expression rather than a section or a component."""
    return not isinstance(content, (dict, list)) or (isinstance(content, list) and all(is_number(c) for c in content))


def is_number(content: Any) -> bool:
    return isinstance(content, (int, float))


def executed_config() -> dict[str, Any] | None:
    """The running config as a plain, runnable dictionary, with each evaluated top-level setting by its value.

    Returns:
        None outside a config.
    """
    parser = running_parser()
    if parser is None:
        return None
    config = {}
    for name, content in parser.get().items():
        if name == "_meta_":
            continue
        value = parser.ref_resolver.resolved_content.get(name, content)
        config[name] = value if is_setting(content) and is_plain(value) else content
    return config


def is_plain(value: Any) -> bool:
    """Whether a value survives JSON unchanged."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False
