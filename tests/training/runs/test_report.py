"""The plots that a run leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from training.data.dataset import Dataset, Split
from training.errors import RunError
from training.fit.state import Epoch
from training.network.build import Embed, build
from training.network.calibrated import Calibration
from training.recipe.schema import Recipe
from training.runs import report, strongest


def test_the_first_filters_are_drawn_wherever_the_layer_stands(
    recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A convolution inside a block gives the same file as a convolution outside."""
    recipe, split = recipe_with(), stripes(30)
    torch.manual_seed(0)
    *body, last = network = build(recipe)
    data = Dataset(train=split, validation=split, tests={}, fingerprint="")
    for name, drawn in (("row", network), ("blocks", nn.Sequential(nn.Sequential(*body), last))):
        logits = torch.eye(3)[split.labels]
        history = [Epoch(1, 1.0, 0.5, 1.0, 0.5, 10.0, 1.0)]
        report.write(tmp_path / name, recipe, drawn, data, logits, Calibration(1.0), history)
    in_a_row, blocks = ((tmp_path / name / "filters.png").read_bytes() for name in ("row", "blocks"))
    assert blocks == in_a_row


def test_texts_have_a_page_of_mistakes_as_the_network_reads_them(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    """In place of images: the tokens of each mistaken text without padding, unknown words marked."""
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
    tokens = torch.tensor([[2, 1, 0], [3, 0, 0]], dtype=torch.int32)
    split = Split(tokens, torch.tensor([0, 1]))
    data = Dataset(split, split, {}, "", tokenizer.to_str())
    logits, history = torch.tensor([[0.0, 2.0], [0.0, 2.0]]), [Epoch(1, 1.0, 0.5, 1.0, 0.5, 10.0, 1.0)]
    layers = [{"embedding": 4}, {"windows": [1, 2], "filters": 3}, {"dense": 2, "activation": "none"}]
    text = {"kind": "text", "length": 3, "vocabulary": 4}
    recipe = recipe_with(labels=["negative", "positive"], layers=layers, input=text)
    report.write(tmp_path, recipe, build(recipe), data, logits, Calibration(1.0), history)
    page = (tmp_path / "mistakes.md").read_text(encoding="utf-8")
    assert "negative, predicted positive (88.08%), example 0\n\n    good [UNK]\n" in page
    assert "recipe small, data mnist, validation split, n = 2, epoch 1 of 3" in page
    ngrams = (tmp_path / "filters.md").read_text(encoding="utf-8")
    assert ngrams.count("\n| ") == 2 * (2 + 3)  # the heads of two tables, and three filters in each
    assert "## Windows of 2" in ngrams
    assert not (tmp_path / "mistakes.png").exists()


@pytest.mark.parametrize("name", ["curves", "confusion", "classes", "reliability", "filters", "mistakes"])
def test_a_file_that_cannot_be_written_is_named(
    name: str, recipe_with: Callable[..., Recipe], stripes: Callable[..., Split], tmp_path: Path
) -> None:
    """A folder in the place of any file is a RunError that names it and says that the checkpoints are complete."""
    (tmp_path / f"{name}.png").mkdir()
    recipe, split = recipe_with(), stripes(30)
    data, history = Dataset(split, split, {}, ""), [Epoch(1, 1.0, 0.5, 1.0, 0.5, 10.0, 1.0)]
    with pytest.raises(RunError, match=rf"{name}\.png.* checkpoints"):
        report.write(tmp_path, recipe, build(recipe), data, torch.eye(3)[split.labels], Calibration(1), history)


def test_the_strongest_n_grams_are_those_of_the_largest_responses() -> None:
    """A filter that multiplies the first and second embedding value of two neighbours finds the pair that has both."""
    embed = Embed(5, 2)
    conv = nn.Conv1d(2, 1, 2, bias=False)
    with torch.no_grad():
        embed.table.weight.copy_(torch.tensor([[0.0, 0], [0, 0], [1, 0], [0, 1], [0.1, 0.1]]))
        conv.weight.copy_(torch.tensor([[[1.0, 0], [0, 1]]]))
    texts = Split(torch.tensor([[4, 2, 3, 4], [2, 4, 0, 0]], dtype=torch.int32), torch.tensor([0, 1]))
    responses, ngrams = strongest.strongest(embed, conv, texts)
    assert ngrams[0, :2].tolist() == [[2, 3], [2, 4]]
    assert responses[0, :2].tolist() == pytest.approx([2.0, 1.1])
    assert [0, 0] not in ngrams[0][responses[0].isfinite()].tolist()
