"""Train networks, measure them and publish them as models.

A recipe is a TOML file with all settings of an experiment. The recipes of Convoke are in training/recipes/, and
--set KEY=VALUE overrides a key. The environment variable CONVOKE_DATA names the folder of the data sets; the
default is data/.

  python -m training new flowers PATH                   look at data of your own and write recipes/flowers.toml
  python -m training data mnist                         download a data set and verify it
  python -m training shapes lenet                       print what each layer computes
  python -m training train lenet                        train; the run is saved in runs/lenet/TIME/
  python -m training train --resume runs/lenet/TIME     continue a run that was stopped
  python -m training train --resume RUN --epochs +10    give a run 10 more epochs, also if it is finished
  python -m training compare runs/lenet/*               compare the metrics and the recipes of runs
  python -m training publish runs/lenet/TIME            export, check and write models/NAME/VERSION/
  python -m training evaluate models/NAME/1             measure a published model on its test splits
  python -m training quantise models/NAME/1             write the next version, with a variant in int8
  python -m training reference models/NAME/1            write the histograms that the service compares its work with
  python -m training adopt FILE.onnx --labels a,b       publish an ONNX classifier that was made elsewhere
  python -m training inspect models/NAME/1              print the contents of a run or a published model

  python -m training train lenet --processes 2          train in two processes, each on its own GPU if there are any
"""

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from contract import processors
from training.data import folders, schema
from training.errors import LostProcess, RunError, TrainingError
from training.recipe import schema as recipes
from training.recipe import shapes
from training.release import arguments
from training.runs import compare

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.fit.parallel import Machine

_LAUNCHED = "CONVOKE_LAUNCHED"  # set in the processes that --processes started

# Handlers import torch and onnx themselves: they take seconds, which --help, shapes and compare do not need.


