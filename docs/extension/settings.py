"""What the configs let a user set, run and find afterwards, read out of the configs and of docstrings.

Nothing here knows a setting by name, so the tables follow the configs.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from extension.docstrings import default_of, described, first_sentence, look_up, summary
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator
from monai.utils import optional_import

from bundle.runs.workflow import taken_by_name

# Ids that MONAI reads, or that belong to the config's own working.
INNER = {"description", "bundle_root", "imports", "initialize", "run", "finalize", "demo", "next_command"}
INNER |= {"save_execute_config", "handlers"}
REFERENCE = re.compile(r"@(?:#|::)*(\w+(?:(?:#|::)\w+)*)")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NOT_CONFIGS = {"metadata.json"}
PLUMBING = {"keys", "setting", "part", "handlers"}  # how parts of a config find each other, and nothing to be set
RUNNERS = (".run_stages", ".run_config")
locator = ComponentLocator()


@dataclass
class Setting:
    """A value that a config has: where it stands, and to which arguments it goes."""

    name: str  # "seed", or "train#optimizer#betas"
    content: Any
    wired: list[tuple[str, str, str]] = field(default_factory=list)  # target, argument, place in the config


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def configs(folder: Path) -> dict[str, dict[str, Any]]:
    """Configs that can be run, by file name."""
    found = {path.name: read(path) for path in sorted(folder.glob("*.json")) if path.name not in NOT_CONFIGS}
    return {name: content for name, content in found.items() if "run" in content}


def overlays(folder: Path) -> dict[str, dict[str, Any]]:
    """Files of settings alone, laid over a config by `--config_file "[...]"` or read by one."""
    found = {path.name: read(path) for path in sorted(folder.glob("*.json")) if path.name not in NOT_CONFIGS}
    return {name: content for name, content in found.items() if "run" not in content}


def mentions(content: Any) -> set[str]:
    """What a part of a config refers to: "id", or "section#item" where an item of a section is meant."""
    return {found.replace("::", "#") for found in REFERENCE.findall(json.dumps(content, default=str))}


def references(content: Any) -> set[str]:
    """Likewise, by the top-level ids alone."""
    return {found.split("#")[0] for found in mentions(content)}


def is_built(config: dict[str, Any], name: str, seen: frozenset = frozenset()) -> bool:
    """Whether an id stands for an object or for a section, so that no command line could give it."""
    content = config.get(name)
    if isinstance(content, str):
        if any("_target_" in json.dumps(at(config, place)) for place in mentions(content) if "#" in place):
            return True  # made of an object in a section
        return any(is_built(config, other, seen | {name}) for other in made_of(config, content) - seen - {name})
    if not isinstance(content, (dict, list)):
        return False
    plain = "_target_" not in json.dumps(content) and not references(content)
    return not plain or (isinstance(content, dict) and any(m.startswith(f"{name}#") for m in mentions(config)))


def made_of(config: dict[str, Any], expression: str) -> set[str]:
    """Ids of whose objects an expression is made; of plain dictionaries and items of sections it only takes values."""
    whole = {name for name in mentions(expression) if "#" not in name}
    return {name for name in whole if isinstance(config.get(name), str) or "_target_" in json.dumps(config.get(name))}


def at(config: dict[str, Any], place: str) -> Any:
    """What stands at a place such as "train#optimizer"; None where nothing does."""
    content: Any = config
    for key in place.split("#"):
        if isinstance(content, list) and key.isdigit() and int(key) < len(content):
            content = content[int(key)]
        else:
            content = content.get(key) if isinstance(content, dict) else None
    return content


def read_by_name(config: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Settings that functions take by name wherever they are given: target, argument, place of the component."""
    for name, content in config.items():
        if isinstance(content, dict) and "_target_" in content:
            for argument in sorted(taken_by_name(content)):
                yield content["_target_"], argument, name


def unlisted(config: dict[str, Any]) -> list[Setting]:
    """Flags that a config does not list, as their default is that of the function which takes them by name."""
    found: dict[str, Setting] = {}
    for target, argument, place in read_by_name(config):
        if argument not in config:
            setting = found.setdefault(argument, Setting(argument, default_of(resolve(target), argument)))
            setting.wired.append((target, argument, place))
    return list(found.values())


