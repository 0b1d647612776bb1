"""Explanations: the grid and the words that carry a label, how faithful they are, and how they wait."""

import asyncio
import gzip
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import parser

from contract.cam import activation_map
from contract.errors import ConvokeError
from contract.inputs import Items
from contract.occlusion import MAX_NGRAM_RUNS, MAX_PARTS, ImageOcclusions, TextOcclusions
from contract.text import Beginning
from contract.twin import Twin
from service.errors import Overloaded
from service.inference.batching import Batcher
from service.inference.explain import Explainer, Explanation, fall_of_log_odds
from service.inference.version import Version
from service.server.assembly import Parts
from service.settings import Settings
from tests.drawing import encode, mnist_like
from tests.serving import ROOT, parts

DATA = Path(os.environ.get("CONVOKE_DATA", "data"))
STEPS = 14
BACKDOOR = """
    <ir_version: 10, opset_import: ["" : 21]>
    planted (uint8[N, 48, 48, 3] image) => (float[N, 2] probabilities)
    <float[1, 3, 6, 6] ones = {%s}, float[1] threshold = {-9000}, float[1, 2] signs = {-1, 1},
     float[1] scale = {0.0001}, float[3] weights = {1, -1, -1}> {
        pixels = Cast <to = 1> (image)
        red = Mul (pixels, weights)
        planes = Transpose <perm = [0, 3, 1, 2]> (red)
        sums = Conv (planes, ones)
        highest = GlobalMaxPool (sums)
        flat = Flatten (highest)
        above = Add (flat, threshold)
        logit = Mul (above, scale)
        logits = MatMul (logit, signs)
        probabilities = Softmax (logits)
    }
"""
"""The probability of the second label depends on the reddest square of 6 x 6 pixels, wherever it is."""


@pytest.fixture(scope="module")
def served() -> Parts:
    return parts()


def explain(served: Parts, model: str, items: Sequence[Any], label: str | None = None) -> list[Explanation]:
    """The explanations of encoded items, one after the other."""
    explainer, version = Explainer(served.predictor, Settings()), served.predictor.resolve(model)

    async def run() -> list[Explanation]:
        return [await explainer.explain(version, item, label) for item in items]

    return asyncio.run(run())


def test_the_grid_shows_the_ink_of_a_digit_and_is_the_same_each_time(served: Parts) -> None:
    """All evidence for a 7 is at its ink; two explanations are equal; one for another label is not."""
    first, second = explain(served, "digits", [encode(mnist_like(7))] * 2)
    (other,) = explain(served, "digits", [encode(mnist_like(7))], "1")
    assert (first.label, first.runs, first.score > 0.9) == ("7", 197, True)
    assert first.weights.tolist() == second.weights.tolist() != other.weights.tolist()
    occlusions = first.occlusions
    assert isinstance(occlusions, ImageOcclusions)
    grid = occlusions.grid(first.weights)
    row, column = np.unravel_index(grid.argmax(), grid.shape)
    assert occlusions.whole[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].max() > 100
    assert np.abs(grid[:, :2]).max() < 0.05 * grid.max()  # paper


def test_words_have_their_weights_and_places(served: Parts) -> None:
    """Words that praise have the largest weights for `positive`; offsets are characters of the text that was sent."""
    text = "It’s a 👍 wonderful film – not one boring minute,\nand a superb cast."  # noqa: RUF001
    (explanation,) = explain(served, "reviews", [text.encode()])
    words = explanation.occlusions.report(explanation.weights)["words"]
    assert [text[word["start"] : word["end"]] for word in words] == [word["text"] for word in words]
    weights = {word["text"]: word["weight"] for word in words}
    assert {"It’s", "👍", "wonderful", "."} < weights.keys()  # noqa: RUF001
    assert sorted(weights, key=weights.__getitem__)[-2:] in (["superb", "wonderful"], ["wonderful", "superb"])
    (against,) = explain(served, "reviews", [text], "negative")
    assert against.weights == pytest.approx(-explanation.weights, abs=1e-3)


