"""Word vectors from the company that words keep in the training texts, told apart by the labels of the texts.

How often two words stand near each other, beyond chance, says what they mean; the factors of that matrix are word
vectors as good as those of word2vec (Levy & Goldberg, 2014). Here a neighbour in a text of one class is another column
than the same neighbour in a text of another, so words that play the same part in the same kind of text come close:
"dull" is next to "tedious", far from "touching". Rare pairs say little and are discounted (Pantel & Lin, 2002): else
names would tell the labels of the few films that they stand for. It takes seconds, and no text but those that are
learnt from.
"""

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.data.dataset import Split

_FIRST_WORD = 2  # behind padding and the unknown word
_SMOOTHING = 0.75  # of the contexts' frequencies, which spares rare ones (Levy et al., 2015, section 3.2)
_SINGULAR = 0.5  # the power of the singular values that scales the vectors (Levy et al., 2015, section 3.3)
_RARE = 10  # seen so often, a word or context counts half
_SPREAD = 0.3  # root mean square of the vectors' values
_SPARE, _ROUNDS = 16, 3  # columns beyond those kept, and multiplications (Halko et al., 2011, algorithm 4.4)


def learn(train: Split, words: int, width: int, reach: int, seed: int) -> Tensor:
    """A vector for each of the `words` ids of a vocabulary: float32 (words, width), padding's 0.

    Args:
        train: the texts to learn from.
        words: the size of the vocabulary.
        width: values a vector; those beyond the number of words are 0.
        reach: how many words to either side are company; the nearest counts most.
        seed: of the random start of the factorisation.
    """
    classes = int(train.labels.max()) + 1
    keys, weights = company(train, words, reach)
    rows, columns, values = surprise(keys, weights, (words, words * classes))
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, (words, words * classes), check_invariants=False
    )
    found = factors(matrix.coalesce(), min(width, words), seed)
    found[1:] -= found[1:].mean(dim=0)
    found[1:] *= _SPREAD / found[1:].square().mean().sqrt().clamp(min=1e-12)
    found[0] = 0
    return F.pad(found, (0, width - found.shape[1]))


def company(train: Split, words: int, reach: int) -> tuple[Tensor, Tensor]:
    """What stands near what, and how often: keys int64 (K), weights float32 (K).

    The key of word w beside word c in a text of class y is w * (classes * words) + y * words + c; a pair at distance k
    weighs (reach + 1 - k) / reach. Padding and the unknown word keep no company.
    """
    assert train.lengths is not None, "company is kept in texts"
    columns = words * (int(train.labels.max()) + 1)
    apart = F.pad(train.inputs, (0, reach))  # so that no text touches the next
    kept = torch.arange(apart.shape[1]) < (train.lengths + reach).unsqueeze(1)
    flat = apart[kept].long()
    shift = train.labels.repeat_interleave(train.lengths + reach) * words
    keys: list[Tensor] = []
    weights: list[Tensor] = []
    for distance in range(1, reach + 1):
        before, after = flat[:-distance], flat[distance:]
        near = (before >= _FIRST_WORD) & (after >= _FIRST_WORD)
        first, second, of = before[near], after[near], shift[distance:][near]
        both = torch.cat([first * columns + of + second, second * columns + of + first])
        found, counts = torch.unique(both, return_counts=True)
        keys.append(found)
        weights.append(counts * ((reach + 1 - distance) / reach))
    found, places = torch.unique(torch.cat(keys), return_inverse=True)
    return found, torch.zeros(len(found)).index_add_(0, places, torch.cat(weights))


def surprise(keys: Tensor, weights: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pointwise mutual information, log(p(w, c) / (p(w) p(c))), discounted, where above 0: rows, columns, values (K).

    The discount of Pantel & Lin (2002), with a slower rise for words: n / (n + 1) of a pair seen n times, times
    m / (m + 10), m how often the rarer of word and context is seen.
    """
    words, columns = shape
    rows, contexts = keys // columns, keys % columns
    word = torch.zeros(words).index_add_(0, rows, weights)
    context = torch.zeros(columns).index_add_(0, contexts, weights)
    smooth = context**_SMOOTHING
    information = (weights * smooth.sum() / (word[rows] * smooth[contexts])).log()
    rarer = torch.minimum(word[rows], context[contexts])
    information *= weights / (weights + 1) * (rarer / (rarer + _RARE))
    above = information > 0
    return rows[above], contexts[above], information[above]


def factors(matrix: Tensor, width: int, seed: int) -> Tensor:
    """The first left singular vectors of a sparse matrix (R, C), times their values' square root: (R, width)."""
    across = matrix.t().coalesce()
    draw = torch.Generator().manual_seed(seed)
    columns = min(width + _SPARE, *matrix.shape)
    basis = torch.linalg.qr(torch.sparse.mm(matrix, torch.randn(matrix.shape[1], columns, generator=draw))).Q
    for _ in range(_ROUNDS - 1):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, torch.linalg.qr(torch.sparse.mm(across, basis)).Q)).Q
    small, singular, _ = torch.linalg.svd(torch.sparse.mm(across, basis).T, full_matrices=False)
    found: Tensor = (basis @ small[:, :width]) * singular[:width] ** _SINGULAR
    return found