def flags(config: dict[str, Any]) -> list[Setting]:
    """Top-level ids that a user sets by `--id value`."""
    inner = INNER | run_ids(config)
    outer = [name for name in config if name not in inner and name[:1] != "_" and not is_built(config, name)]
    found = [Setting(name, config[name]) for name in outer]
    for setting in found:
        setting.wired = wirings(config, setting.name)
    return found


def run_ids(config: dict[str, Any]) -> set[str]:
    """Ids made for `run ID`, which nothing else in the config refers to."""
    found = {name for name, content in config.items() if content == "@run"}
    for name, content in config.items():
        if "run_stages" in json.dumps(content) or "run_config" in json.dumps(content):
            found.add(name)
    return found


def walk(content: Any, place: str = "", target: str = "", argument: str = "") -> Iterator[tuple[str, str, str, Any]]:
    """Every leaf of a config with the component whose argument it is, and the argument's name."""
    if isinstance(content, dict):
        own = content.get("_target_")
        for name, value in content.items():
            inner = f"{place}#{name}" if place else name
            if own:
                yield from walk(value, inner, own, name)
            else:  # a plain dictionary: an item of a component's argument, or a section
                yield from walk(value, inner, target, argument or name)
    elif isinstance(content, list) and any(isinstance(item, (dict, list)) or is_reference(item) for item in content):
        for number, value in enumerate(content):
            yield from walk(value, f"{place}#{number}", target, argument)
    else:
        yield place, target, argument, content


def wirings(config: dict[str, Any], name: str) -> list[tuple[str, str, str]]:
    """Where a setting goes: to who takes it by name, then to trainers, other components, their items, expressions."""
    exact, items, within = [], [], []
    by_name = [wired for wired in read_by_name(config) if wired[1] == name]
    for place, target, argument, value in walk(config):
        if not isinstance(value, str) or place.split("#")[0] in ("initialize", name):
            continue
        last = place.split("#")[-1]
        if value.replace("::", "#") == f"@{name}":
            if target and argument != last:  # an item of an argument that is a dictionary or a list
                items += [(target, last, place), (target, argument, place)]
            else:
                exact.append((target, argument, place))
        elif value.startswith("$") and name in mentions(value):
            within.append((target, argument, place))
            within.sort(key=lambda wired: len(mentions(at(config, wired[2]))))  # what is made of it alone comes first
    exact.sort(key=lambda wired: not wired[0].endswith("Trainer"))
    return by_name + exact + items + within


@cache
def resolve(target: str) -> Any:
    """The class or function that `_target_` names, as MONAI finds it; None where it cannot."""
    if "." not in target:
        modules = locator.get_component_module_name(target)
        module = modules[0] if isinstance(modules, list) else modules
        if module is None:
            return None
    else:
        module, target = target.rsplit(".", 1)
    found, there = optional_import(module, name=target)
    return found if there else None


def meaning(config: dict[str, Any], setting: Setting) -> str:
    """One sentence of the docstring of an argument that the setting goes to, else the place where it goes."""
    for target, argument, place in setting.wired:
        component = at(config, place.rpartition("#")[0]) if "#" in place else config
        component = component if isinstance(component, dict) else {}
        if place.endswith("#value") and isinstance(component.get("options"), dict):
            return "one of " + ", ".join(f"`{option}`" for option in component["options"])
        if target.endswith(".run_config") and (other := CONFIGS / str(component.get("name"))).is_file():
            handed_on = read(other)  # a config that runs another one
            return meaning(handed_on, Setting(argument, None, wirings(handed_on, argument)))
        thing = resolve(target) if target and ".check_" not in target else None
        if thing is not None and argument == "_disabled_":
            return f"switches: {first_sentence(summary(thing))}"
        if thing is not None and (text := described(thing, argument)):
            return first_sentence(text)
    places = [place for _, _, place in setting.wired if place != setting.name]
    return f"goes to `{places[0]}`" if places else ""


def deep_settings(config: dict[str, Any]) -> list[Setting]:
    """Values inside sections and components, which are set as `--section#item#name value`."""
    found, named = [], mentions(config)
    left_out = INNER | {setting.name for setting in flags(config)}
    for name, content in config.items():
        if name in left_out or not isinstance(content, (dict, list)):
            continue
        for place, target, argument, value in walk(content, name):
            last = place.split("#")[-1]
            if last.startswith("_") or last in PLUMBING or target.endswith(RUNNERS) or not is_value(config, value):
                continue
            if target or place in named:
                found.append(Setting(place, value, [*wirings(config, place), (target, argument, place)]))
    return found


