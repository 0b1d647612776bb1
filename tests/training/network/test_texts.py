"""Networks for texts: layers compared with brute force, independence of padding, training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from training.data.dataset import Split
from training.evaluation import metrics as evaluate
from training.fit import augment, batch, state
from training.fit import loop as fit
from training.network.build import BoundedLinear, Embed, Embedded, EmbeddedDropout, ParallelWindows, build, normalise
from training.recipe.layers import Dense, Windows
from training.recipe.schema import Recipe

TEXT: dict[str, Any] = {
    "labels": ["no", "yes"],
    "input": {"kind": "text", "length": 12, "vocabulary": 20},
    "layers": [
        {"embedding": 6},
        {"windows": [1, 2, 4], "filters": 5, "over_time": "both"},
        {"dropout": 0.2},
        {"dense": 2, "activation": "softmax", "max_norm": 2.0},
    ],
    "data": {"name": "mr", "validation": 100},
}


def padded(*texts: list[int]) -> Tensor:
    """Token ids as int32 (N, longest L)."""
    rows = [torch.tensor(text, dtype=torch.int32) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def toy(count: int, seed: int = 0) -> Split:
    """Texts of 3 to 12 tokens; those with token 7 have label 1."""
    generator = torch.Generator().manual_seed(seed)
    texts, labels = [], []
    for index in range(count):
        length = int(torch.randint(3, 13, (1,), generator=generator))
        text = torch.randint(8, 20, (length,), generator=generator).tolist()
        if index % 2:
            text[int(torch.randint(0, length, (1,), generator=generator))] = 7
        texts.append(text)
        labels.append(index % 2)
    return Split(padded(*texts), torch.tensor(labels))


def test_the_vector_of_padding_is_zero_and_is_not_trained() -> None:
    """Id 0 has the vector 0 and no gradient; every other id has a vector within the bound of Kim (2014), 0.25."""
    embed = Embed(5, 3)
    values, present = embed(torch.tensor([[2, 4, 0]]))
    assert values.shape == (1, 3, 3)
    assert present.tolist() == [[[True, True, False]]]
    assert torch.equal(values[0, :, 2], torch.zeros(3))
    assert 0 < float(embed.table.weight.detach().abs().max()) <= 0.25
    values.square().sum().backward()
    gradient = embed.table.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() == 0
    assert gradient[2].abs().sum() > 0


@pytest.mark.parametrize("over_time", ["max", "average", "both"])
def test_windows_are_brute_force_convolutions_over_the_text(over_time: Any) -> None:
    """Each window starts at every token, with zeros after the end; then the maximum, the average, or both."""
    torch.manual_seed(0)
    layer = Windows(windows=[1, 3, 5], filters=4, over_time=over_time)
    module = ParallelWindows(2, layer, [nn.ReLU()]).double()
    length = 3  # shorter than the widest window
    values = torch.randn(1, 2, length, dtype=torch.float64)
    expected: list[float] = []
    for conv in module.convs:
        assert isinstance(conv, nn.Conv1d)
        extended = torch.cat([values[0], torch.zeros(2, conv.kernel_size[0] - 1, dtype=torch.float64)], dim=1)
        bias = conv.bias
        assert bias is not None
        maps = torch.stack(
            [
                torch.relu((conv.weight * extended[:, start : start + conv.kernel_size[0]]).sum(dim=(1, 2)) + bias)
                for start in range(length)
            ]
        )
        expected += [*(maps.amax(0).tolist() if over_time != "average" else [])]
        expected += [*(maps.mean(0).tolist() if over_time != "max" else [])]
    actual = module(Embedded(values, torch.ones(1, 1, length, dtype=torch.bool)))
    np.testing.assert_allclose(actual[0].detach().numpy(), expected, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(
    text=st.lists(st.integers(1, 19), min_size=1, max_size=12),
    neighbour=st.lists(st.integers(1, 19), min_size=1, max_size=12),
    more=st.integers(0, 6),
)
def test_padding_and_neighbours_change_nothing(
    text: list[int], neighbour: list[int], more: int, recipe_with: Callable[..., Recipe]
) -> None:
    """A text has the same logits alone, beside a longer text, and with padding at its end."""
    recipe = recipe_with(**TEXT)
    torch.manual_seed(0)
    network = build(recipe).eval()
    scale = normalise(recipe)
    batch = torch.nn.functional.pad(padded(text, neighbour), (0, more))
    with torch.inference_mode():
        alone, together = network(scale(padded(text))), network(scale(batch))
    np.testing.assert_allclose(together[:1], alone, rtol=0, atol=1e-5)


def test_dropout_on_vectors_drops_values_in_training_only() -> None:
    """In training, a fraction p of the values is 0 and the rest is divided by 1 - p; evaluation changes nothing."""
    torch.manual_seed(0)
    texts = Embedded(torch.ones(20, 30, 10), torch.ones(20, 1, 10, dtype=torch.bool))
    module = EmbeddedDropout(nn.Dropout(0.25))
    dropped = module.train()(texts).values
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(dropped.max()) == pytest.approx(1 / 0.75)
    assert torch.equal(module.eval()(texts).values, texts.values)


def test_max_norm_scales_long_rows_and_keeps_short_ones() -> None:
    """A row of norm 5 is scaled to norm 2; a row of norm 1 does not change."""
    layer = BoundedLinear(2, Dense(dense=2, max_norm=2.0), bias=True)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 4.0], [0.6, 0.8]]))
    layer.bound()
    np.testing.assert_allclose(layer.weight.detach(), [[1.2, 1.6], [0.6, 0.8]], rtol=1e-5)


def test_dropped_words_become_the_unknown_word() -> None:
    """Tokens whose draw is below the probability become id 1; padding stays 0."""
    tokens = torch.tensor([[5, 6, 0], [7, 8, 9]])
    draws = torch.tensor([[0.1, 0.9, 0.1], [0.29, 0.3, 0.31]])
    assert augment.drop_words(tokens, 0.3, draws).tolist() == [[1, 6, 0], [1, 8, 9]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 12), st.integers(0, 2**30))
def test_a_cut_text_is_a_part_of_itself(lengths: list[int], span: int, seed: int) -> None:
    """The kept tokens are consecutive, and at least `span`, or all of a shorter text."""
    texts = [list(range(1, length + 1)) for length in lengths]
    draws = torch.rand(2, len(texts), generator=torch.Generator().manual_seed(seed))
    for text, row in zip(texts, augment.cut(padded(*texts), span, draws), strict=True):
        kept = row[row != 0].tolist()
        assert kept == list(range(kept[0], kept[0] + len(kept)))
        assert min(span, len(text)) <= len(kept) <= len(text)
        assert kept[-1] <= len(text)
        assert row[len(kept) :].sum() == 0


def test_cuts_reach_both_ends_and_all_lengths() -> None:
    """Among many draws, some keep the first and some the last token, and lengths run from the span to the text's."""
    torch.manual_seed(0)
    tokens = padded(*[list(range(1, 11))] * 400)
    cut = augment.cut(tokens, 4, torch.rand(2, 400))
    lengths = (cut != 0).sum(dim=1)
    assert sorted(set(lengths.tolist())) == list(range(4, 11))
    starts = cut[lengths == 4][:, 0].tolist()
    assert set(starts) == set(range(1, 8))


