"""Word vectors from the words that occur together in the training texts, and from the labels of these texts.

How often two words occur near each other, compared with chance, says what they mean; the factors of the matrix of these
values are word vectors as good as word2vec's (Levy & Goldberg, 2014). In our matrix a context word of a text of one
class has another column than the same word of a text of another class, so that words with the same role in the same
class come close: "dull" is near "tedious" and far from "touching". Rare pairs are discounted (Pantel & Lin, 2002);
otherwise names would give away the labels of their few films. It takes seconds, and no texts but the training split.
"""

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor

from training.data.dataset import Split

_FIRST_WORD = 2  # ids 0 and 1 are padding and the unknown word
_SMOOTHING = 0.75  # the power of context frequencies, against a bias to rare ones (Levy et al., 2015, section 3.2)
_SINGULAR = 0.5  # the power of the singular values that scales the vectors (Levy et al., 2015, section 3.3)
_RARE = 10  # a word or context with this count is discounted by a half
_RMS = 0.3  # root mean square of the vectors' values
_SPARE, _ROUNDS = 16, 3  # extra columns, and multiplications (Halko et al., 2011, algorithm 4.4)


def learn(train: Split, words: int, width: int, reach: int, seed: int) -> Tensor:
    """A vector for each id of a vocabulary: float32 (words, width); 0 for padding.

    Args:
        train: the texts to learn from.
        words: the size of the vocabulary.
        width: the size of a vector; values beyond the number of words are 0.
        reach: how many words to either side are context; the nearest count most.
        seed: of the random start of the factorisation.
    """
    classes = int(train.labels.max()) + 1
    keys, weights = cooccurrences(train, words, reach)
    rows, columns, values = pointwise_information(keys, weights, (words, words * classes))
    matrix = torch.sparse_coo_tensor(
        torch.stack([rows, columns]), values, (words, words * classes), check_invariants=False
    )
    vectors = factors(matrix.coalesce(), min(width, words), seed)
    vectors[1:] -= vectors[1:].mean(dim=0)
    vectors[1:] *= _RMS / vectors[1:].square().mean().sqrt().clamp(min=1e-12)
    vectors[0] = 0
    return F.pad(vectors, (0, width - vectors.shape[1]))


def cooccurrences(train: Split, words: int, reach: int) -> tuple[Tensor, Tensor]:
    """Pairs of words that occur near each other, and their weighted counts: keys int64 (K), weights float32 (K).

    The key of word w with context word c in a text of class y is w * (classes * words) + y * words + c; a pair at
    distance k counts (reach + 1 - k) / reach. Padding and the unknown word are neither word nor context.
    """
    assert train.lengths is not None, "words occur in texts"
    columns = words * (int(train.labels.max()) + 1)
    apart = F.pad(train.inputs, (0, reach))  # at least `reach` zeros between a text and the next
    kept = torch.arange(apart.shape[1]) < (train.lengths + reach).unsqueeze(1)
    flat = apart[kept].long()
    shift = train.labels.repeat_interleave(train.lengths + reach) * words
    keys: list[Tensor] = []
    weights: list[Tensor] = []
    for distance in range(1, reach + 1):
        before, after = flat[:-distance], flat[distance:]
        near = (before >= _FIRST_WORD) & (after >= _FIRST_WORD)
        first, second, of = before[near], after[near], shift[distance:][near]
        pairs = torch.cat([first * columns + of + second, second * columns + of + first])
        distinct, counts = torch.unique(pairs, return_counts=True)
        keys.append(distinct)
        weights.append(counts * ((reach + 1 - distance) / reach))
    distinct, places = torch.unique(torch.cat(keys), return_inverse=True)
    return distinct, torch.zeros(len(distinct)).index_add_(0, places, torch.cat(weights))


def pointwise_information(keys: Tensor, weights: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Positive pointwise mutual information log(p(w, c) / (p(w) p(c))), discounted: rows, columns, values (K).

    The discount is that of Pantel & Lin (2002), but slower for words: n / (n + 1) for a pair seen n times, times
    m / (m + 10), where m is the count of the rarer of word and context.
    """
    words, columns = shape
    rows, contexts = keys // columns, keys % columns
    word = torch.zeros(words).index_add_(0, rows, weights)
    context = torch.zeros(columns).index_add_(0, contexts, weights)
    smooth = context**_SMOOTHING
    information = (weights * smooth.sum() / (word[rows] * smooth[contexts])).log()
    rarer = torch.minimum(word[rows], context[contexts])
    information *= weights / (weights + 1) * (rarer / (rarer + _RARE))
    positive = information > 0
    return rows[positive], contexts[positive], information[positive]


def factors(matrix: Tensor, width: int, seed: int) -> Tensor:
    """The first left singular vectors of a sparse matrix (R, C), times the roots of their values: (R, width)."""
    transposed = matrix.t().coalesce()
    generator = torch.Generator().manual_seed(seed)
    columns = min(width + _SPARE, *matrix.shape)
    basis = torch.linalg.qr(torch.sparse.mm(matrix, torch.randn(matrix.shape[1], columns, generator=generator))).Q
    for _ in range(_ROUNDS - 1):
        basis = torch.linalg.qr(torch.sparse.mm(matrix, torch.linalg.qr(torch.sparse.mm(transposed, basis)).Q)).Q
    small, singular, _ = torch.linalg.svd(torch.sparse.mm(transposed, basis).T, full_matrices=False)
    result: Tensor = (basis @ small[:, :width]) * singular[:width] ** _SINGULAR
    return result
