"""Word vectors: cooccurrences compared with loops, factors compared with torch, and which words come close."""

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
    """Texts of the classes 0 and 1 alternately."""
    rows = [torch.tensor(text, dtype=torch.int32) for text in texts]
    return Split(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.arange(len(texts)) % 2)


def cooccurrences_of(texts: list[list[int]], reach: int) -> dict[int, float]:
    """Keys and weighted counts, in loops."""
    counts: dict[int, float] = defaultdict(float)
    for index, text in enumerate(texts):
        for i, word in enumerate(text):
            for j, other in enumerate(text):
                distance = abs(i - j)
                if 0 < distance <= reach and min(word, other) > 1:
                    key = word * 2 * WORDS + index % 2 * WORDS + other
                    counts[key] += reach + 1 - distance
    return {key: value / reach for key, value in counts.items()}


def twins(count: int) -> Split:
    """Words 2 and 3 have the same neighbours in class 0, and words 4 and 5 have them in class 1."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for index in range(count):
        word = int(torch.randint(0, 2, (1,), generator=generator)) + (4 if index % 2 else 2)
        around = torch.randint(6, WORDS, (2,), generator=generator).tolist()
        texts.append([around[0], word, around[1]])
    return split_of(texts)


@settings(max_examples=50, deadline=None)
@given(texts_of_ids, st.integers(1, 4))
def test_cooccurrences_are_weighted_by_distance_and_separate_for_each_label(texts: list[list[int]], reach: int) -> None:
    """Not across texts, not with padding or the unknown word; the nearest count most."""
    keys, weights = vectors.cooccurrences(split_of(texts), WORDS, reach)
    expected = cooccurrences_of(texts, reach)
    assert keys.tolist() == sorted(expected)
    np.testing.assert_allclose(weights, [expected[key] for key in sorted(expected)], rtol=1e-5)


def test_pointwise_information_equals_its_formula() -> None:
    """Values of log(n * sum(c^0.75) / (w * c^0.75)) * n / (n + 1) * m / (m + 10) above 0."""
    counts = {(2, 3): 8.0, (2, 5): 1.0, (3, 4): 2.0, (3, 5): 30.0}
    word, context = {2: 9.0, 3: 32.0}, {3: 8.0, 4: 2.0, 5: 31.0}
    total = sum(count**0.75 for count in context.values())
    expected = {}
    for (row, column), n in counts.items():
        information = math.log(n * total / (word[row] * context[column] ** 0.75))
        rarer = min(word[row], context[column])
        expected[row, column] = information * n / (n + 1) * rarer / (rarer + 10)
    keys = torch.tensor([row * WORDS + column for row, column in counts])
    rows, columns, values = vectors.pointwise_information(keys, torch.tensor(list(counts.values())), (WORDS, WORDS))
    actual = dict(zip(zip(rows.tolist(), columns.tolist(), strict=True), values.tolist(), strict=True))
    assert actual == pytest.approx({pair: value for pair, value in expected.items() if value > 0})
    assert (2, 5) not in actual


def test_factors_equal_those_of_the_full_decomposition() -> None:
    """Up to signs, U * sqrt(S) of torch's decomposition, for a matrix with decreasing singular values."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 30, generator=generator)).Q for size in (40, 60))
    matrix = left * (0.7 ** torch.arange(30)) @ right.T
    actual = vectors.factors(matrix.to_sparse(), 5, seed=0)
    expected, singular, _ = torch.linalg.svd(matrix)
    np.testing.assert_allclose(actual.abs(), (expected[:, :5] * singular[:5].sqrt()).abs(), atol=1e-3)


def similarity(table: Tensor, word: int, other: int) -> float:
    return float(torch.cosine_similarity(table[word], table[other], dim=0))


def test_words_with_the_same_role_come_close_within_a_label() -> None:
    """All four words have the same neighbours; only the labels of their texts separate the pairs."""
    table = vectors.learn(twins(2000), WORDS, 4, 2, seed=0)
    assert min(similarity(table, 2, 3), similarity(table, 4, 5)) > 0.9
    assert max(similarity(table, 2, 4), similarity(table, 3, 5)) < 0.5


def test_vectors_have_the_given_width_and_scale() -> None:
    """Padding is 0, other vectors have a root mean square of 0.3; extra columns are 0; seeds are respected."""
    table = vectors.learn(twins(300), WORDS, 16, 2, seed=0)
    assert table.shape == (WORDS, 16)
    assert not table[0].any()
    assert not table[:, WORDS:].any()
    assert float(table[1:, :WORDS].square().mean().sqrt()) == pytest.approx(0.3, rel=1e-4)
    assert torch.equal(table, vectors.learn(twins(300), WORDS, 16, 2, seed=0))


def test_a_network_starts_from_these_vectors(recipe_with: Callable[..., Recipe]) -> None:
    """The recipe's `company` switches them on, and `shapes` shows it."""
    text: dict[str, Any] = {
        "input": {"kind": "text", "length": 12, "vocabulary": WORDS},
        "labels": ["no", "yes"],
        "layers": [{"embedding": 4, "company": 2}, {"windows": [1], "filters": 3}, {"dense": 2, "activation": "none"}],
        "data": {"name": "mr", "validation": 100},
    }
    recipe, train = recipe_with(**text), twins(300)
    embed = state.initial_state(recipe, torch.device("cpu"), train).network[0]
    assert isinstance(embed, Embed)
    assert torch.equal(embed.table.weight, vectors.learn(train, WORDS, 4, 2, recipe.seed))
    assert trace(recipe)[0].title == "embedding 4 of 12 tokens, by 2 words to either side"
    with pytest.raises(RecipeError, match="company"):
        recipe_with(**{**text, "layers": [{"embedding": 4, "company": 0}, *text["layers"][1:]]})
