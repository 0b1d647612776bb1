"""`train`: a new run or one that is continued, in one process or several, and its publication; `publish` alone."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands.arguments import (
    add_force,
    add_machine,
    add_models,
    add_recipe,
    add_runs,
    add_track,
    check_track,
    leads,
    load_recipe,
    show,
    threads,
)
from training.errors import LostProcess

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.fit.parallel import Machine
    from training.recipe.schema import Recipe

_LAUNCHED = "CONVOKE_LAUNCHED"  # set in the processes that --processes started


def add(command: argparse.ArgumentParser) -> None:
    """The arguments of `train`."""
    add_recipe(command, nargs="?")
    command.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    add_runs(command)
    command.add_argument(
        "--epochs", metavar="N", help="with --resume: the epochs of the run in all, or +N more, also of a finished run"
    )
    command.add_argument(
        "--processes", type=int, default=1, metavar="N", help="train in N processes of this machine, one for each GPU"
    )
    add_machine(command)
    command.add_argument("--publish", action="store_true", help="publish the run when it is finished")
    add_models(command)
    add_force(command)
    add_track(command)
    command.set_defaults(handler=_train, parser=command)


def add_publish(command: argparse.ArgumentParser) -> None:
    """The arguments of `publish`."""
    command.add_argument("run", type=Path, help="a run's folder, like runs/lenet/20260101-120000")
    add_models(command)
    add_force(command)
    add_track(command)
    command.set_defaults(handler=_publish)


def _train(options: argparse.Namespace) -> None:
    if (options.recipe is None) == (options.resume is None):
        options.parser.error("expected either a recipe or --resume RUN")
    if options.resume and options.set:
        options.parser.error("--set is not allowed with --resume: a run keeps its recipe")
    if options.epochs and not options.resume:
        options.parser.error("--epochs needs --resume RUN; for a new run: --set epochs=N")
    check_track(options)
    recipe, table = load_recipe(options) if options.recipe else (None, "")
    if options.processes > 1 and not is_launched():
        _launch(options)
        return
    import torch  # noqa: PLC0415

    from training.fit import parallel  # noqa: PLC0415
    from training.runs import run  # noqa: PLC0415

    torch.set_num_threads(threads(options))
    folders_of_run: list[Path] = []
    with parallel.connected(lambda: advice_after_loss(folders_of_run)):
        machine = run.find_machine(options.device)
        if recipe is None:
            folders_of_run.append(options.resume)
            _resume(machine, options)
        else:
            show(f"{table}\n")
            _train_new(machine, recipe, options, folders_of_run.append)


def _launch(options: argparse.Namespace) -> None:
    """Start the command again in several processes."""
    if "RANK" in os.environ:
        options.parser.error("--processes is not allowed under torchrun, which starts the processes itself")
    from training.fit import launch  # noqa: PLC0415

    os.environ[_LAUNCHED] = "1"
    launch.launch(["-m", "training", *options.args], options.processes)


def advice_after_loss(folders: list[Path]) -> str:
    """What to do after a process of the training was lost."""
    if not (folders and any(folders[0].glob("*.pt"))):
        return "No epoch was finished: start the training again."
    return f"All finished epochs are saved: start all processes again, with `train --resume {folders[0]}`."


def _train_new(
    machine: "Machine", recipe: "Recipe", options: argparse.Namespace, on_start: Callable[[Path], object]
) -> None:
    from training.data import catalogue  # noqa: PLC0415
    from training.runs import run  # noqa: PLC0415

    data = run.prepare(recipe, machine)
    show("\n".join([*catalogue.summary(data, recipe.labels), ""]))
    folder = run.start(recipe, options.runs, machine)
    on_start(folder)
    show(f"run {folder}; if it stops after its first epoch, continue it with: {_resume_command(folder)}")
    try:
        _finish(machine, folder, options, data)
    except BaseException:
        run.discard_unstarted(folder, machine)
        raise


def _resume(machine: "Machine", options: argparse.Namespace) -> None:
    from training.runs import run  # noqa: PLC0415

    folder: Path = options.resume
    recipe = run.recipe_of(folder)  # an error before the first line of output
    if options.epochs:
        recipe = run.extend(folder, options.epochs, machine)
    show(f"run {folder}, {recipe.epochs} epochs; if it stops, continue it with: {_resume_command(folder)}")
    _finish(machine, folder, options, None)


def _finish(machine: "Machine", folder: Path, options: argparse.Namespace, data: "Dataset | None") -> None:
    """Train a run to its end, say what to do next, and publish it if that is asked for."""
    from training.runs import run, track  # noqa: PLC0415

    try:
        with track.follow(options.track if machine.world.leads else None, folder):
            result = run.train(folder, machine, data)
    except KeyboardInterrupt:
        if any(folder.glob("*.pt")):
            show(f"\nstopped; all finished epochs are saved. Continue with: {_resume_command(folder)}")
        else:
            show("\nstopped before the first epoch was finished; nothing is saved")
        raise
    show(result.summary(run.recipe_of(folder).gate))
    if result.folds:
        return
    if not options.publish:
        show(f"publish this run with: python -m training publish {folder}")
    elif machine.world.leads:
        _publish(argparse.Namespace(run=folder, **{key: getattr(options, key) for key in ("models", "force", "track")}))


def _resume_command(folder: Path) -> str:
    return f"python -m training train --resume {folder}"


def _publish(options: argparse.Namespace) -> None:
    check_track(options)
    from training.release.publish import publish  # noqa: PLC0415
    from training.runs import track  # noqa: PLC0415

    version = publish(options.run, options.models, force=options.force)
    with track.follow(options.track, options.run) as tracker:
        if tracker is not None:
            tracker.published(version)
    show_published(version)


def show_published(version: Path) -> None:
    """Say what was published, and how to measure it."""
    print(f"published {version}; measure it with: python -m training evaluate {version}")


def reports(error: Exception) -> bool:
    """Whether this process reports an error, so that it is printed once, whatever the number of processes."""
    return not is_launched() and (leads() or (isinstance(error, LostProcess) and _is_first_left(error)))


def _is_first_left(error: LostProcess) -> bool:
    """Whether no process of this machine with a lower number is left, so that one on each machine reports the loss."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    first = int(os.environ.get("RANK", "0")) - local
    return all(rank in error.ranks for rank in range(first, first + local))


def is_launched() -> bool:
    """Whether this is a process of `train --processes N`, whose first process reports errors."""
    return "RANK" in os.environ and _LAUNCHED in os.environ