def is_value(config: dict[str, Any], content: Any) -> bool:
    """Whether a leaf is a value or an expression of values, and neither another item's nor made of an object."""
    if not is_reference(content):
        return True
    return content.startswith("$") and not any(is_built(config, name) for name in made_of(config, content))


def is_reference(value: Any) -> bool:
    return isinstance(value, str) and (value.startswith("$") or value.startswith("@"))


class Defaults:
    """Values of a config's settings as a run would find them, with built-in patches and with patches of one's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.built_in = self._parser()
        self.own = self._parser(dataset_dir="PATH")

    def _parser(self, **settings: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(str(self.path))
        parser["bundle_root"] = str(self.path.resolve().parents[1])
        for name, value in settings.items():
            if name in parser:
                parser[name] = value
        return parser

    def text(self, setting: Setting) -> str:
        content = setting.content
        if not is_reference(content):
            return shown(content)
        if "cuda" in content:
            return "the GPU if there is one, else the CPU"
        try:
            built_in = self.built_in.get_parsed_content(setting.name)
            own = built_in if setting.name == "dataset_dir" else self.own.get_parsed_content(setting.name)
        except Exception:  # an expression that needs what only a run has
            return f"`{content}`"
        text = shown(own) if own == built_in else f"{shown(own)} (built-in patches: {shown(built_in)})"
        depends = sorted(references(content) - INNER - {"dataset_dir"})
        return text + (", from " + ", ".join(f"`--{name}`" for name in depends) if depends else "")

    def own_text(self, name: str) -> str:
        """The value with patches of one's own of any item of the config; empty where it is a part of no setting."""
        try:
            return shown(self.own.get_parsed_content(name, instantiate=False))
        except Exception:
            return ""


def shown(value: Any) -> str:
    return "none" if value is None else f"`{value!r}`" if not isinstance(value, str) else f"`{value}`"


def runs(config: dict[str, Any]) -> list[tuple[str, list[str], list[str]]]:
    """What `run ID` can be given, with the components that do its work, and the files that it says it leaves."""
    named: dict[str, Any] = {}
    for name in ["run", *sorted(run_ids(config) - {"run"})]:
        content = config.get(name)
        while isinstance(content, str) and content[1:] in config:
            content = config[content[1:]]
        named[name] = content
    found = []
    for name, content in named.items():
        targets = list(dict.fromkeys(stages(config, content)))
        found.append((name, targets, list(dict.fromkeys(file for target in targets for file in results(target)))))
    return found


def stages(config: dict[str, Any], content: Any) -> Iterator[str]:
    """Targets of the components that a run begins with: of `run_stages` its stages, else of what it refers to."""
    if isinstance(content, list):
        for item in content:
            yield from stages(config, item)
    elif isinstance(content, dict) and "stages" in content:
        yield from stages(config, content["stages"])
    elif isinstance(content, dict) and str(content.get("_target_")).endswith(".run_config"):
        other = read(CONFIGS / content["name"])
        yield from stages(other, other["run"])
    elif isinstance(content, dict) and "_target_" in content:
        work = content.get("work", "")
        inner = list(stages(config, work)) if isinstance(work, (dict, str)) else []
        yield from inner or [content["_target_"]]
    elif isinstance(content, dict):  # a section with a part that can be run by itself
        yield from stages(config, content.get("run"))
    elif isinstance(content, str):
        for name in REFERENCE.findall(content):
            found = at(config, name.replace("::", "#"))
            yield from stages(config, found) if isinstance(found, (dict, list)) or is_reference(found) else ()


def results(target: str) -> list[str]:
    """Files that a stage says it leaves: its pictures, and its artefact `<stage>.pt`."""
    thing = resolve(target)
    if inspect.isfunction(thing):  # that makes several of a kind, and says of which
        for word in re.findall(r"\w+", str(inspect.signature(thing).return_annotation)):
            thing = look_up(thing, word) or thing
    stage = getattr(thing, "stage", "") or (f"{thing.section}_*" if getattr(thing, "section", "") else "")
    artefact = [f"{stage}.pt"] if stage and hasattr(thing, "artefact_path") else []
    return [*getattr(thing, "pictures", ()), *artefact]
