"""Initial weights."""

from collections.abc import Callable

from torch import Tensor, nn

from training.recipe.schema import Initialise


def initialise(network: nn.Module, options: Initialise) -> None:
    """Draw the weights of all convolutions and dense layers, at any depth, and set their biases to 0.

    With fans n_in and n_out, `xavier` (Glorot & Bengio, 2010, eq. 16) has the variance 2/(n_in + n_out), uniform within
    sqrt(6/(n_in + n_out)), and `he` (He et al., 2015, eq. 10) has 2/n_in, uniform within sqrt(6/n_in). `fixed` has one
    standard deviation, or one bound, for all layers. `orthogonal` has orthogonal rows, or columns if they are fewer
    (Saxe et al., 2014); with `zeros`, all units of a layer stay equal. `pytorch` keeps torch's own weights and biases,
    uniform within 1/sqrt(n_in).
    """
    draws: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
        ("xavier", "normal"): nn.init.xavier_normal_,
        ("xavier", "uniform"): nn.init.xavier_uniform_,
        ("he", "normal"): lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        ("he", "uniform"): lambda weight: nn.init.kaiming_uniform_(weight, nonlinearity="relu"),
        ("orthogonal", "uniform"): nn.init.orthogonal_,
        ("zeros", "uniform"): nn.init.zeros_,
        ("fixed", "normal"): lambda weight: nn.init.normal_(weight, std=options.spread),
        ("fixed", "uniform"): lambda weight: nn.init.uniform_(weight, -options.spread, options.spread),
    }
    if options.name in {"pytorch", "pretrained", "version"}:
        return
    draw = draws[options.name, options.distribution]
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            draw(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
