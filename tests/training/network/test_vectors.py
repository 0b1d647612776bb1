"""Word vectors from company: counts and surprise against loops, factors against torch, which words come close."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.data.dataset import Split
from training.errors import RecipeError
from training.fit import state
from training.network import vectors
from training.network.build import Embed
from training.recipe.schema import Recipe
from training.recipe.shapes import trace

WORDS = 12
texts_of_ids = st.lists(st.lists(st.integers(1, WORDS - 1), min_size=1, max_size=9), min_size=2, max_size=5)


def split_of(texts: list[list[int]]) -> Split:
    """Texts of the classes 0 and 1 in turn."""
    rows = [torch.tensor(text, dtype=torch.int32) for text in texts]
    return Split(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.arange(len(texts)) % 2)


def company_of(texts: list[list[int]], reach: int) -> dict[int, float]:
    """In loops."""
    found: dict[int, float] = defaultdict(float)
    for index, text in enumerate(texts):
        for here, word in enumerate(text):
            for there, other in enumerate(text):
                distance = abs(here - there)
                if 0 < distance <= reach and min(word, other) > 1:
                    key = word * 2 * WORDS + index % 2 * WORDS + other
                    found[key] += reach + 1 - distance
    return {key: count / reach for key, count in found.items()}


def twins(count: int) -> Split:
    """Words 2 and 3 stand between the same neighbours in class 0, 4 and 5 between those in class 1."""
    draw = torch.Generator().manual_seed(0)
    texts = []
    for index in range(count):
        word = int(torch.randint(0, 2, (1,), generator=draw)) + (4 if index % 2 else 2)
        around = torch.randint(6, WORDS, (2,), generator=draw).tolist()
        texts.append([around[0], word, around[1]])
    return split_of(texts)


@settings(max_examples=50, deadline=None)
@given(texts_of_ids, st.integers(1, 4))
def test_company_is_counted_by_distance_and_label(texts: list[list[int]], reach: int) -> None:
    """Never across texts, never with padding or the unknown word, the nearest for most."""
    keys, weights = vectors.company(split_of(texts), WORDS, reach)
    expected = company_of(texts, reach)
    assert keys.tolist() == sorted(expected)
    np.testing.assert_allclose(weights, [expected[key] for key in sorted(expected)], rtol=1e-5)


def test_surprise_is_the_discounted_log_of_how_much_oftener_than_by_chance() -> None:
    """log(n * sum(c^0.75) / (w * c^0.75)) * n / (n + 1) * m / (m + 10), and nothing below 0."""
    counts = {(2, 3): 8.0, (2, 5): 1.0, (3, 4): 2.0, (3, 5): 30.0}
    word, context = {2: 9.0, 3: 32.0}, {3: 8.0, 4: 2.0, 5: 31.0}
    total = sum(count**0.75 for count in context.values())
    expected = {}
    for (row, column), n in counts.items():
        information = math.log(n * total / (word[row] * context[column] ** 0.75))
        rarer = min(word[row], context[column])
        expected[row, column] = information * n / (n + 1) * rarer / (rarer + 10)
    keys = torch.tensor([row * WORDS + column for row, column in counts])
    rows, columns, values = vectors.surprise(keys, torch.tensor(list(counts.values())), (WORDS, WORDS))
    found = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), values.tolist(), strict=True))
    assert found == pytest.approx({pair: value for pair, value in expected.items() if value > 0})
    assert (2, 5) not in found


def test_factors_are_those_of_the_full_decomposition() -> None:
    """Up to the sign of each: U * sqrt(S) of torch's own decomposition, of a matrix whose values fall off."""
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 30, generator=draw)).Q for size in (40, 60))
    matrix = left * (0.7 ** torch.arange(30)) @ right.T
    found = vectors.factors(matrix.to_sparse(), 5, seed=0)
    expected, singular, _ = torch.linalg.svd(matrix)
    np.testing.assert_allclose(found.abs(), (expected[:, :5] * singular[:5].sqrt()).abs(), atol=1e-3)


def nearness(table: Tensor, one: int, other: int) -> float:
    return float(torch.cosine_similarity(table[one], table[other], dim=0))


def test_words_of_one_part_come_close_and_labels_part_them() -> None:
    """All four words have the same neighbours; only their texts' labels tell the pairs apart."""
    table = vectors.learn(twins(2000), WORDS, 4, 2, seed=0)
    assert min(nearness(table, 2, 3), nearness(table, 4, 5)) > 0.9
    assert max(nearness(table, 2, 4), nearness(table, 3, 5)) < 0.5


def test_vectors_are_scaled_and_as_wide_as_asked_for() -> None:
    """Padding's is 0, the root mean square of the others 0.3; the same seed gives the same; spare columns are 0."""
    table = vectors.learn(twins(300), WORDS, 16, 2, seed=0)
    assert table.shape == (WORDS, 16)
    assert not table[0].any()
    assert not table[:, WORDS:].any()
    assert float(table[1:, :WORDS].square().mean().sqrt()) == pytest.approx(0.3, rel=1e-4)
    assert torch.equal(table, vectors.learn(twins(300), WORDS, 16, 2, seed=0))


def test_a_network_starts_from_them(recipe_with: Callable[..., Recipe]) -> None:
    """Where the recipe asks for company; `shapes` says so."""
    text: dict[str, Any] = {
        "input": {"kind": "text", "length": 12, "vocabulary": WORDS},
        "labels": ["no", "yes"],
        "layers": [{"embedding": 4, "company": 2}, {"windows": [1], "filters": 3}, {"dense": 2, "activation": "none"}],
        "data": {"name": "mr", "validation": 100},
    }
    recipe, train = recipe_with(**text), twins(300)
    embed = state.begin(recipe, torch.device("cpu"), train).network[0]
    assert isinstance(embed, Embed)
    assert torch.equal(embed.table.weight, vectors.learn(train, WORDS, 4, 2, recipe.seed))
    assert trace(recipe)[0].title == "embedding 4 of 12 tokens, by 2 words to either side"
    with pytest.raises(RecipeError, match="company"):
        recipe_with(**{**text, "layers": [{"embedding": 4, "company": 0}, *text["layers"][1:]]})