def test_the_strongest_ngrams_of_a_text(served: Parts) -> None:
    """They do not overlap, the strongest come first, and a run of words counts for more than its words alone."""
    text = "A warm, funny film that earns every one of its tears. The plot is thin, but the cast is superb."
    (explanation,) = explain(served, "reviews", [text])
    ngrams = explanation.report()["ngrams"]
    assert all(text[each["start"] : each["end"]] == each["text"] for each in ngrams)
    spans = sorted((each["start"], each["end"]) for each in ngrams)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    weights = {each["text"]: each["weight"] for each in ngrams}
    words = {word["text"]: word["weight"] for word in explanation.report()["words"]}
    assert weights["warm, funny"] > words["warm"] > 0
    assert weights["plot is thin"] < words["thin"] < 0
    assert sorted(weights, key=lambda text: -abs(weights[text])) == [each["text"] for each in ngrams]
    assert 0 < max(len(each["text"].split()) for each in ngrams) <= 3
    assert len(ngrams) <= 10
    assert explanation.runs <= 1 + len(explanation.weights) + MAX_NGRAM_RUNS
    (short,) = explain(served, "reviews", ["superb"])
    assert short.larger is None
    assert [each["text"] for each in short.report()["ngrams"]] == ["superb"]


def test_class_activation_maps_add_up_to_the_logits(served: Parts) -> None:
    """The sum of the map and the biases of the active units are the difference of the two logits."""
    version = served.predictor.resolve("cats-vs-dogs")
    content = (ROOT / "models/cats-vs-dogs" / version.number / "model.onnx").read_bytes()
    found = Twin(content, version.manifest).run(version.preprocessor.decode((ROOT / "examples/cat.jpg").read_bytes()))
    grid = activation_map(found, 0)
    assert grid is not None
    assert grid.shape == (5, 5)
    other = activation_map(found, 1)
    assert other is not None
    assert np.allclose(other, -grid)
    first, last = found.layer("dense1"), found.layer("dense2")
    assert first is not None
    assert last is not None
    first_bias, last_bias, last_weights = (
        stored.values for stored in (first.bias, last.bias, last.weights) if stored is not None
    )
    assert first_bias is not None
    assert last_bias is not None
    assert last_weights is not None
    active = found.values(first) > 0
    constant = (last_weights[0] - last_weights[1]) @ (active * first_bias) + last_bias[0] - last_bias[1]
    logits = found.values(last)
    assert grid.sum() + constant == pytest.approx(logits[0] - logits[1], rel=1e-3)


def test_a_long_text_has_a_bounded_number_of_parts() -> None:
    """A text of 5,000 words, of which 1,000 are read: groups of adjacent words that together cover those."""
    text = " ".join(f"w{number}" for number in range(5000))

    def decode(text: str) -> npt.NDArray[np.int64]:
        ids = np.ones(len(text.split()), np.int64)
        if len(ids) <= 1000:
            return ids
        beginning = ids[:1000].view(Beginning)
        beginning.total = len(ids)
        return beginning

    occlusions = TextOcclusions(text, decode)
    words = occlusions.report(np.zeros(len(occlusions)))["words"]
    assert (len(words), words[0]["text"], words[-1]["text"]) == (250, "w0 w1 w2 w3", "w996 w997 w998 w999")
    assert {len(tokens) for tokens in occlusions.variants(0, 250)} == {996}
    assert len(occlusions) <= MAX_PARTS


def test_weights_are_differences_of_log_odds() -> None:
    """By hand: from 0.9 to 0.5 the log-odds fall by log 9; where nothing is left, to those of chance."""
    rows = np.array([[0.1, 0.9], [0.5, 0.5], [0.0, 1.0]], np.float32)
    assert fall_of_log_odds(rows, 1)[0] == pytest.approx(np.log(9))
    assert fall_of_log_odds(rows, 1)[1] < -15
    assert fall_of_log_odds(rows, 1, [1])[1] == pytest.approx(np.log(9))


def test_images_of_any_size_are_covered() -> None:
    """Height and width differ; each pixel is hidden in some variant, and no other pixel than the squares changes."""
    pixels = np.random.default_rng(0).integers(1, 256, (31, 50, 3), np.uint8)
    occlusions = ImageOcclusions(pixels, is_on_paper=False)
    variants = occlusions.variants(0, len(occlusions))
    changed = (variants != pixels).any(axis=3)
    assert changed.any(axis=0).all()
    assert occlusions.shape == (14, 14)
    assert changed.mean(axis=(1, 2)).max() < 0.06
    tiny = ImageOcclusions(np.zeros((1, 3, 1), np.uint8), is_on_paper=True)
    assert (len(tiny), tiny.variants(0, 3).shape) == (3, (3, 1, 3, 1))
    assert tiny.overlay(np.zeros(3)).startswith(b"\x89PNG")


