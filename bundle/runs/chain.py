"""Running one of the bundle's configs from within another, as a command line would; and what that line would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

# Of a clone, which is the bundle. An installed package has the configs inside, and its folder then is the root.
PACKAGE, CLONE = Path(__file__).resolve().parents[1:3]
ROOT = CLONE if (CLONE / "configs" / "metadata.json").is_file() else PACKAGE
CONFIGS = ROOT / "configs"


def run_config(name: str, run_id: str = "run", **settings: Any) -> None:
    """Runs `configs/<name>` with settings in place of its defaults, in this process.

    Args:
        name: file name of a config of this bundle, such as "inference.json".
        run_id: what of it to run.
        settings: plain values by the names of the flags.

    Raises:
        ValueError: no such config, or a setting that MONAI would evaluate: settings may come out of a file.
    """
    available = sorted(path.name for path in CONFIGS.glob("*.json"))
    if name not in available:
        raise ValueError(f"there is no config {name!r}; the bundle has {', '.join(available)}")
    for setting, value in settings.items():
        if not is_inert(value):
            raise ValueError(f"--{setting} is {value!r}: only plain values can be handed on to {name}")
    kind = "infer" if name.endswith("inference.json") else "train"
    workflow = ConfigWorkflow(
        config_file=str(CONFIGS / name),
        run_id=run_id,
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(ROOT),
        **settings,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def command(config: str, run_id: str = "", **settings: Any) -> str:
    """The command line that runs a config with settings, from the current directory; those that are None are left out.

    Args:
        config: its file name in `configs/`; or that of a tool of `scripts/`, whose first argument `run_id` then is.
        run_id: what of the config to run.
        settings: values by the names of the flags.
    """
    flags = [f"--{name} {value}" for name, value in settings.items() if value is not None]
    if config.endswith(".py"):
        return " ".join([f"python {from_here(ROOT / 'scripts' / config)}", run_id, *flags])
    path = from_here(CONFIGS / config)
    flags += [f"--bundle_root {ROOT}"] if Path(path).is_absolute() else []
    return " ".join(["python -m monai.bundle run", *filter(None, [run_id]), f"--config_file {path}", *flags])


def from_here(path: Path) -> str:
    """A path of the bundle as a command line names it: relative in the bundle's root, absolute elsewhere."""
    return path.relative_to(ROOT).as_posix() if Path.cwd() == ROOT else str(path)


def is_inert(value: Any) -> bool:
    """Whether a value is plain data of which MONAI evaluates nothing."""
    if isinstance(value, dict):  # "_target_" and its like would make it a component
        return all(isinstance(name, str) and not name.startswith("_") for name in value) and is_inert([*value.values()])
    if isinstance(value, (list, tuple)):
        return all(map(is_inert, value))
    if isinstance(value, str):
        return not value.lstrip().startswith(("$", "@", "%"))
    return value is None or isinstance(value, (bool, int, float))
