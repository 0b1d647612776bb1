"""A linear model over n-grams, averaged with a network.

The weight of an n-gram is its naive-Bayes log-odds, scaled by logistic regression (Wang & Manning, 2012). The model
makes other errors than a convolution, so their mean is better than either (Mesnil et al., 2015). It is learned before
the first epoch, in seconds, and is not trained further: a network that sees its output in training learns little.
"""

import warnings

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import RecipeError
from training.recipe.layers import NGrams

_TEXTS = 1000  # counted at a time
_FINGERPRINTS = 2**24 - 3  # a prime; float32 is exact up to 2^24, so averaging equal buffers does not change them
_PRIME, _OTHER_PRIME = 2**31 - 1, 2**31 - 19
_FACTORS = 1_103_515_245, 1_812_433_253  # of the two hashes; keys modulo the slots alone would collide in patterns
_ROUNDS = 100  # of placing: in a table that is half full, two slots for each n-gram are enough for nearly all
_MAX_UNPLACED = 1e-3  # the share of n-grams that may be left out
_STEPS, _HISTORY = 60, 10  # of L-BFGS


class NGramTable(nn.Module):
    """Token ids int64 (N, L) -> logits float32 (N, 2): the sum of a text's weights over the root of their number.

    The weights are in a hash table, each in one of two slots (cuckoo hashing; Pagh & Rodler, 2004), with a
    fingerprint of its n-gram. An n-gram that was not learned is mistaken for one that was with a probability of 1e-7.
    """

    def __init__(self, layer: NGrams, vocabulary: int) -> None:
        super().__init__()
        self.words, self.slots, self.vocabulary = layer.ngrams, layer.slots, vocabulary
        self.share = layer.share
        self.register_buffer("prints", torch.zeros(layer.slots))
        self.register_buffer("weights", torch.zeros(layer.slots))
        self.register_buffer("bias", torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        keys, once = self.distinct(tokens)
        first, second, fingerprint = self._slots_of(keys)
        prints, weights = self.get_buffer("prints"), self.get_buffer("weights")
        in_first, in_second = prints[first] == fingerprint, prints[second] == fingerprint
        known = once & (in_first | in_second)
        present = torch.where(in_first, weights[first], weights[second]) * known
        logit = present.sum(dim=1) / known.sum(dim=1).clamp(min=1).sqrt() + self.get_buffer("bias")
        return torch.stack([-logit / 2, logit / 2], dim=1)

    def keys(self, tokens: Tensor) -> Tensor:
        """A unique number for each n-gram of each text, 0 beyond its end: int64 (N, words * L)."""
        padded, length = F.pad(tokens, (0, self.words - 1)), tokens.shape[1]
        key, keys = tokens, []
        for words in range(self.words):
            after = padded[:, words : words + length]
            key = key * self.vocabulary + after if words else after
            keys.append(torch.where(after != 0, key * self.words + words, 0))
        return torch.cat(keys, dim=1)

    def distinct(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The keys of each text, sorted, and a mask of the first of equal ones, bool: both (N, words * L)."""
        keys = self.keys(tokens).sort(dim=1).values
        return keys, F.pad(keys[:, 1:] != keys[:, :-1], (1, 0), value=True) & (keys > 0)

    def fill(self, keys: Tensor, weights: Tensor, bias: Tensor) -> None:
        """Store the weights (K) of n-grams, each in one of its two slots; an n-gram that is there moves to its other.

        Raises:
            RecipeError: the table is too small.
        """
        *both, fingerprint = self._slots_of(keys)
        slots = torch.stack(both)  # (2, K)
        holder = torch.full((self.slots,), -1, dtype=torch.int64)  # the n-gram in each slot; -1 if it is empty
        turn, waiting = torch.zeros_like(keys), torch.arange(len(keys))
        for _ in range(_ROUNDS if len(keys) <= self.slots else 0):
            wanted = slots[turn[waiting], waiting]
            winner = torch.full_like(holder, -1).scatter_reduce_(0, wanted, waiting, "amax")
            moved = holder[(winner >= 0) & (holder >= 0)]
            holder = torch.where(winner >= 0, winner, holder)
            waiting = torch.cat([waiting[winner[wanted] != waiting], moved])
            turn[waiting] = 1 - turn[waiting]
            if not len(waiting):
                break
        if len(waiting) > _MAX_UNPLACED * len(keys):
            raise RecipeError(
                f"ngrams: {len(keys):,} n-grams do not fit into {self.slots:,} slots: set slots to "
                f"{2 * len(keys):,} or more, or min_count higher"
            )
        filled = holder >= 0
        self.get_buffer("prints").zero_()[filled] = fingerprint[holder[filled]]
        self.get_buffer("weights").zero_()[filled] = weights[holder[filled]]
        self.get_buffer("bias").copy_(bias)

    def divide(self, temperature: float) -> None:
        """Divide the logits by a temperature, in place."""
        self.get_buffer("weights").div_(temperature)
        self.get_buffer("bias").div_(temperature)

    def _slots_of(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two slots of each n-gram and its fingerprint, an integer from 1 as float32."""
        first, second = (keys % _PRIME * factor % _OTHER_PRIME % self.slots for factor in _FACTORS)
        return first, second, (keys % _FINGERPRINTS + 1).to(torch.float32)


def learn(table: NGramTable, layer: NGrams, train: Split) -> int:
    """Fill a table from texts of the classes 0 and 1; equal texts count once.

    Returns:
        The number of n-grams.

    Raises:
        RecipeError: no n-gram occurs in `layer.min_count` texts, or the table is too small.
    """
    keys, columns, counts, labels = _count(table, train, layer.min_count)
    if not len(keys):
        raise RecipeError(f"ngrams: no n-gram occurs in {layer.min_count} texts: set min_count lower")
    odds = _log_odds(columns, labels.repeat_interleave(counts), len(keys))
    texts = _csr(columns, counts, odds[columns] / counts.sqrt().repeat_interleave(counts), len(keys))
    weights, bias = regression(texts, labels, layer.cost)
    table.fill(keys, odds * weights, bias)
    return len(keys)


def regression(texts: Tensor, labels: Tensor, cost: float) -> tuple[Tensor, Tensor]:
    """Logistic regression: the weights (K) and bias (1) that minimise |weights|^2 / 2 + cost * (sum of losses).

    This is LIBLINEAR's objective (Fan et al., 2008), minimised by L-BFGS from 0, with more steps than accuracy needs.

    Args:
        texts: sparse CSR float32 (N, K).
        labels: 0 or 1, (N).
        cost: of a text's loss in relation to the penalty; the lower, the smaller the weights.
    """
    target, transposed = labels.float(), texts.t().to_sparse_csr()
    weights = torch.zeros(texts.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    search = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, history_size=_HISTORY, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def objective() -> Tensor:
        logits = texts @ weights + bias
        slope = (logits.sigmoid() - target) / len(target)
        weights.grad = transposed @ slope + weights / (cost * len(target))
        bias.grad = slope.sum().reshape(1)
        return F.binary_cross_entropy_with_logits(logits, target) + weights.square().sum() / (2 * cost * len(target))

    search.step(objective)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()


def _log_odds(columns: Tensor, labels: Tensor, width: int) -> Tensor:
    """The log of how much more frequent each n-gram is in texts of class 1 than of class 0, in naive Bayes: (K)."""
    positive = torch.zeros(width).index_add_(0, columns, labels.float()) + 1
    negative = torch.zeros(width).index_add_(0, columns, 1 - labels.float()) + 1
    return (positive / positive.sum()).log() - (negative / negative.sum()).log()


def _csr(columns: Tensor, counts: Tensor, values: Tensor, width: int) -> Tensor:
    """A sparse CSR matrix (N, width) with the next `counts[n]` values and their columns in row n."""
    starts = F.pad(counts.cumsum(0), (1, 0))
    with warnings.catch_warnings():  # torch warns that CSR is in beta; it takes a tenth of COO's time here
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, (len(counts), width), check_invariants=False)


def _count(table: NGramTable, train: Split, min_count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Count the n-grams that occur in at least `min_count` of the N different texts.

    Returns:
        The keys of these n-grams (K); the places in them, text after text, of the n-grams of each text; how many each
        text has (N); the labels (N).
    """
    assert train.lengths is not None, "n-grams are learned from texts"
    rows: dict[bytes, int] = {}  # the first of equal texts
    for index, (text, length) in enumerate(zip(train.inputs.numpy(), train.lengths.tolist(), strict=True)):
        rows.setdefault(text[:length].tobytes(), index)
    chosen = torch.tensor(list(rows.values()))
    parts: list[Tensor] = []
    counts: list[Tensor] = []
    for part in torch.split(chosen, _TEXTS):
        keys, once = table.distinct(train.texts(part).long())
        parts.append(keys[once])
        counts.append(once.sum(dim=1))
    keys, columns, texts = torch.unique(torch.cat(parts), return_inverse=True, return_counts=True)
    kept = texts >= min_count
    owner = torch.arange(len(chosen)).repeat_interleave(torch.cat(counts))[kept[columns]]
    places = (kept.cumsum(0) - 1)[columns[kept[columns]]]
    return keys[kept], places, torch.bincount(owner, minlength=len(chosen)), train.labels[chosen]
