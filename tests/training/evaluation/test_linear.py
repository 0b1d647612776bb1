"""The linear baseline of texts."""

import torch

from training.data.dataset import Split
from training.evaluation.linear import LinearBaseline


def split(count: int, seed: int) -> Split:
    """Texts of 12 tokens; those of label 1 have the tokens 7 and 8 beside each other, those of label 0 apart."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(10, 60, (count, 12), generator=random, dtype=torch.int32)
    labels = torch.arange(count) % 2
    tokens[:, 2] = 7
    tokens[labels == 1, 3] = 8
    tokens[labels == 0, 9] = 8
    tokens[::5, 10:] = 0
    return Split(tokens, labels)


def test_it_learns_what_words_and_pairs_of_words_say() -> None:
    """A pair of tokens is learned where no token alone decides; labels without a relation to texts stay at chance."""
    assert LinearBaseline(split(400, 0)).accuracy(split(200, 1)) > 0.85
    random = Split(split(200, 0).inputs, torch.randint(0, 2, (200,), generator=torch.Generator().manual_seed(2)))
    assert 0.3 < LinearBaseline(random).accuracy(split(200, 1)) < 0.7