def main(args: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 after an error that the user can fix, or 130 after Ctrl-C."""
    args = sys.argv[1:] if args is None else args
    options = _parser().parse_args(args, argparse.Namespace(args=args))
    try:
        options.handler(options)
    except TrainingError as error:
        _report(error)
        return 2
    except KeyboardInterrupt:
        if _leads() and not _is_launched():
            print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, like head, has all that it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    _add_new(commands.add_parser("new", help="look at data of your own and write a recipe for them"))

    command = commands.add_parser("data", help="list, download and verify data sets")
    command.add_argument("name", nargs="?", help="the name of a data set (default: list all)")
    command.add_argument("--no-download", action="store_true", help="only verify the files on the disk")
    command.set_defaults(handler=_data)

    command = commands.add_parser("shapes", help="print the layers of a recipe: shapes, formulas, parameters, costs")
    _add_recipe(command)
    command.set_defaults(handler=_shapes)

    command = commands.add_parser("train", help="train a recipe, with a checkpoint after each epoch")
    _add_recipe(command, nargs="?")
    command.add_argument("--resume", type=Path, metavar="RUN", help="continue the run in this folder")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (default: %(default)s/)")
    command.add_argument(
        "--epochs", metavar="N", help="with --resume: the epochs of the run in all, or +N more, also of a finished run"
    )
    command.add_argument(
        "--processes", type=int, default=1, metavar="N", help="train in N processes of this machine, one for each GPU"
    )
    command.add_argument("--threads", type=int, help="processor threads (default: this process's share of the cores)")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto uses CUDA if available (default: auto)"
    )
    command.add_argument("--publish", action="store_true", help="publish the run when it is finished")
    _add_models(command)
    _add_force(command)
    command.set_defaults(handler=_train, parser=command)

    command = commands.add_parser("publish", help="export a finished run as the next version of its model")
    command.add_argument("run", type=Path, help="a run's folder, like runs/lenet/20260101-120000")
    _add_models(command)
    _add_force(command)
    command.set_defaults(handler=_publish)

    command = commands.add_parser("quantise", help="write the next version of a model, with a variant in fewer bits")
    _add_version(command)
    command.add_argument(
        "--precision",
        choices=["int8", "float16"],
        default="int8",
        help="int8 for processors, float16 for GPUs (default: int8)",
    )
    _add_force(command)
    command.set_defaults(handler=_quantise)

    command = commands.add_parser("reference", help="write the histograms of test data that drift is measured by")
    _add_version(command)
    command.set_defaults(handler=_reference)

    command = commands.add_parser("adopt", help="publish an ONNX classifier that was made elsewhere")
    arguments.add(command)
    _add_models(command)
    _add_force(command)
    command.set_defaults(handler=_adopt)

    command = commands.add_parser("compare", help="compare the metrics and the recipes of runs")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    command.set_defaults(handler=_compare)

    _add_inspect(commands.add_parser("inspect", help="print the contents of a run or a published model"))

    command = commands.add_parser("evaluate", help="measure a published model on its test splits")
    _add_version(command)
    command.set_defaults(handler=_evaluate)
    return parser


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", type=Path, help="a folder like runs/lenet/TIME or models/NAME/1")
    item = command.add_mutually_exclusive_group()
    item.add_argument("--input", type=Path, metavar="FILE", help="draw what each layer makes of this image or text")
    item.add_argument("--text", help="draw what each layer makes of this text")
    command.add_argument("--sheets", type=Path, metavar="FOLDER", help="where the drawings go (default: sheets)")
    command.set_defaults(handler=_inspect)


def _add_recipe(command: argparse.ArgumentParser, nargs: str | None = None) -> None:
    names = ", ".join(recipes.names())
    command.add_argument("recipe", nargs=nargs, help=f"the name of a recipe ({names}) or a path ending in .toml")
    _add_set(command)


def _add_new(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="the name of the model, like flowers")
    command.add_argument("path", type=Path, help="a folder with a subfolder for each class, or a table of examples")
    command.add_argument("--check", action="store_true", help="look, and write nothing")
    command.add_argument("--output", type=Path, metavar="FILE", help="the recipe (default: recipes/NAME.toml)")
    command.add_argument("--force", action="store_true", help="replace a recipe that exists")
    _add_set(command)
    columns = command.add_argument_group("tables", "what to read, where a guess is not certain")
    columns.add_argument("--text", metavar="COLUMN", help="the column of the texts")
    columns.add_argument("--image", metavar="COLUMN", help="the column of the paths of images")
    columns.add_argument("--images", metavar="FOLDER", help="the folder of the images (default: that of the table)")
    columns.add_argument("--label", metavar="COLUMN", help="the column of the labels")
    columns.add_argument(
        "--group", metavar="COLUMN", help="a column whose equal values stay in one split, like patient"
    )
    columns.add_argument("--encoding", help="the encoding of the table, like cp1252 (default: detected)")
    columns.add_argument("--delimiter", help="what separates the columns (default: detected)")
    command.add_argument(
        "--labels", action="append", default=[], metavar="LABEL=NAME", help="other names for labels, like 0=ham,1=spam"
    )
    command.set_defaults(handler=_new)


def _add_set(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, like optimiser.name=adagrad or layers[1].kernel=3; KEY= unsets it; repeatable",
    )


def _add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", type=Path, help="a version's folder, like models/NAME/1")


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models", type=Path, default=Path("models"), help="folder of all models (default: %(default)s/)"
    )


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--force", action="store_true", help="publish even if the model is worse than the version in service"
    )


def _new(options: argparse.Namespace) -> None:
    from training.recipe import findings, look, new  # noqa: PLC0415

    keys = ("text", "image", "images", "label", "group", "encoding", "delimiter")
    given = look.Options(**{key: getattr(options, key) for key in keys}, label_names=new.label_names(options.labels))
    output: Path = options.output or Path("recipes") / f"{options.name}.toml"
    new.check_name(options.name)
    if not options.check:
        new.check_output(output, force=options.force)
    seen = look.look(options.path, given)
    for line in findings.report(seen):
        print(line, flush=True)
    _, text = new.recipe(options.name, seen, options.set)
    if options.check:
        return
    new.write(output, text, force=options.force)
    print(
        f"\nwrote {output}; read it, then:\n"
        f"  python -m training train {output}\n"
        f"  python -m training publish runs/{output.stem}/TIME"
    )


def _data(options: argparse.Namespace) -> None:
    from training.data import sources  # noqa: PLC0415

    for line in sources.report(options.name, download=not options.no_download):
        print(line, flush=True)


def _shapes(options: argparse.Namespace) -> None:
    print(shapes.table(recipes.load(options.recipe, options.set, show=_show)))


def _train(options: argparse.Namespace) -> None:
    if (options.recipe is None) == (options.resume is None):
        options.parser.error("expected either a recipe or --resume RUN")
    if options.resume and options.set:
        options.parser.error("--set is not allowed with --resume: a run keeps its recipe")
    if options.epochs and not options.resume:
        options.parser.error("--epochs needs --resume RUN; for a new run: --set epochs=N")
    # All that can be checked without torch is, since torch takes seconds to import.
    recipe = recipes.load(options.recipe, options.set, show=_show) if options.recipe else None
    table = shapes.table(recipe) if recipe else ""
    if recipe:
        schema.check(recipe.data, recipe.input, recipe.labels)
        folders.check_present(recipe.data.name, recipe.data.path)
    if options.processes > 1 and not _is_launched():
        _launch(options)
        return
    import torch  # noqa: PLC0415

    from training.fit import parallel  # noqa: PLC0415
    from training.runs import run  # noqa: PLC0415

    # The processes of torchrun share the cores of a machine.
    share = max(processors.count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(max(options.threads or share, 1))
    folders_of_run: list[Path] = []
    with parallel.connected(lambda: advice_after_loss(folders_of_run)):
        machine = run.find_machine(options.device)
        if recipe is None:
            folders_of_run.append(options.resume)
            _resume(machine, options)
        else:
            _show(f"{table}\n")
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
    machine: "Machine", recipe: "recipes.Recipe", options: argparse.Namespace, on_start: Callable[[Path], object]
) -> None:
    from training.data import catalogue  # noqa: PLC0415
    from training.runs import run  # noqa: PLC0415

    data = run.prepare(recipe, machine)
    _show("\n".join([*catalogue.summary(data, recipe.labels), ""]))
    folder = run.start(recipe, options.runs, machine)
    on_start(folder)
    _show(f"run {folder}; if it stops after its first epoch, continue it with: {_resume_command(folder)}")
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
    _show(f"run {folder}, {recipe.epochs} epochs; if it stops, continue it with: {_resume_command(folder)}")
    _finish(machine, folder, options, None)


def _finish(machine: "Machine", folder: Path, options: argparse.Namespace, data: "Dataset | None") -> None:
    """Train a run to its end, say what to do next, and publish it if that is asked for."""
    from training.runs import run  # noqa: PLC0415

    try:
        result = run.train(folder, machine, data)
    except KeyboardInterrupt:
        if any(folder.glob("*.pt")):
            _show(f"\nstopped; all finished epochs are saved. Continue with: {_resume_command(folder)}")
        else:
            _show("\nstopped before the first epoch was finished; nothing is saved")
        raise
    _show(str(result))
    if result.folds:
        return
    if not options.publish:
        _show(f"publish this run with: python -m training publish {folder}")
    elif machine.world.leads:
        _publish(argparse.Namespace(run=folder, models=options.models, force=options.force))


def _resume_command(folder: Path) -> str:
    return f"python -m training train --resume {folder}"


def _show(text: str) -> None:
    """Print a text once, whatever the number of processes."""
    if _leads():
        print(text, flush=True)


def _report(error: TrainingError) -> None:
    """Print an error once, whatever the number of processes."""
    if not _is_launched() and (_leads() or (isinstance(error, LostProcess) and _is_first_left(error))):
        print(f"error: {error}", file=sys.stderr)


def _is_first_left(error: LostProcess) -> bool:
    """Whether no process of this machine with a lower number is left, so that one on each machine reports the loss."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    first = int(os.environ.get("RANK", "0")) - local
    return all(rank in error.ranks for rank in range(first, first + local))


def _is_launched() -> bool:
    """Whether this is a process of `train --processes N`, whose first process reports errors."""
    return "RANK" in os.environ and _LAUNCHED in os.environ


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _publish(options: argparse.Namespace) -> None:
    from training.release.publish import publish  # noqa: PLC0415

    _show_published(publish(options.run, options.models, force=options.force))


def _quantise(options: argparse.Namespace) -> None:
    from training.release.quantise import quantise  # noqa: PLC0415

    version: Path = options.version
    _show_published(version.parent / quantise(version, options.precision, force=options.force).name)


def _reference(options: argparse.Namespace) -> None:
    from training.release import reference  # noqa: PLC0415

    print(f"wrote {reference.add(options.version)}; a service that has loaded the version reads it at its next start")


def _adopt(options: argparse.Namespace) -> None:
    from training.release import foreign  # noqa: PLC0415
    from training.release.adopt import adopt  # noqa: PLC0415
    from training.release.plausible import Options  # noqa: PLC0415

    stated = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    stated["softmax"] = None if options.softmax is None else options.softmax == "yes"
    stated["labels"] = None if options.labels is None else foreign.read_labels(options.labels)
    name = arguments.model_name(options)
    version = adopt(
        options.file,
        Options(**stated),
        name=name,
        models=options.models,
        examples=options.examples,
        force=options.force,
        say=_show,
    )
    print(f"published {version}; the service answers with it: POST /classify/{name}")


def _show_published(version: Path) -> None:
    print(f"published {version}; measure it with: python -m training evaluate {version}")


def _compare(options: argparse.Namespace) -> None:
    print(compare.table(options.runs, width=shutil.get_terminal_size((120, 24)).columns))


def _inspect(options: argparse.Namespace) -> None:
    from training.runs import inspection, layers  # noqa: PLC0415

    if options.input is None and options.text is None:
        if options.sheets is not None:
            raise RunError("--sheets needs an image or a text: add --input FILE or --text TEXT")
        print(inspection.describe(options.path))
        return
    try:
        item = options.text.encode() if options.input is None else options.input.read_bytes()
    except OSError as error:
        raise RunError(f"{options.input}: cannot be read: {error.strerror}") from error
    print(layers.table(layers.draw(options.path, item, options.sheets or Path("sheets"))))


def _evaluate(options: argparse.Namespace) -> None:
    from training.release.measure import measure  # noqa: PLC0415

    for line in measure(options.version):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
