"""`sweep`: train a recipe with many values, each in a run of its own, and compare them."""

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from training.commands.arguments import (
    add_machine,
    add_recipe,
    add_runs,
    add_track,
    check_track,
    load_recipe,
    show,
    threads,
)
from training.data import folders
from training.data import schema as data
from training.errors import RecipeError
from training.recipe import schema, shapes, space
from training.recipe.schema import Recipe
from training.runs import compare

if TYPE_CHECKING:
    from training.runs.sweep import Sweep


def add(command: argparse.ArgumentParser) -> None:
    """The arguments of `sweep`."""
    add_recipe(command)
    kind = command.add_mutually_exclusive_group(required=True)
    kind.add_argument(
        "--grid",
        nargs="+",
        action="extend",
        metavar="KEY=V1,V2",
        help="try every combination of these values, like --grid optimiser.learning_rate=0.01,0.003 batch_size=32,64",
    )
    kind.add_argument("--random", type=int, metavar="N", help="try N values drawn from --range")
    kind.add_argument("--tpe", type=int, metavar="N", help="the same, drawn near those that were good (Optuna's TPE)")
    command.add_argument(
        "--range",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=LOW..HIGH[:log]",
        help="what to draw from, like optimiser.learning_rate=1e-4..1e-1:log, epochs=5..20 or optimiser.name=sgd,adam",
    )
    command.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    add_runs(command)
    command.add_argument(
        "--sweeps", type=Path, default=Path("sweeps"), help="folder of all sweeps (default: %(default)s/)"
    )
    add_machine(command)
    add_track(command)
    command.set_defaults(handler=_sweep, parser=command)


def _sweep(options: argparse.Namespace) -> None:
    check_track(options)
    recipe, _ = load_recipe(options)
    plan = _plan(options, recipe)

    def load(overrides: list[str]) -> Recipe:
        changed = schema.load(options.recipe, [*options.set, *overrides])
        shapes.trace(changed)
        data.check(changed.data, changed.input, changed.labels)
        folders.check_present(changed.data.name, changed.data.path)
        return changed

    plan.check(load)
    import torch  # noqa: PLC0415

    from training.runs import sweep as sweeps  # noqa: PLC0415

    torch.set_num_threads(threads(options))
    folder: Path = options.sweeps / f"{recipe.name}-{_digest(recipe, plan)}"
    with sweeps.locked(folder):
        _run(sweeps.Sweep(folder, plan, load, options.runs, show), folder, plan, options)


def _run(sweep: "Sweep", folder: Path, plan: space.Plan, options: argparse.Namespace) -> None:
    """Do the trials that are missing, and compare all."""
    from training.runs import run, track  # noqa: PLC0415

    kind = {None: "a grid over", "random": "drawn from", "tpe": "drawn by TPE from"}[plan.sampler]
    done = f"; {sweep.finished} are finished" if sweep.finished else ""
    show(f"sweep {folder}: {plan.trials} trials, {kind} {'; '.join(map(str, plan.axes))}{done}")
    show(f"chosen by {plan.gate.title} on the validation split; no trial sees the test splits")
    show("if it stops, the same command continues it\n" if sweep.finished < plan.trials else "")
    machine = run.find_machine(options.device)
    runs = sweep.run(machine, lambda run_folder: track.follow(options.track, run_folder))
    show(compare.table(runs, width=shutil.get_terminal_size((120, 24)).columns))
    for line in sweep.failures:
        show(line)
    value = plan.gate.show(sweep.value(runs[0]))
    show(
        f"\nthe best of {len(runs)}: {runs[0]}, with {plan.gate.title} {value} on the validation split. As the best\n"
        "of several it owes some of that to chance; `publish` measures it on the test splits:\n"
        f"  python -m training publish {runs[0]}"
    )


def _plan(options: argparse.Namespace, recipe: Recipe) -> space.Plan:
    if options.grid and options.range:
        options.parser.error("--range is for --random and --tpe; values of a grid are listed after --grid")
    if options.grid:
        axes: list[space.Axis] = [*space.grid(options.grid)]
        trials = sum(1 for _ in space.combinations(space.grid(options.grid)))
    else:
        axes, trials = space.ranges(options.range), options.random if options.random is not None else options.tpe
        if not 1 <= trials <= space.MAX_TRIALS:
            raise RecipeError(f"expected 1 to {space.MAX_TRIALS:,} trials, got {trials}")
    fixed = {each.partition("=")[0] for each in options.set}
    both = next((axis.key for axis in axes if axis.key in fixed), None)
    if both:
        raise RecipeError(f"the key {both} is both set and varied; remove --set {both}=...")
    sampler: space.Sampler | None = None if options.grid else "random" if options.random is not None else "tpe"
    return space.Plan(axes, trials, sampler, options.seed, recipe.gate)


def _digest(recipe: Recipe, plan: space.Plan) -> str:
    """Equal for the sweeps that continue each other: of one recipe over one space; of drawn ones, of any number."""
    space_text = f"{plan.axes!r} {plan.sampler} {plan.seed if plan.sampler else 0}"
    return hashlib.sha256(f"{recipe.model_dump_json()} {space_text}".encode()).hexdigest()[:8]
