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
  python -m training lr lenet                           try learning rates and suggest one
  python -m training sweep lenet --grid epochs=5,10     train with each of these values and compare the runs
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
from pathlib import Path

from training.commands import lr, sweep, train
from training.commands.arguments import add_force, add_models, add_recipe, add_set, leads, show
from training.errors import RunError, TrainingError
from training.recipe import schema as recipes
from training.recipe import shapes
from training.release import arguments
from training.runs import compare

# Handlers import torch and onnx themselves: they take seconds, which --help, shapes and compare do not need.


def main(args: list[str] | None = None) -> int:
    """Run a command; the exit status is 0, 2 after an error that the user can fix, or 130 after Ctrl-C."""
    args = sys.argv[1:] if args is None else args
    options = _parser().parse_args(args, argparse.Namespace(args=args))
    try:
        options.handler(options)
    except TrainingError as error:
        if train.reports(error):
            print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if leads() and not train.is_launched():
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
    add_recipe(command)
    command.set_defaults(handler=_shapes)

    train.add(commands.add_parser("train", help="train a recipe, with a checkpoint after each epoch"))
    lr.add(commands.add_parser("lr", help="try learning rates in one short training, draw its loss and suggest a rate"))
    sweep.add(commands.add_parser("sweep", help="train a recipe with many values and compare the runs"))
    train.add_publish(commands.add_parser("publish", help="export a finished run as the next version of its model"))

    command = commands.add_parser("quantise", help="write the next version of a model, with a variant in fewer bits")
    _add_version(command)
    command.add_argument(
        "--precision",
        choices=["int8", "float16"],
        default="int8",
        help="int8 for processors, float16 for GPUs (default: int8)",
    )
    add_force(command)
    command.set_defaults(handler=_quantise)

    command = commands.add_parser("reference", help="write the histograms of test data that drift is measured by")
    _add_version(command)
    command.set_defaults(handler=_reference)

    command = commands.add_parser("adopt", help="publish an ONNX classifier that was made elsewhere")
    arguments.add(command)
    add_models(command)
    add_force(command)
    command.set_defaults(handler=_adopt)

    command = commands.add_parser("compare", help="compare the metrics and the recipes of runs")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    command.set_defaults(handler=_compare)

    _add_inspect(commands.add_parser("inspect", help="print the contents of a run or a published model"))

    command = commands.add_parser("evaluate", help="measure a published model on its test splits, or on examples")
    _add_version(command)
    command.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help="labelled examples instead: a subfolder for each label, or a table of texts",
    )
    command.set_defaults(handler=_evaluate)
    return parser


def _add_inspect(command: argparse.ArgumentParser) -> None:
    command.add_argument("path", type=Path, help="a folder like runs/lenet/TIME or models/NAME/1")
    item = command.add_mutually_exclusive_group()
    item.add_argument("--input", type=Path, metavar="FILE", help="draw what each layer makes of this image or text")
    item.add_argument("--text", help="draw what each layer makes of this text")
    command.add_argument("--sheets", type=Path, metavar="FOLDER", help="where the drawings go (default: sheets)")
    command.set_defaults(handler=_inspect)


def _add_new(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", help="the name of the model, like flowers")
    command.add_argument("path", type=Path, help="a folder with a subfolder for each class, or a table of examples")
    command.add_argument("--check", action="store_true", help="look, and write nothing")
    command.add_argument("--output", type=Path, metavar="FILE", help="the recipe (default: recipes/NAME.toml)")
    command.add_argument("--force", action="store_true", help="replace a recipe that exists")
    add_set(command)
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
        "--labels",
        action="append",
        default=[],
        metavar="LABEL=NAME",
        help="other names for labels, like 0=ham,1=spam, or a file that has them",
    )
    command.set_defaults(handler=_new)


def _add_version(command: argparse.ArgumentParser) -> None:
    command.add_argument("version", type=Path, help="a version's folder, like models/NAME/1")


def _new(options: argparse.Namespace) -> None:
    from training.recipe import findings, look, new  # noqa: PLC0415

    keys = ("text", "image", "images", "label", "group", "encoding", "delimiter")
    files = [Path(text) for text in options.labels if "=" not in text and Path(text).is_file()]
    given = look.Options(
        **{key: getattr(options, key) for key in keys},
        label_names=None if files else new.label_names(options.labels),
        names_file=files[0] if files else None,
    )
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
    print(shapes.table(recipes.load(options.recipe, options.set, show=show)))


def _quantise(options: argparse.Namespace) -> None:
    from training.release.quantise import quantise  # noqa: PLC0415

    version: Path = options.version
    train.show_published(version.parent / quantise(version, options.precision, force=options.force).name)


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
        say=show,
    )
    print(f"published {version}; the service answers with it: POST /classify/{name}")


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

    for line in measure(options.version, options.examples):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
