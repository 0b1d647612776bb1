"""What a linear model reads from the same texts: the baseline that a network has to beat to be worth its training."""

import warnings
from itertools import pairwise

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from training.data.dataset import Split

_MAX_TEXTS, _MAX_TOKENS = 20_000, 400
"""Enough for a baseline; more would take minutes and gigabytes."""
_UNKNOWN = 1


class LinearBaseline:
    """Logistic regression over the TF-IDF of the tokens of texts and of their pairs, by scikit-learn, in seconds.

    It sees the token ids that the network sees: of up to 20,000 training texts, the first 400 of each.
    """

    def __init__(self, train: Split) -> None:
        step = max(-(-len(train) // _MAX_TEXTS), 1)
        rows = torch.arange(0, len(train), step)
        self._vectorizer = TfidfVectorizer(analyzer=_ngrams, sublinear_tf=True, min_df=2 if len(rows) >= 2000 else 1)  # noqa: PLR2004 -- rare pairs of few texts are all there is
        features = self._vectorizer.fit_transform(_documents(train, rows))
        self._model = LogisticRegression(C=10.0, max_iter=200)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of an accuracy, the digits that matter are there
            self._model.fit(features, train.labels[rows].numpy())

    def accuracy(self, split: Split) -> float:
        """The share of the texts of a split that it classifies correctly."""
        features = self._vectorizer.transform(_documents(split, torch.arange(len(split))))
        return float((self._model.predict(features) == split.labels.numpy()).mean())


def _documents(split: Split, rows: torch.Tensor) -> list[list[int]]:
    ids = split.inputs[rows, :_MAX_TOKENS].tolist()
    return [[token for token in row if token] for row in ids]


def _ngrams(ids: list[int]) -> list[tuple[int, ...]]:
    """The known tokens of a text and its pairs of tokens."""
    return [(token,) for token in ids if token != _UNKNOWN] + list(pairwise(ids))
