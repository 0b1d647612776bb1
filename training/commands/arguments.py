"""Arguments and output that several commands share."""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from contract import processors
from training.data import folders
from training.data import schema as data
from training.errors import RunError
from training.recipe import schema, shapes


def add_recipe(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """A recipe by its name or path, and `--set`."""
    names = ", ".join(schema.names())
    command.add_argument("recipe", nargs=nargs, help=f"the name of a recipe ({names}) or a path ending in .toml")
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """`--set KEY=VALUE`."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, like optimiser.name=adagrad or layers[1].kernel=3; KEY= unsets it; repeatable",
    )


def add_runs(command: argparse.ArgumentParser) -> None:
    """`--runs FOLDER`."""
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (default: %(default)s/)")


def add_machine(command: argparse.ArgumentParser) -> None:
    """`--threads` and `--device`."""
    command.add_argument("--threads", type=int, help="processor threads (default: this process's share of the cores)")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto uses CUDA if available (default: auto)"
    )


def add_track(command: argparse.ArgumentParser) -> None:
    """`--track`."""
    command.add_argument(
        "--track",
        choices=["mlflow"],
        help="send parameters, curves and version to MLflow, to the server or folder in MLFLOW_TRACKING_URI",
    )


def check_track(options: argparse.Namespace) -> None:
    """Refuse a tracker whose package is missing.

    Raises:
        RunError: it says how to install the package.
    """
    if options.track == "mlflow" and find_spec("mlflow") is None:
        raise RunError("--track mlflow: MLflow is not installed; pip install 'mlflow-skinny>=3.1' adds it")


def add_models(command: argparse.ArgumentParser) -> None:
    """`--models FOLDER`."""
    command.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of all models (default: %(default)s/)"
    )


def add_force(command: argparse.ArgumentParser) -> None:
    """`--force`."""
    command.add_argument(
        "--force", action="store_true", help="publish even if the model is worse than the version in service"
    )


def load_recipe(options: argparse.Namespace) -> tuple[schema.Recipe, str]:
    """The recipe of a command, with the table of its layers.

    All that can be checked without torch is, since torch takes seconds to import.

    Raises:
        RecipeError: the recipe is unknown or wrong, or its network cannot be built.
        DataError: the data are missing.
    """
    recipe = schema.load(options.recipe, options.set, show=show)
    table = shapes.table(recipe)
    data.check(recipe.data, recipe.input, recipe.labels)
    folders.check_present(recipe.data.name, recipe.data.path)
    return recipe, table


def threads(options: argparse.Namespace) -> int:
    """The threads to compute with; the processes of torchrun share the cores of a machine."""
    share = max(processors.count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    return max(options.threads or share, 1)


def leads() -> bool:
    """Whether this process is the first of those that train together."""
    return os.environ.get("RANK", "0") == "0"


def show(text: str) -> None:
    """Print a text once, whatever the number of processes."""
    if leads():
        print(text, flush=True)
