"""What MONAI's config runner leaves to the bundle: refusing unknown settings, and keeping the executed config.

MONAI accepts any `--flag value` and ignores those nobody reads; and it hands its configs no way to see themselves. The
config calls :func:`begin` from `initialize`, and the functions here find the running parser in the call stack that
leads to them, which is the only place MONAI keeps it.
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import os
import pydoc
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from monai.bundle import ConfigParser

from bundle.runs.chain import CONFIGS
from bundle.runs.checks import COUNT, check_counts, check_value
from bundle.runs.processes import choose_gpu
from bundle.runs.versions import check_package, check_versions

logger = logging.getLogger(__name__)

# Ids that MONAI or a reader takes by name, so that no `@id` needs to point at them.
READ_BY_NAME = {
    "description", "imports", "bundle_root", "initialize", "run", "training", "inference", "finalize", "_meta_",
    "save_execute_config", "train", "validate", "network_def",
}  # fmt: skip
FIRST_SAYS = 3  # seconds
Made = TypeVar("Made")
REFERENCE = re.compile(r"@(?:::|#)*(\w+)(?:(?:::|#)(\w+))?")


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
    """Ids that a part of a config refers to: "id" for `@id`, "section::item" for `@section#item` and all below it."""
    found = REFERENCE.findall(json.dumps(content, default=str))
    return {f"{section}::{item}" if item else section for section, item in found}


def begin(config: str, demo: str | None = None) -> None:
    """What each config does first: refuses settings that can't be meant, and lays the demo over built-in patches.

    Args:
        config: file name of the config in `configs/`.
        demo: file name of the overlay there that applies where no `dataset_dir` is given.

    Raises:
        RuntimeError: MONAI or torch is too old.
        ValueError: more processes of a torchrun than GPUs.
        ImportError: another copy or version of this bundle was imported.
        ValueError: see :func:`check_settings`.
    """
    explain_errors_of_the_command_line()
    check_versions()
    choose_gpu()
    parser = running_parser()
    if parser is None:
        return
    check_package(parser)
    follow_none(parser)
    follow_tracking(parser)
    if demo is not None and parser["dataset_dir"] is None:
        lay_over(parser, *(ConfigParser.load_config_file(CONFIGS / name) for name in (config, demo)))
    check_settings(parser)


def lay_over(parser: ConfigParser, defaults: dict[str, Any], overlay: dict[str, Any]) -> None:
    """Takes from an overlay the settings that are still as the config has them; those that a user gave stay.

    One given on the command line stays also where it is the default. From Python it is not told from the default.
    """
    base = ConfigParser(defaults)
    given = {
        argument.lstrip("-").split("=")[0].replace("::", "#") for argument in sys.argv[1:] if argument.startswith("--")
    }
    taken = {name: value for name, value in overlay.items() if parser[name] == base[name] and name not in given}
    parser.update(taken)
    shown = ", ".join(f"{name} {value}" for name, value in taken.items())
    logger.info(f"built-in patches, so the settings of a short demo: {shown or 'none, all were given'}")


def check_settings(parser: ConfigParser) -> None:
    """Refuses a config with a setting that nothing reads, such as a misspelt flag of the command line.

    Looks at top-level ids and at the items of plain sections such as `train`; below that MONAI itself complains, and
    only numbers of something are looked at here.

    Raises:
        ValueError: names each such setting and the one it may be meant for; or a setting that is the text "true" or
            "false", as the command line makes of these, where Python's True or False is meant; or what
            :func:`bundle.runs.checks.check_value` refuses.
    """
    config = parser.get()
    for name, content in config.items():
        if isinstance(content, str) and content.lower() in ("true", "false"):  # any text would count as true
            raise ValueError(f"--{name} is the text {content!r}: write {content.capitalize()}")
    read = READ_BY_NAME | {name for name, content in config.items() if is_component(content)}
    for component in components(config):
        read |= taken_by_name(component)
    for name, content in config.items():
        read |= references(content) - {name}
    # Who reads an item reads its section, and a section is a dictionary whose items are read one by one.
    sections = {name.split("::")[0] for name in read if "::" in name}
    known = read | sections
    names, options = list(config), list(config)
    for section in sections & config.keys():
        if isinstance(config[section], dict) and "_target_" not in config[section]:
            names += [f"{section}::{item}" for item, content in config[section].items() if not is_component(content)]
            options += [f"{section}::{item}" for item in config[section]]
    unread = [name for name in names if name not in known]
    if unread:
        hints = []
        below = [place for part in config for place, _ in values_below(config[part], part)]
        for name in unread:
            close = [place for place in below if place.endswith(f"#{name}")]  # few change it, so it is no flag
            close = close or difflib.get_close_matches(name, [key for key in options if key not in unread], n=1)
            hints.append(f"--{name}" + (f" (did you mean --{close[0]}?)" if close else ""))
        settings = sorted(
            {name for name, content in config.items() if name in known and is_setting(content)}.union(
                *map(taken_by_name, components(config))
            )
        )
        raise ValueError(
            f"nothing reads the setting {', '.join(hints).replace('::', '#')}. The settings of this config are: "
            f"{', '.join(settings)}"
        )
    expressions = {name for name, content in config.items() if is_reference(content)}
    for name in config.keys() - expressions:  # first, as expressions are made of them
        check_value(name, config[name])
    for name in expressions:
        if name == "device" or COUNT.search(name):
            check_value(name, parser.get_parsed_content(name))
    for name in config.keys() - {"_meta_"}:
        for place, value in values_below(config[name], name):
            check_value(place, value)


def values_below(content: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Flags and values of what a section holds itself: no references, no expressions."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in items:
        if isinstance(value, (dict, list)):
            yield from values_below(value, f"{place}#{name}")
        elif not is_reference(value):
            yield f"{place}#{name}", value


def is_reference(content: Any) -> bool:
    """Whether a config item is `@id` or an expression."""
    return isinstance(content, str) and content[:1] in ("@", "$")


def components(content: Any) -> Iterator[dict[str, Any]]:
    """All parts of a config that something is built of."""
    if isinstance(content, dict):
        yield from (content,) if "_target_" in content else ()
        content = list(content.values())
    for part in content if isinstance(content, list) else ():
        yield from components(part)


def is_component(content: Any) -> bool:
    """Whether something is built of this part of a config, which no `@id` then needs to point at."""
    return next(components(content), None) is not None


def follow_none(parser: ConfigParser) -> None:
    """Takes `--flag None` of the command line as meant: MONAI drops it, and the config's own value would stay."""
    if sys.argv[0].endswith("__main__.py"):
        arguments = [argument for given in sys.argv[1:] for argument in given.split("=", 1)]
        for flag, value in zip(arguments, arguments[1:]):
            if flag.startswith("--") and value == "None" and flag[2:] in parser:
                parser[flag[2:]] = None


