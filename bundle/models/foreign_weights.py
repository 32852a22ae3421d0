"""Weights of other packages' networks and the arguments these were built with, read without running anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from safetensors.torch import load_file


def read_arguments(given: str, name: str, flag: str) -> dict[str, Any]:
    """Constructor arguments of a network from what a flag says: JSON text, a file of them, or a config.

    Args:
        given: the flag's text; of a file, with `#id` where it defines several such networks. Commas between files
            merge them as MONAI does.
        name: class of the network.
        flag: for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the text is not JSON, the file defines no or several such networks, or a value is an expression.
    """
    remedy = f"Give {flag} as JSON text with the arguments of monai-generative's {name}, or as FILE or FILE#id"
    try:
        if given.lstrip().startswith("{"):
            return json.loads(given)
        path, _, section = given.partition("#")
        missing = [file for file in path.split(",") if not Path(file).is_file()]
        if missing:
            raise FileNotFoundError(f"{flag}: there is no file {missing[0]!r}. {remedy}")
        content = ConfigParser.load_config_files(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # of the readers of JSON and YAML, which refuse tags in words of their own
        raise ValueError(f"{flag} {given!r} can't be read ({reason_of(error)}). {remedy}") from error
    try:
        parser = ConfigParser(content)
        found = [section] if section else list(defined(content, name))
    except RecursionError as error:
        raise ValueError(f"{path} holds itself, as by an alias of YAML, so it has no end. {remedy}") from error
    if not section and "spatial_dims" in content and "_target_" not in content and not found:
        return content
    if len(found) != 1:
        raise ValueError(f"{path} defines {len(found)} {name} ({', '.join(found) or 'none'}), not one. {remedy}")
    try:
        definition = parser[found[0].replace("#", "::")] if found[0] else content
        return {key: resolved(value, parser) for key, value in definition.items() if not key.startswith("_")}
    except RecursionError as error:
        raise ValueError(f"{path}: a reference under {found[0]!r} leads back to itself. {remedy}") from error
    except Exception as error:
        said = reason_of(error)
        raise ValueError(f"{path}: the arguments under {found[0]!r} can't be read ({said}). {remedy}") from error


def defined(content: Any, name: str, above: str = "") -> Iterator[str]:
    """Ids of the items of a config that define a network of this class."""
    if isinstance(content, dict):
        if str(content.get("_target_")).rsplit(".", 1)[-1] == name:
            yield above
        for key, value in content.items():
            yield from defined(value, name, f"{above}::{key}" if above else key)


def resolved(value: Any, parser: ConfigParser) -> Any:
    """A value of a config with its references followed. Expressions are refused: they would run code."""
    if isinstance(value, str) and value.startswith("$"):
        raise ValueError(f"{value!r} is an expression")
    if isinstance(value, str) and value.startswith("@"):
        return resolved(parser[value[1:].replace("#", "::")], parser)
    return [resolved(item, parser) for item in value] if isinstance(value, (list, tuple)) else value


def read_weights(path: Path, entry: str | None = None, flag: str = "") -> dict[str, torch.Tensor]:
    """A state dict from a file that holds it alone or under a name; a prefix of data-parallel training goes.

    Args:
        path: the file; safetensors where it is named so, else one that torch wrote.
        entry: name of the state dict in the file; None where the file is one.
        flag: the flag that names the entry, for messages; "" where there is none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not one of tensors and plain data, or has no such state dict.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {path}")
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} can't be read as weights ({reason_of(error)}). It is damaged, or holds a whole pickled "
            "module, which runs code when it is opened and so is not opened here. Where you trust it, save its "
            "weights alone: torch.save(module.state_dict(), FILE)"
        ) from error
    if entry is not None:
        content = content.get(entry) if isinstance(content, dict) else None
    if not is_state_dict(content):
        holds = (
            [repr(key) for key, value in content.items() if is_state_dict(value)] if hasattr(content, "items") else []
        )
        what = f"no state dict{'' if entry is None else f' {entry!r}'} by itself"
        name_one = (
            f"name one with {flag}" if flag else "save one of them alone (torch.save(torch.load(FILE)[NAME], OTHER))"
        )
        advice = (
            f"it holds those of {', '.join(holds)}: {name_one}"
            if holds
            else f"check it{f' and {flag}' if flag else ''}"
        )
        raise ValueError(f"{path} has {what}; {advice}")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return content


def is_state_dict(content: Any) -> bool:
    """Whether it is names with a tensor each."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(item, torch.Tensor) for name, item in content.items())
    )


def reason_of(error: BaseException) -> str:
    """What another library's error says, without what explains its own options: torch's advises to run the file."""
    lines = str(error).strip().splitlines()
    said = [line for line in lines if "Unpickler error" in line] or lines or [type(error).__name__]
    return said[0].strip().split(". ")[0][:200]
