"""What a docstring says of an argument: Google style as in this bundle, and as MONAI and PyTorch write it."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

HEADING = re.compile(r"^\s*(Args|Arguments|Parameters|Attributes)\b.*:\s*$")
OTHER = re.compile(r"^\s*(Returns?|Raises|Yields?|Examples?|Note|Notes|References?|Keyword Args)\b.*:\s*$")
# `name:`, `first, second:`, `name (type, optional):`, `**others:`
SEE = re.compile(r"^[Ss]ee (?::\w+:)?`~?([\w.]+)`")
NAMED = re.compile(r"^(\s*)(\*{0,2}\w+(?:,\s*\*{0,2}\w+)*)\s*(?:\([^)]*\))?:\s?(.*)$")


def arguments_of(text: str) -> dict[str, str]:
    """The arguments that a docstring describes, each with its whole text on one line."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    margin, inside = None, False
    for line in inspect.cleandoc(text or "").splitlines():
        if HEADING.match(line):
            inside, margin, current = True, None, []
            continue
        if not inside or not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if OTHER.match(line) or indent == 0:
            inside = False
            continue
        match = NAMED.match(line)
        if match and (margin is None or indent <= margin):
            margin, current = indent, [match[3]]
            for name in match[2].split(","):
                found.setdefault(name.strip(), current)
        elif margin is not None and indent > margin:
            current.append(line.strip())
    return {name: " ".join(part for part in parts if part).strip() for name, parts in found.items()}


def described(target: Any, name: str, seen: frozenset = frozenset()) -> str | None:
    """The meaning of one argument of a class or function, or None where no docstring gives it.

    Looks at the class, its `__init__` and its base classes. Follows a docstring that hands arguments on by `**others`,
    or only says where to see the meaning.
    """
    if target in seen:
        return None
    handed_on = []
    for source in inspect.getmro(target) if inspect.isclass(target) else [target]:
        if source is object:
            continue
        init = source.__init__ if inspect.isclass(source) and "__init__" in vars(source) else None
        known = arguments_of(source.__doc__ or "") | (arguments_of(init.__doc__ or "") if init else {})
        if known.get(name):
            return followed(source, name, known[name], seen | {target})
        for other, text in known.items():
            if other.startswith("**"):
                handed_on += [found for word in re.findall(r"\w+", text) if (found := look_up(source, word))]
    for other in handed_on:
        if text := described(other, name, seen | {target}):
            return text
    return None


def default_of(target: Any, name: str) -> Any:
    """The default of an argument, also of one that is handed on by `**others`; None where there is none."""
    parameters = inspect.signature(target).parameters
    if name in parameters:
        default = parameters[name].default
        return None if default is inspect.Parameter.empty else default
    for other, text in arguments_of(inspect.getdoc(target) or "").items():
        for word in re.findall(r"\w+", text) if other.startswith("**") else ():
            if (found := look_up(target, word)) and (default := default_of(found, name)) is not None:
                return default
    return None


def followed(source: Any, name: str, text: str, seen: frozenset) -> str:
    """The text, or where it is no more than "see ...", what is said there."""
    if match := SEE.match(text):
        other = look_up(source, match[1])
        if other is not None and other not in seen:
            return described(other, name, seen) or text
    return text


def look_up(source: Any, path: str) -> Any:
    """A class or function by its full name, or by the name it has in the module of another."""
    first, *rest = path.split(".")
    found = getattr(inspect.getmodule(source), first, None)
    if found is None or inspect.ismodule(found):
        words = path.split(".")
        for cut in range(len(words) - 1, 0, -1):
            try:
                found, rest = importlib.import_module(".".join(words[:cut])), words[cut:]
                break
            except ImportError:
                found = None
    for name in rest:
        found = getattr(found, name, None)
    return found if inspect.isclass(found) or inspect.isroutine(found) else None


def summary(thing: Any) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, in Markdown, without a default that a table shows already."""
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    text = re.sub(r"\s*\(default: [^)]*\)|,? defaults? to `?[\w.]+`?", "", text)
    match = re.match(r"(.+?(?<!e\.g)(?<!i\.e)(?<!cf)(?<!etc)(?<!Eq))\.(?=\s+[A-Z`(]|\s*$)", text)
    return (match[1] if match else text).rstrip(".").strip()
