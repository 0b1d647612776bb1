"""How the examples of an epoch are drawn."""

import torch

from training.data.dataset import Split
from training.fit.batch import batches


def test_balanced_sampling_draws_all_labels_equally_often() -> None:
    """Of 990 and 10 examples, as many are drawn as there are, half of each label, with every example in reach."""
    labels = (torch.arange(1000) % 100 == 7).long()
    split = Split(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), labels)
    torch.manual_seed(0)
    drawn = torch.cat(list(batches(split, 32, balanced=True)))
    assert len(drawn) == 1000
    assert 430 < int(labels[drawn].sum()) < 570
    assert set(drawn[labels[drawn] == 1].tolist()) == set(labels.nonzero().squeeze(1).tolist())
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.cat(list(batches(split, 32, balanced=True))))
    assert sorted(torch.cat(list(batches(split, 32))).tolist()) == list(range(1000))
