"""N-grams: the table compared with loops, what it learns, and the network that it is averaged with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.data.dataset import Split
from training.errors import RecipeError
from training.evaluation import metrics as evaluate
from training.fit import checkpoint, state
from training.fit.loop import fit
from training.network import ngrams
from training.network.build import Served, WithNGrams, build, normalise
from training.network.calibrated import Calibration
from training.network.ngrams import NGramTable
from training.recipe.layers import NGrams
from training.recipe.schema import Recipe
from training.recipe.shapes import trace
from training.release.publish import export

VOCABULARY = 20
LAYER = NGrams(ngrams=3, min_count=2, slots=9973)
TEXT: dict[str, Any] = {
    "labels": ["no", "yes"],
    "input": {"kind": "text", "length": 12, "vocabulary": VOCABULARY},
    "layers": [
        {"embedding": 4},
        {"windows": [1], "filters": 5},
        {"dense": 2, "activation": "softmax"},
        {"ngrams": 3, "min_count": 2, "slots": 9973, "share": 0.6},
    ],
    "epochs": 3,
    "batch_size": 50,
    "data": {"name": "mr", "validation": 100},
}
texts_of_ids = st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=5)


def padded(*texts: list[int]) -> Tensor:
    """Token ids as int32 (N, longest L)."""
    rows = [torch.tensor(text, dtype=torch.int32) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def ordered(count: int, seed: int = 0) -> Split:
    """Texts of the same words in both classes: token 3 comes before token 4 in class 1, after it in class 0."""
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for index in range(count):
        text = torch.randint(5, VOCABULARY, (8,), generator=generator).tolist()
        position = int(torch.randint(0, 8, (1,), generator=generator))
        texts.append([*text[:position], *((3, 4) if index % 2 else (4, 3)), *text[position:]])
    return Split(padded(*texts), torch.arange(count) % 2)


def ngrams_of(text: list[int]) -> set[tuple[int, ...]]:
    """The distinct n-grams of one to three words."""
    return {tuple(text[start : start + words]) for words in (1, 2, 3) for start in range(len(text) - words + 1)}


def key_of(ngram: tuple[int, ...], table: NGramTable) -> int:
    """The key of an n-gram: the last one that the table gives for a text of this n-gram."""
    keys: list[int] = table.keys(torch.tensor([ngram]))[0].tolist()
    return keys[(len(ngram) - 1) * len(ngram)]


@settings(max_examples=50, deadline=None)
@given(texts_of_ids, st.integers(0, 2**30))
def test_a_logit_is_the_sum_over_known_ngrams_over_the_root_of_their_number(texts: list[list[int]], seed: int) -> None:
    """In loops: repeated n-grams count once, unknown ones are ignored; the classes have half the logit each."""
    generator = np.random.default_rng(seed)
    distinct = sorted({ngram for text in texts for ngram in ngrams_of(text)})
    known = {ngram: float(generator.normal()) for ngram in distinct if generator.random() < 0.6}
    table = NGramTable(LAYER, VOCABULARY)
    keys = torch.tensor([key_of(ngram, table) for ngram in known], dtype=torch.int64)
    table.fill(keys, torch.tensor(list(known.values())), torch.tensor([0.25]))
    actual = table(padded(*texts).long())
    for row, text in zip(actual.tolist(), texts, strict=True):
        weights = [known[ngram] for ngram in ngrams_of(text) if ngram in known]
        logit = sum(weights) / max(len(weights), 1) ** 0.5 + 0.25
        np.testing.assert_allclose(row, [-logit / 2, logit / 2], atol=1e-5)


@pytest.mark.parametrize(("slots", "load"), [(9973, 0.1), (9973, 0.3), (9973, 0.45), (10_000, 0.45), (9999, 0.45)])
def test_nearly_every_ngram_is_stored(slots: int, load: float) -> None:
    """In a table up to nearly half full, at most one n-gram in a thousand is missing, and none is mistaken.

    Also if the number of slots divides the vocabulary, or nearly.
    """
    table = NGramTable(LAYER.model_copy(update={"slots": slots}), 30000)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(1, 30000, (int(slots * load), 3), generator=generator)
    texts = texts[torch.randperm(len(texts), generator=generator)]
    keys = table.keys(texts)[:, 6]  # after three single words, two pairs and a 0: the key of all three words
    keys = torch.unique(keys)
    table.fill(keys, torch.ones(len(keys)), torch.zeros(1))
    actual = table(texts)[:, 1] * 2
    assert float((actual == 1).float().mean()) >= 0.999
    assert int((table.get_buffer("prints") > 0).sum()) >= 0.999 * len(keys)


def test_a_table_that_is_too_small_is_refused() -> None:
    """The message says how many slots are needed."""
    with pytest.raises(RecipeError, match=r"ngrams: 504 .* 97 .* 1,008"):
        ngrams.learn(NGramTable(LAYER.model_copy(update={"slots": 97}), VOCABULARY), LAYER, ordered(200))


def test_too_high_a_min_count_is_refused() -> None:
    """If no n-gram occurs in so many texts, there is nothing to learn."""
    layer = LAYER.model_copy(update={"min_count": 1000})
    with pytest.raises(RecipeError, match=r"ngrams: .*1000 texts.*min_count"):
        ngrams.learn(NGramTable(layer, VOCABULARY), layer, ordered(200))


def test_the_order_of_words_is_learnt() -> None:
    """Both classes have the same words; copies of a text change nothing; learning again gives the same table."""
    train, unseen = ordered(400), ordered(100, seed=1)
    table, again = NGramTable(LAYER, VOCABULARY), NGramTable(LAYER, VOCABULARY)
    count = ngrams.learn(table, LAYER, train)
    assert count == ngrams.learn(again, LAYER, train + train.first(200))
    accuracy = (table(unseen.inputs.long()).argmax(dim=1) == unseen.labels).float().mean()
    assert float(accuracy) > 0.95
    np.testing.assert_allclose(table.get_buffer("weights"), again.get_buffer("weights"))


def test_the_regression_is_a_minimum_of_its_objective() -> None:
    """The gradient of the objective, in NumPy, is 0 at the result; a lower cost gives smaller weights."""
    generator = np.random.default_rng(0)
    texts, labels = generator.normal(size=(80, 5)) * (generator.random((80, 5)) < 0.5), generator.integers(0, 2, 80)
    sizes = []
    for cost in (0.1, 10.0):
        matrix = torch.tensor(texts, dtype=torch.float32).to_sparse_csr()
        weights, bias = (result.numpy() for result in ngrams.regression(matrix, torch.tensor(labels), cost))
        slope = 1 / (1 + np.exp(-(texts @ weights + bias))) - labels
        np.testing.assert_allclose(texts.T @ slope * cost, -weights, atol=0.01 * cost)
        assert abs(slope.sum()) < 0.01
        sizes.append(float(np.square(weights).sum()))
    assert 0 < sizes[0] < sizes[1]


def test_only_ngrams_of_enough_texts_are_kept() -> None:
    """An n-gram that a text repeats counts once, and so do equal texts."""
    split = Split(padded([7, 7, 7], [8, 9], [8, 9]), torch.tensor([0, 1, 0]))
    table = NGramTable(LAYER, VOCABULARY)
    with pytest.raises(RecipeError, match="2 texts"):
        ngrams.learn(table, LAYER, split)  # equal texts count once
    split = Split(padded([7, 7, 7], [8, 9], [8, 9, 5]), torch.tensor([0, 1, 0]))
    assert ngrams.learn(table, LAYER, split) == 3  # 8, 9 and 8 9


def test_the_network_is_trained_without_the_table_and_evaluated_with_it(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """Windows of one word cannot separate the classes: alone the network guesses; with the table it is right."""
    recipe, unseen = recipe_with(**TEXT), ordered(100, seed=1)
    network = fit(recipe, ordered(400), unseen, tmp_path / "fit.pt")
    assert isinstance(network, WithNGrams)
    logits = evaluate.logits(network, normalise(recipe), unseen)
    assert float((logits.argmax(dim=1) == unseen.labels).float().mean()) > 0.9
    tokens = unseen.inputs.long()
    alone = network.train()(tokens)
    assert float((alone.argmax(dim=1) == unseen.labels).float().mean()) < 0.7
    np.testing.assert_allclose(logits, (0.4 * alone + 0.6 * network[-1](tokens)).detach(), atol=1e-5)


def test_a_training_resumes_bit_for_bit(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """The checkpoint holds the table, which averaging does not change; an interrupted run ends as any other."""
    recipe, data = recipe_with(**TEXT, average_decay=0.9), (ordered(300), ordered(50, seed=1))
    uninterrupted = fit(recipe, *data, tmp_path / "whole.pt")

    def stop(history: list[state.Epoch]) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(recipe, *data, tmp_path / "stopped.pt", watch=stop)
    continued = fit(recipe, *data, tmp_path / "stopped.pt")
    for name, value in uninterrupted.state_dict().items():
        assert torch.equal(value, continued.state_dict()[name]), name
    kept: Any = checkpoint.load(tmp_path / "whole.pt")
    for name in ("3.prints", "3.weights", "3.bias"):
        assert torch.equal(kept["network"][name], kept["average"][f"module.{name}"])
    assert torch.equal(
        state.trained(recipe, tmp_path / "whole.pt").state_dict()["3.weights"], kept["network"]["3.weights"]
    )


def test_onnx_runtime_agrees_with_torch(recipe_with: Callable[..., Recipe], tmp_path: Path) -> None:
    """Probabilities of the exported graph with a temperature, for any number of texts and any length.

    The words are the last of 30,000, whose n-grams have keys above 32 bits, where ONNX Runtime's Clip is wrong.
    """

    def last(split: Split) -> Split:
        return Split(torch.where(split.inputs > 0, split.inputs + 29_970, 0).int(), split.labels)

    recipe = recipe_with(**{**TEXT, "input": {**TEXT["input"], "vocabulary": 30_000}})
    network = fit(recipe, last(ordered(300)), None, tmp_path / "fit.pt")
    unseen = last(ordered(200, seed=2))
    expected = torch.softmax(evaluate.logits(network, normalise(recipe), unseen) / 1.7, dim=1)
    served = Served(recipe, network, Calibration(1.7))
    export(served, recipe.input.served(), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])

    def run(tokens: Tensor) -> Any:
        return session.run(None, {"tokens": tokens.long().numpy()})[0]

    np.testing.assert_allclose(run(unseen.inputs), expected, atol=1e-5)
    for text in ([29_973], [29_973, 29_974], [29_973, 29_974, 0, 0]):
        tokens = torch.tensor([text])
        np.testing.assert_allclose(run(tokens), served(tokens).detach(), atol=1e-5)


def test_shapes_count_its_weights(recipe_with: Callable[..., Recipe]) -> None:
    """One weight for each slot and a bias, which are buffers of the module."""
    recipe = recipe_with(**TEXT)
    step = trace(recipe)[-1]
    table = build(recipe)[-1]
    sizes = table.get_buffer("weights").numel(), table.get_buffer("bias").numel()
    assert (step.weights, step.biases) == (9973, 1) == sizes
    assert step.title == "n-grams of 1 to 3 words in 2 texts or more, weight 60%"


@pytest.mark.parametrize(
    ("layers", "labels", "message"),
    [
        ([{"ngrams": 3, "slots": 97}, TEXT["layers"][2]], 2, r"layers\[3\]: ngrams .* two logits"),
        (
            [TEXT["layers"][2], {"ngrams": 3, "slots": 97}, {"dense": 2, "activation": "softmax"}],
            2,
            r"layers\[4\]: ngrams .* last layer",
        ),
        ([{"dense": 3, "activation": "softmax"}, {"ngrams": 2, "slots": 97}], 3, "two logits, got 3"),
        (
            [{"dense": 2, "activation": "relu"}, {"ngrams": 2, "slots": 97}],
            2,
            r"layers\[3\]: the last layer must be dense",
        ),
    ],
)
def test_the_table_must_follow_two_logits(
    layers: list[dict[str, Any]], labels: int, message: str, recipe_with: Callable[..., Recipe]
) -> None:
    """Other stacks are refused; the message names the layer and the reason."""
    stack = [*TEXT["layers"][:2], *layers]
    recipe = recipe_with(**{**TEXT, "layers": stack, "labels": ["a", "b", "c"][:labels]})
    with pytest.raises(RecipeError, match=message):
        trace(recipe)


def test_too_large_a_vocabulary_is_refused(recipe_with: Callable[..., Recipe]) -> None:
    """Three words of two million make more n-grams than an int64 can number; two words do not."""
    words = {"kind": "text", "length": 12, "vocabulary": 2_000_000}
    with pytest.raises(RecipeError, match=r"input.vocabulary: 2,000,000 words .* 2e\+19 .* 3 words"):
        trace(recipe_with(**{**TEXT, "input": words}))
    *layers, table = TEXT["layers"]
    trace(recipe_with(**{**TEXT, "input": words, "layers": [*layers, {**table, "ngrams": 2}]}))


def test_a_table_is_not_pretrained(recipe_with: Callable[..., Recipe]) -> None:
    """Pretrained weights cannot be combined with a table."""
    weights = {"name": "pretrained", "url": "http://127.0.0.1/weights.pth", "sha256": "0" * 64}
    with pytest.raises(RecipeError, match=r"initialise: pretrained .* ngrams"):
        trace(recipe_with(**TEXT, initialise=weights))