def test_a_text_network_learns_and_resumes_bit_for_bit(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """A toy problem is learned; a run that is interrupted and resumed ends with the same weights; max-norm holds."""
    recipe = recipe_with(
        **TEXT,
        epochs=6,
        batch_size=16,
        optimiser={"name": "adam", "learning_rate": 0.02},
        augment={"word_dropout": 0.1, "span": 10},
    )
    train, validation = toy(300), toy(100, seed=1)
    uninterrupted = fit.fit(recipe, train, validation, tmp_path / "whole.pt")
    outputs = evaluate.logits(uninterrupted, normalise(recipe), validation)
    assert float((outputs.argmax(dim=1) == validation.labels).float().mean()) > 0.95
    (last,) = [module for module in uninterrupted.modules() if isinstance(module, BoundedLinear)]
    assert float(last.weight.detach().norm(dim=1).max()) <= 2.0 + 1e-5

    def stop(history: list[state.Epoch]) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.fit(recipe, train, validation, tmp_path / "stopped.pt", watch=stop)
    continued = fit.fit(recipe, train, validation, tmp_path / "stopped.pt")
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name


def test_batches_have_each_text_once_and_similar_lengths() -> None:
    """Batches have every example once; lengths within a batch differ less than in a random one."""
    split = toy(64)
    torch.manual_seed(0)
    batches = list(batch.batches(split, 8))
    assert sorted(torch.cat(batches).tolist()) == list(range(64))
    lengths = split.lengths
    assert lengths is not None
    assert max(int(lengths[batch].max() - lengths[batch].min()) for batch in batches) <= 3


def test_outputs_are_in_the_order_of_the_split() -> None:
    """Evaluation sorts texts by length for speed; each row of the output still belongs to its text."""
    split = toy(50)
    outputs = evaluate.in_order(split, lambda tokens: tokens.sum(dim=1, keepdim=True), 7)
    assert outputs[:, 0].tolist() == split.inputs.sum(dim=1).tolist()
