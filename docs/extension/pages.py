"""Pages of the reference that are written at each build: a page for each config and one for each room of `bundle/`."""

from __future__ import annotations

import shutil
from pathlib import Path

from extension import settings
from extension.docstrings import first_sentence, summary

# In the order in which they import each other: each room may use those before it.
ROOMS = (
    "runs data slides diffusion models metrics training synthesis selection downstream evaluation reading report zoo "
    "baselines"
).split()


def write_pages(root: Path, folder: Path) -> None:
    """Writes all of them into `folder`, which is emptied first where something has changed."""
    pages = {"overlays.md": overlay_page(root / "configs")}
    for name, config in settings.configs(root / "configs").items():
        pages[f"{Path(name).stem}.md"] = config_page(root / "configs" / name, config)
    for room in rooms(root / "bundle"):
        pages[f"api_{room}.md"] = room_page(root / "bundle" / room, room)
    if folder.is_dir() and {path.name for path in folder.glob("*.md")} != pages.keys():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:  # else Sphinx would read it anew
            path.write_text(text, encoding="utf-8")


def config_page(path: Path, config: dict) -> str:
    said, _, command = str(config.get("description", "")).partition(": python ")
    lines = [f"# configs/{path.name}", "", f"{said.rstrip('.')}.", ""]
    if command:
        lines += ["```", f"python {command}", "```", ""]
    defaults = settings.Defaults(path)
    lines += ["## Flags", ""]
    flags = settings.flags(config)
    rows = [(f"`--{flag.name}`", defaults.text(flag), settings.meaning(config, flag)) for flag in flags]
    lines += table(("flag", "default", "meaning"), rows)
    if further := settings.unlisted(config):
        lines += ["These work too. The file does not list them, as it leaves them at their defaults.", ""]
        rows = [(f"`--{flag.name}`", settings.shown(flag.content), settings.meaning(config, flag)) for flag in further]
        lines += table(("flag", "default", "meaning"), rows)
    lines += ["## What can be run", ""]
    rows = []
    for name, stages, files in settings.runs(config):
        what = [first_sentence(summary(thing)) for stage in stages if (thing := settings.resolve(stage)) is not None]
        shown = "`run`" if name == "run" else f"`run {name}`"
        rows.append((shown, "; ".join(dict.fromkeys(what)), ", ".join(f"`{file}`" for file in files) or "its folder"))
    lines += table(("command", "does", "names as its results"), rows)
    deep = settings.deep_settings(config)
    if deep:
        lines += ["## Settings below the top level", "", "[How to set them](../settings.md).", ""]
        rows = [(f"`--{one.name}`", defaults.text(one), settings.meaning(config, one)) for one in deep]
        lines += table(("setting", "value", "meaning"), rows)
    return "\n".join(lines)


def overlay_page(folder: Path) -> str:
    configs = settings.configs(folder)
    lines = ["# Overlays and presets", "", "Files of settings that are laid over a config, or that a config reads.", ""]
    for name, content in settings.overlays(folder).items():
        if any(key.startswith("+") for key in content):  # added to whatever a config has
            keys = ", ".join(f"`{key.lstrip('+')}`" for key in content)
            lines += [f"## configs/{name}", "", f"For every config that trains. It adds to {keys}.", ""]
            continue
        over = fitting(content, configs)
        lines += [f"## configs/{name}", "", f"Values for `configs/{over}`.", ""]
        defaults = settings.Defaults(folder / over)
        rows = [(f"`{key}`", settings.shown(value), defaults.own_text(key)) for key, value in content.items()]
        lines += table(("setting", "here", "in the config"), rows)
    return "\n".join(lines)


def fitting(overlay: dict, configs: dict[str, dict]) -> str:
    """The config that has most of an overlay's settings."""

    return max(configs, key=lambda name: sum(key.split("#")[0] in configs[name] for key in overlay))


def rooms(package: Path) -> list[str]:
    """Rooms in the order of their imports; one that is not known yet comes last."""
    there = {path.parent.name for path in package.glob("*/__init__.py")}
    return [room for room in ROOMS if room in there] + sorted(there - set(ROOMS))


def room_page(folder: Path, room: str) -> str:
    lines = [f"# bundle.{room}", ""]
    for path in sorted(folder.rglob("*.py")):
        if path.name == "__init__.py":
            continue
        module = ".".join(["bundle", *path.relative_to(folder.parent).with_suffix("").parts])
        inner = module.removeprefix(f"bundle.{room}.")
        lines += [f"## {inner}", "", "```{eval-rst}", f".. automodule:: {module}", "```", ""]
    return "\n".join(lines)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in rows]
    return [*lines, ""]


def escaped(cell: str) -> str:
    """Text that Markdown leaves as it is within a table; code between backticks needs only its bars escaped."""
    parts = cell.replace("|", "\\|").split("`")
    plain = [
        part.replace("*", "\\*").replace("<", "&lt;") if place % 2 == 0 else part for place, part in enumerate(parts)
    ]
    return "`".join(plain)