def follow_tracking(parser: ConfigParser) -> None:
    """Has every stage of a config tracked where MONAI's `--tracking mlflow` is given, which knows of one trainer only.

    Raises:
        ValueError: the config has no stage of its own.
    """
    if "is_not_rank0" not in parser:  # which MONAI adds with its tracking
        return
    if not any("mlflow_tracking_uri" in taken_by_name(component) for component in components(parser.get())):
        raise ValueError(
            "--tracking: this config has no stage of its own that could be tracked. Give --mlflow_tracking_uri to the "
            "configs that it runs"
        )
    if parser.get("mlflow_tracking_uri") is None:
        parser["mlflow_tracking_uri"] = "@tracking_uri"


def check_sizes(
    patch_size: int,
    autoencoder_channels: list[int],
    diffusion_channels: list[int],
    timesteps: int,
    num_inference_steps: int,
) -> None:
    """Refuses sizes that would fail only after an hour, when the second network first meets a latent.

    Raises:
        ValueError: names the value and what it must be.
    """
    check_counts(num_inference_steps=num_inference_steps)
    if num_inference_steps > timesteps:
        raise ValueError(
            f"--num_inference_steps is {num_inference_steps}; it must be at most the {timesteps} "
            "--noise_schedule#timesteps"
        )
    # Each level but the first halves the side, in the autoencoder and again in the diffusion model.
    factor = 2 ** (len(autoencoder_channels) - 1)
    multiple = factor * 2 ** (len(diffusion_channels) - 1)
    if not isinstance(patch_size, int) or patch_size < multiple or patch_size % multiple:
        raise ValueError(
            f"--patch_size is {patch_size!r}; it must be a multiple of {multiple}: the autoencoder's "
            f"{len(autoencoder_channels)} levels reduce by {factor}, the diffusion model's {len(diffusion_channels)} "
            f"by {multiple // factor} more"
        )


def choose(setting: str, value: str, options: dict[str, Any]) -> Any:
    """The option that a setting names.

    Raises:
        ValueError: it names none; says which there are.
    """
    if value not in options:
        raise ValueError(f"--{setting} is {value!r}; it must be one of {', '.join(options)}")
    return options[value]


def is_setting(content: Any) -> bool:
    """Whether a config item is a plain value or expression rather than a section or a component."""
    if isinstance(content, list):
        return bool(content) and all(map(is_number, content))
    return not isinstance(content, dict)


def is_number(content: Any) -> bool:
    return isinstance(content, (int, float))


def by_name(*names: str) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    """A decorator: the function takes these top-level settings of the running config where they are not given to it.

    So a config need not list a setting that many configs share, and its flag is there all the same.
    """

    def decorate(function: Callable[..., Made]) -> Callable[..., Made]:
        @functools.wraps(function)
        def made(*arguments: Any, **given: Any) -> Made:
            parser = running_parser()
            listed = () if parser is None else [name for name in names if name in parser and name not in given]
            return function(*arguments, **{name: parser.get_parsed_content(name) for name in listed}, **given)

        made.by_name = frozenset(names)
        return made

    return decorate


def taken_by_name(component: dict[str, Any]) -> set[str]:
    """The top-level settings that a component's function takes by their names: those that are not given to it."""
    target = str(component["_target_"])
    if not target.startswith("bundle."):  # of MONAI's short names a module in the current folder could be imported
        return set()
    return set(getattr(pydoc.locate(target), "by_name", ())) - component.keys()


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


def explain_errors_of_the_command_line() -> None:
    """Under `python -m monai.bundle`, ends an error with its cause.

    MONAI wraps whatever goes wrong in "Failed to evaluate ConfigExpression", which is what a terminal would show last.
    """
    if not sys.argv[0].endswith("__main__.py") or sys.excepthook is not sys.__excepthook__:
        return

    def explain(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        sys.__excepthook__(kind, error, traceback)
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        rank = os.environ.get("RANK", "0")
        of = "" if rank == "0" else f"process {rank}: "
        print(f"\n{of}{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        if of:
            time.sleep(FIRST_SAYS)  # torchrun ends all when one ends, and the first may have more to say

    sys.excepthook = explain
