"""Train Convoke's networks, measure them and put them into service.

A recipe names everything about an experiment; the recipes that come along are in training/recipes/, and any key can
be overridden with --set KEY=VALUE. Data sets lie in the folder that CONVOKE_DATA names (default: data/).

  python -m training data mnist                         say what is there, download what is not, verify
  python -m training shapes lenet                       what each layer computes, before any training
  python -m training train lenet                        train; leaves runs/lenet/TIME/
  python -m training train --resume runs/lenet/TIME     go on after an interruption
  python -m training compare runs/lenet/*               what runs are worth, and where their recipes differ
  python -m training publish runs/lenet/TIME            export, check, and write models/digits/VERSION/
  python -m training evaluate models/digits/1           measure a published model on its test splits
  python -m training quantise models/digits/1           write the next version, with a variant in int8 beside float32
  python -m training inspect models/digits/1            what a run or a published model holds

  torchrun --nproc-per-node 2 -m training train lenet   train in two processes, on GPUs one each
"""

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import TrainingError
from training.recipe import schema as recipes
from training.recipe import shapes
from training.runs import compare

if TYPE_CHECKING:
    from training.fit.parallel import Machine


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for what the user can mend, 130 after Ctrl-C."""
    arguments = _parser().parse_args(words)
    try:
        arguments.command(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser("data", help="say what data is there, download what is not, verify it")
    command.add_argument("name", nargs="?", help="a data set's name; all of them are listed without one")
    command.add_argument("--no-download", action="store_true", help="only say what is there and verify it")
    command.set_defaults(command=_data)

    command = commands.add_parser("shapes", help="print a recipe's layers: shapes, formulas, parameters, costs")
    _recipe_arguments(command, nargs=None)
    command.set_defaults(command=_shapes)

    command = commands.add_parser("train", help="train a recipe, with a checkpoint after every epoch")
    _recipe_arguments(command, nargs="?")
    command.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="where runs go (default: %(default)s/)")
    command.add_argument("--threads", type=int, default=os.cpu_count(), help="processor threads (default: %(default)s)")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto takes CUDA where it is"
    )
    command.add_argument("--publish", action="store_true", help="publish the run when it is finished")
    _models_argument(command)
    _force_argument(command)
    command.set_defaults(command=_train, parser=command)

    command = commands.add_parser("publish", help="export a finished run and write the next version of its model")
    command.add_argument("run", type=Path, help="a run's folder, like runs/lenet/20260101-120000")
    _models_argument(command)
    _force_argument(command)
    command.set_defaults(command=_publish)

    command = commands.add_parser(
        "quantise", help="write a published model's next version, with a variant in fewer bits"
    )
    command.add_argument("model", type=Path, help="a version's folder, like models/digits/1")
    command.add_argument(
        "--precision", choices=["int8", "float16"], default="int8", help="int8 for processors, float16 for GPUs"
    )
    _force_argument(command)
    command.set_defaults(command=_quantise)

    command = commands.add_parser("compare", help="print what runs are worth, and where their recipes differ")
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    command.set_defaults(command=_compare)

    command = commands.add_parser("inspect", help="print what a run or a published model holds")
    command.add_argument("path", type=Path, help="a folder like runs/lenet/TIME or models/digits/1")
    command.set_defaults(command=_inspect)

    command = commands.add_parser("evaluate", help="measure a published model on its test split")
    command.add_argument("model", type=Path, help="a version's folder, like models/digits/1")
    command.set_defaults(command=_evaluate)
    return parser


def _recipe_arguments(command: argparse.ArgumentParser, nargs: str | None) -> None:
    known = ", ".join(recipes.names())
    command.add_argument("recipe", nargs=nargs, help=f"a recipe's name ({known}) or a path ending in .toml")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, like optimiser.name=adagrad",
    )


def _models_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--models", type=Path, default=Path("models"), help="where versions go (default: %(default)s/)"
    )


def _force_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help="publish also what is worse than the version in service")


def _shapes(arguments: argparse.Namespace) -> None:
    print(shapes.table(recipes.load(arguments.recipe, arguments.set)))


def _data(arguments: argparse.Namespace) -> None:
    from training.data import sources  # noqa: PLC0415

    for line in sources.report(arguments.name, download=not arguments.no_download):
        print(line, flush=True)


def _compare(arguments: argparse.Namespace) -> None:
    print(compare.table(arguments.runs, width=shutil.get_terminal_size((120, 24)).columns))


def _inspect(arguments: argparse.Namespace) -> None:
    from training.runs import inspection  # noqa: PLC0415

    print(inspection.describe(arguments.path))


def _train(arguments: argparse.Namespace) -> None:
    if (arguments.recipe is None) == (arguments.resume is None) or (arguments.resume and arguments.set):
        arguments.parser.error("name a recipe to start with, or a run to --resume (which takes no --set), not both")
    import torch  # noqa: PLC0415 -- seconds of import that --help and shapes do without

    from training.fit import parallel  # noqa: PLC0415
    from training.runs import run  # noqa: PLC0415

    torch.set_num_threads(max(arguments.threads or 1, 1))
    on = run.find_machine(arguments.device)
    try:
        _train_on(arguments, on)
    finally:
        parallel.leave()


def _train_on(arguments: argparse.Namespace, on: "Machine") -> None:
    from training.runs import run  # noqa: PLC0415

    def tell(text: str) -> None:
        if on.world.leads:
            print(text, flush=True)

    folder: Path | None = arguments.resume
    if folder is None:
        recipe = recipes.load(arguments.recipe, arguments.set)
        tell(shapes.table(recipe))
        folder = run.start(recipe, arguments.runs, on)
    command = f"python -m training train --resume {folder}"
    tell(f"\nrun {folder}; if it is stopped, go on with: {command}")
    try:
        result = run.train(folder, on)
    except KeyboardInterrupt:
        tell(f"\nstopped; every finished epoch is kept. Go on with: {command}")
        raise
    tell(str(result))
    if result.folds:
        return
    if arguments.publish and on.world.leads:
        _publish(argparse.Namespace(run=folder, models=arguments.models, force=arguments.force))
    elif not arguments.publish:
        tell(f"put it into service with: python -m training publish {folder}")


def _publish(arguments: argparse.Namespace) -> None:
    from training.release.publish import publish  # noqa: PLC0415

    place = publish(arguments.run, arguments.models, force=arguments.force)
    print(f"published {place}; measure it with: python -m training evaluate {place}")


def _quantise(arguments: argparse.Namespace) -> None:
    from training.release.quantise import quantise  # noqa: PLC0415

    number = quantise(arguments.model, arguments.precision, force=arguments.force).name
    place = arguments.model.parent / number
    print(f"published {place}; measure it with: python -m training evaluate {place}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from contract.errors import ConvokeError  # noqa: PLC0415
    from contract.manifest import read as read_manifest  # noqa: PLC0415
    from contract.manifest import verify  # noqa: PLC0415
    from contract.session import Session  # noqa: PLC0415
    from training.evaluation import metrics as evaluate  # noqa: PLC0415
    from training.release import gate  # noqa: PLC0415
    from training.release.card import evaluation  # noqa: PLC0415

    folder: Path = arguments.model
    try:
        manifest = read_manifest(folder)
        verify(folder, manifest)
        sessions = [
            Session(folder / manifest.graph(precision), manifest, threads=os.cpu_count() or 1, precision=precision)
            for precision in manifest.precisions
        ]
    except ConvokeError as error:
        raise TrainingError(str(error)) from error
    recipe = manifest.recipe.get("name")
    print(f"{manifest.model}, version {manifest.version}: recipe {recipe}, {manifest.parameters:,} parameters")
    for name, test in gate.tests_of(manifest, folder).items():
        for session in sessions:
            probabilities = evaluate.probabilities(session, test)
            metrics = evaluate.metrics(probabilities, test.labels)
            title = f"{name}, in {session.precision}" if manifest.variants else name
            chance = evaluate.chance_calibration_error(probabilities.max(axis=1))
            print(evaluation(manifest, title, metrics, chance, evaluate.mistakes(probabilities, test.labels)))


if __name__ == "__main__":
    sys.exit(main())
