"""`lr`: a range test of the learning rate, with a picture and a suggestion."""

import argparse
from pathlib import Path

from training.commands.arguments import add_machine, add_recipe, load_recipe, show, threads
from training.errors import RunError


def add(command: argparse.ArgumentParser) -> None:
    """The arguments of `lr`."""
    add_recipe(command)
    add_machine(command)
    command.add_argument("--output", type=Path, metavar="FILE", help="the picture (default: lr-RECIPE.png)")
    command.set_defaults(handler=_lr)


def _lr(options: argparse.Namespace) -> None:
    recipe, _ = load_recipe(options)
    output: Path = options.output or Path(f"lr-{recipe.name}.png")
    if output.suffix.lower() != ".png" or not output.parent.is_dir():
        raise RunError(f"--output {output}: expected the name of a PNG file in a folder that exists")
    import torch  # noqa: PLC0415

    from training.fit import precision, range_test  # noqa: PLC0415
    from training.progress import StepBar  # noqa: PLC0415
    from training.runs import plots, rates, run  # noqa: PLC0415

    torch.set_num_threads(threads(options))
    machine = run.find_machine(options.device)
    train = run.prepare(recipe, machine).train
    recipe = recipe.model_copy(update={"precision": precision.resolve(recipe, machine.device)})
    steps, (low, high) = range_test.steps_of(recipe, len(train)), range_test.bounds(recipe)
    own = recipe.optimiser.learning_rate
    show(
        f"{recipe.optimiser.name}, {steps} steps with learning rates from {low:g} to {high:g}; nothing is kept of them"
    )
    with StepBar("learning rate", steps) as bar:
        ramp = range_test.run(recipe, train, machine, lambda rate, loss: bar.step(f"{rate:.2g}, loss {loss:.4f}"))
    if ramp.has_diverged:
        show(f"stopped at a learning rate of {ramp.rates[-1]:.2g}, after {len(ramp.rates)} steps: the loss had risen")
    smooth, suggestion = ramp.smoothed, ramp.suggestion
    if not len(smooth):
        raise RunError("the loss of the first step is not finite; look at the scale of the input and initial weights")
    caption = f"recipe {recipe.name}, {recipe.optimiser.name}, data {recipe.data.name}, training n = {len(train):,}"
    plots.write(rates.figure(ramp.rates, ramp.losses, smooth, suggestion, own, caption), output)
    lowest = ramp.rates[int(smooth.argmin())]
    show(f"the loss fell from {ramp.start:.4f} to {smooth.min():.4f}, its lowest, at {lowest:.2g}; picture: {output}")
    if suggestion is None:
        show("no learning rate lowered the loss by more than its noise, so none is suggested")
        return
    show(f"suggested learning rate: {suggestion:g}, with 90 % of that fall; the recipe has {own:g}. Try it with:")
    given = "".join(f" --set '{each}'" for each in options.set if not each.startswith("optimiser.learning_rate="))
    show(f"  python -m training train {options.recipe}{given} --set optimiser.learning_rate={suggestion:g}")