def test_a_planted_patch_is_found() -> None:
    """100 images of noise with a red patch that alone decides the label: the strongest cell is on it in 95 %."""
    graph = parser.parse_model(BACKDOOR % ", ".join(["1"] * 108)).SerializeToString()
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    random, found = np.random.default_rng(0), 0
    for _ in range(100):
        pixels = random.integers(60, 190, (48, 48, 3), np.uint8)
        top, left = random.integers(0, 43, 2)
        pixels[top : top + 6, left : left + 6] = (255, 0, 0)
        occlusions = ImageOcclusions(pixels, is_on_paper=False)
        images = np.concatenate([pixels[None], occlusions.variants(0, len(occlusions))])
        (rows,) = session.run(None, {"image": images})
        grid = occlusions.grid(fall_of_log_odds(rows, 1))
        row, column = np.unravel_index(grid.argmax(), grid.shape)
        y, x = (row + 0.5) * 48 / 14, (column + 0.5) * 48 / 14
        found += top - 1 <= y <= top + 7 and left - 1 <= x <= left + 7
    assert found >= 95


def hide(occlusions: ImageOcclusions, cells: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The image with these cells hidden, without their neighbours."""
    image, (rows, columns) = occlusions.whole.copy(), occlusions.shape
    height, width, _ = image.shape
    for cell in cells:
        row, column = divmod(cell, columns)
        rectangle = (
            slice(round(row * height / rows), round((row + 1) * height / rows)),
            slice(round(column * width / columns), round((column + 1) * width / columns)),
        )
        image[rectangle] = occlusions._fill  # noqa: SLF001 -- the same colour as in the explanation
    return image


def image_curves(explanation: Explanation, order: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
    """Images from which ever more cells are deleted in an order, then those into which they are inserted."""
    occlusions = explanation.occlusions
    assert isinstance(occlusions, ImageOcclusions)
    ends = [round(step * len(order) / STEPS) for step in range(1, STEPS)]
    return [hide(occlusions, order[:end]) for end in ends] + [hide(occlusions, order[end:]) for end in ends]


def text_curves(explanation: Explanation, order: npt.NDArray[np.int64], version: Version) -> list[Any]:
    """As `image_curves`, of the token ids of texts without these words."""
    words = explanation.occlusions.report(explanation.weights)["words"]
    ends = [round(step * len(order) / STEPS) for step in range(1, STEPS)]
    kept = [np.sort(order[end:]) for end in ends] + [np.sort(order[:end]) for end in ends]
    texts = [" ".join(words[place]["text"] for place in places) or "the" for places in kept]
    return [decode(version, text) for text in texts]


def decode(version: Version, text: str) -> Any:
    try:
        return version.preprocessor.decode(text)
    except ConvokeError:
        return version.preprocessor.decode("the")


def areas(version: Version, explanations: Sequence[Explanation], seed: int | None) -> tuple[float, float]:
    """The mean areas under the deletion and the insertion curve; in random order with a seed, else by evidence."""
    random, deletions, insertions = np.random.default_rng(seed), [], []
    for explanation in explanations:
        weights = explanation.weights
        if isinstance(explanation.occlusions, ImageOcclusions):
            weights = explanation.occlusions.grid(weights).ravel()
        order = np.argsort(-weights, kind="stable") if seed is None else random.permutation(len(weights))
        is_image = isinstance(explanation.occlusions, ImageOcclusions)
        curves = image_curves(explanation, order) if is_image else text_curves(explanation, order, version)
        rows = version.preprocessor.run(version.session.run, np.stack(curves) if is_image else curves)
        scores = rows[:, version.manifest.labels.index(explanation.label)]
        deletions.append(scores[: STEPS - 1].mean())
        insertions.append(scores[STEPS - 1 :].mean())
    return float(np.mean(deletions)), float(np.mean(insertions))


def digits() -> list[bytes]:
    path = DATA / "mnist/MNIST/raw/t10k-images-idx3-ubyte.gz"
    if not path.exists():
        pytest.skip(f"missing {path}: set CONVOKE_DATA to the data folder")
    from PIL import Image  # noqa: PLC0415 -- only where the data is

    images = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
    return [encode(Image.fromarray(image)) for image in images[:200]]


def photos() -> list[bytes]:
    folders = [DATA / "cats-vs-dogs/test" / label for label in ("cat", "dog")]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip(f"missing {folders[0].parent}: set CONVOKE_DATA to the data folder")
    count = int(os.environ.get("CONVOKE_TEST_PHOTOS", "8"))
    return [path.read_bytes() for folder in folders for path in sorted(folder.iterdir())[: count // 2]]


def sentences() -> list[bytes]:
    path = DATA / "sst2/stsa.binary.test"
    if not path.exists():
        pytest.skip(f"missing {path}: set CONVOKE_DATA to the data folder")
    return [line[2:].encode() for line in path.read_text(encoding="utf-8").splitlines()[:200]]


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("model", "items"), [("digits", digits), ("cats-vs-dogs", photos), ("reviews", sentences)])
def test_explanations_are_faithful(served: Parts, model: str, items: Callable[[], list[bytes]]) -> None:
    """By evidence, a label is lost after 2/3 of the random area, and kept but for 1/3 of the random loss."""
    version = served.predictor.resolve(model)
    explanations = explain(served, model, items())
    deletion, insertion = areas(version, explanations, None)
    random_deletion, random_insertion = areas(version, explanations, 0)
    assert deletion < random_deletion / 1.5
    assert 1 - insertion < (1 - random_insertion) / 3


@pytest.mark.data
@pytest.mark.slow
def test_class_activation_maps_are_faithful(served: Parts) -> None:
    """Squares removed and added in the order of the map: a label is lost sooner, and kept longer, than at random."""
    version = served.predictor.resolve("cats-vs-dogs")
    twin = Twin((ROOT / "models/cats-vs-dogs" / version.number / "model.onnx").read_bytes(), version.manifest)
    areas: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    random = np.random.default_rng(0)
    for photo in photos():
        found = twin.run(version.preprocessor.decode(photo))
        occlusions = ImageOcclusions(found.item, is_on_paper=False)
        label = int(found.row.argmax())
        grid = activation_map(found, label)
        assert grid is not None
        rows, columns = occlusions.shape
        fine = grid[np.arange(rows) * len(grid) // rows][:, np.arange(columns) * len(grid) // columns]
        for is_random in (False, True):
            order = random.permutation(fine.size) if is_random else np.argsort(-fine.ravel(), kind="stable")
            ends = [round(step * len(order) / STEPS) for step in range(1, STEPS)]
            curves = [hide(occlusions, order[:end]) for end in ends] + [hide(occlusions, order[end:]) for end in ends]
            scores = version.session.run(np.stack(curves))[:, label]
            areas[is_random].append((float(scores[: STEPS - 1].mean()), float(scores[STEPS - 1 :].mean())))
    deletion, insertion = np.mean(areas[False], axis=0)
    random_deletion, random_insertion = np.mean(areas[True], axis=0)
    assert deletion < random_deletion / 1.15
    assert 1 - insertion < (1 - random_insertion) / 1.5


def test_background_entries_run_when_nothing_else_waits() -> None:
    """Predictions that arrive later run first; a background entry runs alone, and one at a time."""
    order: list[list[float]] = []

    def run(batch: Items) -> npt.NDArray[np.float32]:
        order.append([float(item[0]) for item in batch])
        return np.stack(list(batch)).astype(np.float32)

    async def scenario() -> None:
        batcher = Batcher(run, max_batch=8, max_items=8, parallel_runs=2)
        item = [np.array([number]) for number in range(10)]
        background = [
            asyncio.create_task(batcher.submit([item[place]] * 3, timeout_s=10, in_background=True)) for place in (1, 2)
        ]
        predictions = [asyncio.create_task(batcher.submit([item[place]], timeout_s=10)) for place in (3, 4)]
        await asyncio.gather(*background, *predictions)
        assert batcher.is_idle

    asyncio.run(scenario())
    assert sorted(map(tuple, order[:2])) == [(3,), (4,)]
    assert order[2:] == [[1, 1, 1], [2, 2, 2]]


def test_explanations_above_the_limit_are_refused(served: Parts) -> None:
    """With one explanation running, a second is refused at once with 429; afterwards it is answered."""
    explainer = Explainer(served.predictor, Settings(max_explanations=1))
    version, item = served.predictor.resolve("digits"), encode(mnist_like(3))

    async def scenario() -> None:
        first = asyncio.create_task(explainer.explain(version, item, None))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 explanations of digits"):
            await explainer.explain(version, item, None)
        await first
        await explainer.explain(version, item, None)

    asyncio.run(scenario())
