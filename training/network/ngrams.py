"""Runs of words with a weight each: a linear model of texts that answers together with a network.

Each run counts by its naive-Bayes log-odds, which logistic regression scales (Wang & Manning, 2012). It errs where a
convolution does not, so the mean of both reads better than either (Mesnil et al., 2015). The model is learnt before
the first epoch, in seconds, and stays as it is: a network that saw its answers while training would learn nothing
beside it.
"""

import warnings

import torch
import torch.nn.functional as F  # noqa: N812 -- its usual name
from torch import Tensor, nn

from training.data.dataset import Split
from training.errors import RecipeError
from training.recipe.layers import NGrams

_TEXTS = 1000  # looked through at a time
_PRINTS = 2**24 - 3  # prime; float32 is exact up to 2^24, so that averaging equal buffers leaves them as they are
_PRIME, _OTHER = 2**31 - 1, 2**31 - 19
_FACTORS = 1_103_515_245, 1_812_433_253  # one a place; keys have structure, which slots alone may share
_ROUNDS = 100  # of placing: two places a run are enough for all but a few in a table that is half full
_UNPLACED = 1e-3  # the share of runs that may find no place
_STEPS, _HISTORY = 60, 10


class RunTable(nn.Module):
    """Token ids int64 (N, L) -> logits float32 (N, 2): the weights of a text's runs, over the root of their number.

    The runs lie in a hash table, each in one of two places, under a fingerprint: one that was not learnt is taken for
    another with a probability of 1e-7.
    """

    def __init__(self, layer: NGrams, vocabulary: int) -> None:
        super().__init__()
        self.words, self.slots, self.vocabulary = layer.ngrams, layer.slots, vocabulary
        self.share = layer.share
        self.register_buffer("prints", torch.zeros(layer.slots))
        self.register_buffer("weights", torch.zeros(layer.slots))
        self.register_buffer("bias", torch.zeros(1))

    def forward(self, tokens: Tensor) -> Tensor:
        keys = self.keys(tokens).sort(dim=1).values
        once = F.pad(keys[:, 1:] != keys[:, :-1], (1, 0), value=True) & (keys > 0)
        first, second, fingerprint = self._places(keys)
        prints, weights = self.get_buffer("prints"), self.get_buffer("weights")
        in_first, in_second = prints[first] == fingerprint, prints[second] == fingerprint
        known = once & (in_first | in_second)
        found = torch.where(in_first, weights[first], weights[second]) * known
        logit = found.sum(dim=1) / known.sum(dim=1).clamp(min=1).sqrt() + self.get_buffer("bias")
        return torch.stack([-logit / 2, logit / 2], dim=1)

    def keys(self, tokens: Tensor) -> Tensor:
        """Every run of every text as a number of its own, 0 where there is none: int64 (N, words * L)."""
        padded, length = F.pad(tokens, (0, self.words - 1)), tokens.shape[1]
        key, keys = tokens, []
        for words in range(self.words):
            after = padded[:, words : words + length]
            key = key * self.vocabulary + after if words else after
            keys.append(torch.where(after != 0, key * self.words + words, 0))
        return torch.cat(keys, dim=1)

    def fill(self, keys: Tensor, weights: Tensor, bias: Tensor) -> None:
        """Put runs in their places: each goes to one of its two, and who lay there moves on to its other.

        Raises:
            RecipeError: the table is too small for all of them.
        """
        *both, fingerprint = self._places(keys)
        places = torch.stack(both)
        holder = torch.full((self.slots,), -1, dtype=torch.int64)
        turn, waiting = torch.zeros_like(keys), torch.arange(len(keys))
        for _ in range(_ROUNDS if len(keys) <= self.slots else 0):
            wanted = places[turn[waiting], waiting]
            winner = torch.full_like(holder, -1).scatter_reduce_(0, wanted, waiting, "amax")
            moved = holder[(winner >= 0) & (holder >= 0)]
            holder = torch.where(winner >= 0, winner, holder)
            waiting = torch.cat([waiting[winner[wanted] != waiting], moved])
            turn[waiting] = 1 - turn[waiting]
            if not len(waiting):
                break
        if len(waiting) > _UNPLACED * len(keys):
            raise RecipeError(
                f"ngrams: {len(keys):,} runs of words do not fit {self.slots:,} slots: set slots to {2 * len(keys):,} "
                "or more, or min_count higher"
            )
        mine = holder >= 0
        self.get_buffer("prints").zero_()[mine] = fingerprint[holder[mine]]
        self.get_buffer("weights").zero_()[mine] = weights[holder[mine]]
        self.get_buffer("bias").copy_(bias)

    def soften(self, temperature: float) -> None:
        """Divide the logits by a temperature."""
        self.get_buffer("weights").div_(temperature)
        self.get_buffer("bias").div_(temperature)

    def _places(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two slots of each run and its fingerprint, float32 from 1."""
        first, second = (keys % _PRIME * factor % _OTHER % self.slots for factor in _FACTORS)
        return first, second, (keys % _PRINTS + 1).to(torch.float32)


def learn(table: RunTable, layer: NGrams, train: Split) -> int:
    """Fill a table from texts of the classes 0 and 1, each seen once; gives the number of runs.

    Raises:
        RecipeError: no run stands in `layer.min_count` texts, or the table is too small.
    """
    keys, runs, counts, labels = _seen(table, train, layer.min_count)
    if not len(keys):
        raise RecipeError(f"ngrams: no run of words stands in {layer.min_count} texts: set min_count lower")
    odds = _log_odds(runs, labels.repeat_interleave(counts), len(keys))
    texts = _compressed(runs, counts, odds[runs] / counts.sqrt().repeat_interleave(counts), len(keys))
    weights, bias = regression(texts, labels, layer.cost)
    table.fill(keys, odds * weights, bias)
    return len(keys)


def regression(texts: Tensor, labels: Tensor, cost: float) -> tuple[Tensor, Tensor]:
    """Logistic regression: the weights (K) and bias (1) that make |weights|^2 / 2 + cost * (sum of losses) least.

    That is LIBLINEAR's objective (Fan et al., 2008), found by L-BFGS from 0, up to a number of steps that is more than
    accuracy needs.

    Args:
        texts: sparse CSR float32 (N, K).
        labels: 0 or 1, (N).
        cost: of a text's loss beside the penalty; the less, the nearer to 0 the weights stay.
    """
    goal, across = labels.float(), texts.t().to_sparse_csr()
    weights = torch.zeros(texts.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    search = torch.optim.LBFGS([weights, bias], max_iter=_STEPS, history_size=_HISTORY, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def objective() -> Tensor:
        logits = texts @ weights + bias
        slope = (logits.sigmoid() - goal) / len(goal)
        weights.grad = across @ slope + weights / (cost * len(goal))
        bias.grad = slope.sum().reshape(1)
        return F.binary_cross_entropy_with_logits(logits, goal) + weights.square().sum() / (2 * cost * len(goal))

    search.step(objective)  # type: ignore[no-untyped-call]
    return weights.detach(), bias.detach()


def _log_odds(runs: Tensor, labels: Tensor, width: int) -> Tensor:
    """How much more often each run stands in texts of class 1 than of class 0, as naive Bayes counts it: (K)."""
    positive = torch.zeros(width).index_add_(0, runs, labels.float()) + 1
    negative = torch.zeros(width).index_add_(0, runs, 1 - labels.float()) + 1
    return (positive / positive.sum()).log() - (negative / negative.sum()).log()


def _compressed(columns: Tensor, counts: Tensor, values: Tensor, width: int) -> Tensor:
    """A sparse CSR matrix (N, width) whose rows hold the first, next, ... `counts` of the values."""
    starts = F.pad(counts.cumsum(0), (1, 0))
    with warnings.catch_warnings():  # PyTorch calls CSR a beta; it is a tenth of the time that COO takes here
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(starts, columns, values, (len(counts), width), check_invariants=False)


def _seen(table: RunTable, train: Split, min_count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Keys of the runs that count (K); for text after text, which of them it holds; how many each holds; labels."""
    assert train.lengths is not None, "runs of words are learnt from texts"
    rows: dict[bytes, int] = {}  # the first of equal texts
    for index, (text, length) in enumerate(zip(train.inputs.numpy(), train.lengths.tolist(), strict=True)):
        rows.setdefault(text[:length].tobytes(), index)
    chosen = torch.tensor(list(rows.values()))
    found: list[Tensor] = []
    counts: list[Tensor] = []
    for part in torch.split(chosen, _TEXTS):
        keys = table.keys(train.texts(part).long()).sort(dim=1).values
        once = F.pad(keys[:, 1:] != keys[:, :-1], (1, 0), value=True) & (keys > 0)
        found.append(keys[once])
        counts.append(once.sum(dim=1))
    keys, runs, texts = torch.unique(torch.cat(found), return_inverse=True, return_counts=True)
    kept = texts >= min_count
    owner = torch.arange(len(chosen)).repeat_interleave(torch.cat(counts))[kept[runs]]
    renumbered = kept.cumsum(0) - 1
    return keys[kept], renumbered[runs[kept[runs]]], torch.bincount(owner, minlength=len(chosen)), train.labels[chosen]
