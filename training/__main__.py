"""Train Convoke's networks, measure them and put them into service.

A recipe names everything about an experiment; the recipes that come along are in training/recipes/, and any key can
be overridden with --set KEY=VALUE. Data sets lie in the folder that CONVOKE_DATA names (default: data/).

  python -m training shapes lenet                       what each layer computes, before any training
  python -m training train lenet                        train; leaves runs/lenet/TIME/
  python -m training train --resume runs/lenet/TIME     go on after an interruption
  python -m training publish runs/lenet/TIME            export, check, and write models/digits/VERSION/
  python -m training evaluate models/digits/1           measure a published model on its test split
"""

import argparse
import os
import sys
from pathlib import Path

from training import recipe as recipes
from training import shapes
from training.errors import TrainingError


def main(words: list[str] | None = None) -> int:
    """Run one command; the exit status is 0, 2 for what the user can mend, 130 after Ctrl-C."""
    arguments = _parser().parse_args(words)
    try:
        arguments.command(arguments)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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


def _train(arguments: argparse.Namespace) -> None:
    if (arguments.recipe is None) == (arguments.resume is None) or (arguments.resume and arguments.set):
        arguments.parser.error("name a recipe to start with, or a run to --resume (which takes no --set), not both")
    import torch  # noqa: PLC0415 -- seconds of import that --help and shapes do without

    from training import run  # noqa: PLC0415

    torch.set_num_threads(max(arguments.threads or 1, 1))
    on = run.machine(arguments.device)
    if arguments.resume is None:
        recipe = recipes.load(arguments.recipe, arguments.set)
        print(shapes.table(recipe))
        folder = run.start(recipe, arguments.runs, on)
    else:
        folder = arguments.resume
    print(
        f"\nrun {folder}; if it is stopped, go on with: python -m training train --resume {folder}",
        flush=True,
    )
    result = run.train(folder, on)
    print(
        f"trained in {result.seconds:.0f} s; validation accuracy {result.validation.accuracy:.2%} "
        f"(n = {result.validation.n:,}), calibration error {result.validation.ece:.4f}, "
        f"temperature {result.temperature:.3f}"
    )
    if arguments.publish:
        _publish(argparse.Namespace(run=folder, models=arguments.models, force=arguments.force))
    else:
        print(f"put it into service with: python -m training publish {folder}")


def _publish(arguments: argparse.Namespace) -> None:
    from training.publish import publish  # noqa: PLC0415

    place = publish(arguments.run, arguments.models, force=arguments.force)
    print(f"published {place}; measure it with: python -m training evaluate {place}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from service import manifest as contract  # noqa: PLC0415
    from service.errors import ServiceError  # noqa: PLC0415
    from service.session import Session  # noqa: PLC0415
    from training import evaluate, gate  # noqa: PLC0415
    from training.report import evaluation  # noqa: PLC0415

    folder: Path = arguments.model
    try:
        manifest = contract.read(folder)
        contract.verify(folder, manifest)
        session = Session(folder / contract.GRAPH, manifest, threads=os.cpu_count() or 1)
    except ServiceError as error:
        raise TrainingError(str(error)) from error
    recipe = manifest.recipe.get("name")
    print(f"{manifest.model}, version {manifest.version}: recipe {recipe}, {manifest.parameters:,} parameters")
    for name, test in gate.tests_of(manifest, folder).items():
        probabilities = evaluate.probabilities(session, test)
        metrics = evaluate.metrics(probabilities, test.labels)
        print(evaluation(manifest, name, metrics, evaluate.mistakes(probabilities, test.labels)))


if __name__ == "__main__":
    sys.exit(main())
