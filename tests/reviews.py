"""A tiny model of texts, generated for tests: a network that adds up the weights of a few words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import parser
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from contract import manifest as contract
from contract.manifest import Manifest, Metrics
from contract.spec import TOKENIZER, TextInput

LABELS = ["negative", "positive"]
WEIGHTS = {"[PAD]": 9, "[UNK]": 0, "film": 0.01, "good": 0.4, "fine": 0.1, "bad": -0.4, "awful": -0.7}
"""Padding has a weight, so that a graph which does not mask it gives wrong results."""
WORDS = [*WEIGHTS][2:]
LENGTH = 64
MAX_BATCH = 8

GRAPH = """
    <ir_version: 10, opset_import: ["" : 21]>
    reviews (int64[N, L] tokens) => (float[N, 2] probabilities)
    <float[7, 1] weights = {9, 0, 0.01, 0.4, 0.1, -0.4, -0.7}, float[1, 2] signs = {-1, 1},
     int64 padding = {0}, int64[1] last = {2}, int64[1] along = {1}> {
        is_padding = Equal (tokens, padding)
        is_token = Not (is_padding)
        flat_mask = Cast <to = 1> (is_token)
        mask = Unsqueeze (flat_mask, last)
        gathered = Gather (weights, tokens)
        masked = Mul (gathered, mask)
        total = ReduceSum <keepdims = 0> (masked, along)
        logits = MatMul (total, signs)
        probabilities = Softmax (logits)
    }
"""


def reference(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """The network's expected output, (N, 2): a logistic function of twice the sum of the weights."""
    totals = np.array([sum(WEIGHTS.get(word, 0) for word in text.split()[:LENGTH]) for text in texts])
    positive = 1 / (1 + np.exp(-2 * totals))
    return np.stack([1 - positive, positive], axis=1).astype(np.float32)


def tokenizer(unknown: str = "[UNK]") -> Tokenizer:
    """Words separated by white space, in lower case -> their positions in `WEIGHTS`."""
    vocabulary = {word: index for index, word in enumerate(WEIGHTS)}
    result = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    result.normalizer = normalizers.Lowercase()
    result.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return result


def publish(folder: Path, *, graph: str = GRAPH, tokenizer_json: str | None = None, **change: Any) -> Path:
    """Write models/reviews/1 into a folder of models, with changes to its manifest; returns the version's folder."""
    version = folder / "reviews/1"
    version.mkdir(parents=True)
    onnx.save(parser.parse_model(graph), version / contract.GRAPH)
    (version / TOKENIZER).write_text(
        tokenizer().to_str() if tokenizer_json is None else tokenizer_json, encoding="utf-8"
    )
    (version / contract.CARD).write_text("# reviews, version 1\n", encoding="utf-8")
    tokens = np.array([[2, 3, 6], [4, 5, 0]], np.int64)
    expected = reference(["film good awful", "fine bad"])
    np.savez(version / contract.GOLDEN, inputs=tokens, probabilities=expected)
    manifest = Manifest.model_validate({**_fields(version), **change})
    manifest.write(version)
    return version


def _fields(version: Path) -> dict[str, Any]:
    names = (contract.GRAPH, TOKENIZER, contract.CARD, contract.GOLDEN)
    return {
        "model": "reviews",
        "version": 1,
        "input": TextInput(length=LENGTH, vocabulary=len(WEIGHTS)),
        "labels": LABELS,
        "preprocessing_version": contract.PREPROCESSING_VERSION,
        "max_batch": MAX_BATCH,
        "temperature": 1.0,
        "test_metrics": {"made-up": Metrics(n=1, accuracy=1, nll=0, ece=0)},
        "dataset": "made-up",
        "dataset_fingerprint": "sha256:none",
        "recipe": {},
        "parameters": len(WEIGHTS),
        "commit": "none",
        "created": "2026-01-01T00:00:00+00:00",
        "files": {name: contract.sha256(version / name) for name in names},
    }
