"""What the inputs of manifests say about batches and tensors."""

import numpy as np
import pytest

from contract import batches
from contract.spec import ImageInput, InputSpec, TextInput

DIGIT = ImageInput(height=28, width=28, mode="L", framing="mnist")
TEXT = TextInput(length=400, vocabulary=7)


@pytest.mark.parametrize(("side", "mode", "items"), [(28, "L", 32), (96, "RGB", 9), (227, "RGB", 1), (1000, "RGB", 1)])
def test_a_cpu_runs_fewer_of_large_images_at_once(side: int, mode: str, items: int) -> None:
    """About 260,000 values at once, at least one image."""
    spec = ImageInput.model_validate({"height": side, "width": side, "mode": mode, "framing": "squash"})
    assert spec.max_run_items == items


@pytest.mark.parametrize(("spec", "shape"), [(DIGIT, (3, 28, 28, 1)), (TEXT, (3, 400))])
def test_a_batch_has_the_axes_of_the_graph(spec: InputSpec, shape: tuple[int, ...]) -> None:
    """Items and length take the places of the open axes; no item is longer than the longest."""
    assert spec.shape(3, 1000) == shape
    assert len(spec.axes) == len(shape)


@pytest.mark.parametrize("spec", [DIGIT, TEXT])
def test_random_batches_are_items_of_the_graph(spec: InputSpec) -> None:
    """They are the same each time, and the graph accepts each item."""
    batch = batches.random(spec, 16)
    assert np.array_equal(batch, batches.random(spec, 16))
    assert batch.dtype == spec.dtype
    assert len(spec.split(batch)) == 16


def test_token_ids_are_split_into_texts_without_padding() -> None:
    """Zeros inside of a text stay."""
    items = TEXT.split(np.array([[3, 0, 1, 0], [5, 0, 0, 0]]))
    assert [item.tolist() for item in items] == [[3, 0, 1], [5]]


@pytest.mark.parametrize(
    ("spec", "tensor", "fact"),
    [
        (DIGIT, np.zeros((2, 28, 1, 28)), r"\[2, 28, 1, 28\]; expected \[N, 28, 28, 1\]"),
        (TEXT, np.ones((2, 401)), "400"),
        (TEXT, np.ones(3), r"\[3\]; expected \[N, L\]"),
        (TEXT, np.array([[7]]), "0 to 6"),
        (TEXT, np.array([[-1]]), "0 to 6"),
        (TEXT, np.array([[1, 2], [0, 0]]), "padding"),
    ],
)
def test_tensors_that_the_graph_does_not_take_are_refused(spec: InputSpec, tensor: np.ndarray, fact: str) -> None:
    """The message says what was received and what was expected."""
    with pytest.raises(ValueError, match=fact):
        spec.split(tensor)
