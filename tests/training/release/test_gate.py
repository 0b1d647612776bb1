"""The gate: its arithmetic against coins counted by hand, and the version that it compares with."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from contract.manifest import CARD, GOLDEN, GRAPH, MANIFEST, PREPROCESSING_VERSION, Manifest, Metrics, sha256
from contract.session import Session
from contract.spec import ImageInput
from training.data.dataset import Split
from training.errors import PublishError, TrainingError
from training.evaluation.measures import mcnemar
from training.intervals import wilson
from training.release import gate, looks
from training.release.gate import compare

GRAPH_TEXT = """
    <ir_version: 10, opset_import: ["" : 21]>
    images (uint8[N, 1, 1, 1] image) => (float[N, 2] probabilities)
    <float[1, 1] edge = {EDGE}, float[1, 2] sides = {-1, 1}, int64[2] flat = {-1, 1}> {
        wide = Cast <to = 1> (image)
        level = Reshape (wide, flat)
        over = Sub (level, edge)
        logits = MatMul (over, sides)
        probabilities = Softmax (logits)
    }
"""
LEVELS = torch.arange(200, dtype=torch.uint8)
TRUTH = 100  # images of this level and above are light


@pytest.fixture(autouse=True)
def _levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of one pixel, dark or light, in place of a data set."""
    split = Split(LEVELS.view(-1, 1, 1, 1), (LEVELS >= TRUTH).long())
    monkeypatch.setattr(
        "training.release.gate.catalogue.tests", lambda name, *_: {"levels": split} if name == "levels" else {}
    )


def publish(home: Path, number: int, edge: float, labels: tuple[str, str] = ("dark", "light")) -> Manifest:
    """A version that calls an image light from the level `edge` on: wrong on all levels between it and the truth."""
    folder = home / str(number)
    folder.mkdir(parents=True)
    onnx.save(parser.parse_model(GRAPH_TEXT.replace("EDGE", str(edge))), folder / GRAPH)
    for name in (CARD, GOLDEN):
        (folder / name).write_bytes(b"")
    manifest = Manifest(
        model="levels",
        version=number,
        input=ImageInput(height=1, width=1, mode="L", framing="squash"),
        labels=list(labels),
        preprocessing_version=PREPROCESSING_VERSION,
        max_batch=8,
        temperature=1.0,
        test_metrics={"levels": Metrics(n=1, accuracy=1, nll=0, ece=0)},
        dataset="levels",
        dataset_fingerprint="sha256:none",
        recipe={},
        parameters=1,
        commit="none",
        created="2026-01-01T00:00:00+00:00",
        files={name: sha256(folder / name) for name in (GRAPH, CARD, GOLDEN)},
    )
    manifest.write(folder)
    return manifest


def answers(edge: float, images: int = 200) -> dict[str, gate.Answers]:
    """What a model with this edge answers to the first images."""
    light = (edge <= LEVELS[:images]).numpy()
    return {
        "levels": gate.Answers(
            np.eye(2, dtype=np.float32)[light.astype(int)], (LEVELS >= TRUTH)[:images].long().numpy()
        )
    }


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 1), (1, 0), (3, 4), (2, 8), (8, 2), (5, 5)])
def test_the_p_value_is_that_of_fair_coins(gained: int, lost: int) -> None:
    """The share of throws with `lost` or more tails among all throws of as many coins as examples in dispute."""
    throws = [sum(throw) for throw in product((0, 1), repeat=gained + lost)]
    expected = sum(tails >= lost for tails in throws) / len(throws)
    assert mcnemar(gained, lost) == pytest.approx(expected, abs=1e-15)


def test_the_p_value_of_thousands_of_examples_is_exact() -> None:
    """With 10,000 examples in dispute it neither overflows nor becomes 0 too early; n losses of n have 2^-n."""
    assert mcnemar(5000, 5000) == pytest.approx(0.503989, abs=1e-6)  # 1/2 + half of C(10000, 5000) / 2^10000
    assert mcnemar(0, 1000) == 2.0**-1000
    assert mcnemar(0, 10_000) < gate.SIGNIFICANCE


@pytest.mark.parametrize(
    ("gained", "lost", "worse"),
    [
        (0, 0, False),
        (10, 10, False),
        (0, 4, False),
        (0, 5, True),
        (100, 110, False),
        (100, 140, True),
        (140, 100, False),
    ],
)
def test_a_model_is_worse_if_a_coin_loses_as_often_in_less_than_5_percent_of_cases(
    gained: int, lost: int, *, worse: bool
) -> None:
    """Equal models and small differences pass: 4 losses of 4 have p = 1/16, 5 of 5 have 1/32."""
    assert (mcnemar(gained, lost) < gate.SIGNIFICANCE) is worse


def test_examples_in_dispute_are_those_that_only_one_model_classifies_correctly(tmp_path: Path) -> None:
    """Edges at 90 and 115 are wrong on 10 and 15 different images: the new model gains 10 and loses 15."""
    manifest = publish(tmp_path, 1, edge=89.5)
    (comparison,), _, verdict = compare(answers(115), manifest, tmp_path)
    assert comparison.ours == (185 / 200, *wilson(185 / 200, 200))
    assert comparison.theirs == (190 / 200, *wilson(190 / 200, 200))
    assert (comparison.gained, comparison.lost, comparison.p_value) == (10, 15, mcnemar(10, 15))
    assert str(comparison) in verdict
    for fact in (
        "92.50%",
        "version 1 has 95.00% (95 % interval 91.0-97.3 %)",
        "10 examples gained",
        "15 lost",
        "p = 0.21",
    ):
        assert fact in verdict


def test_the_highest_version_that_can_be_loaded_is_in_service(tmp_path: Path) -> None:
    """Version 10 is above 9, and a damaged version is skipped: a changed graph, no manifest, a file in its place."""
    for number, edge in ((2, 149.5), (9, 119.5), (10, 109.5)):
        manifest = publish(tmp_path, number, edge)
    (tmp_path / ".publishing-x").mkdir()
    (tmp_path / "notes").mkdir()

    def in_service() -> tuple[int, int]:
        (comparison,), _, _ = compare(answers(TRUTH), manifest, tmp_path)
        return comparison.version, comparison.gained

    assert in_service() == (10, 10)
    (tmp_path / "10" / GRAPH).write_bytes(b"spoilt")
    assert in_service() == (9, 20)
    (tmp_path / "9" / MANIFEST).unlink()
    (tmp_path / "11").write_text("no folder")
    assert in_service() == (2, 50)


def test_a_graph_that_cannot_be_loaded_is_skipped(tmp_path: Path) -> None:
    """A version whose graph is garbage with the right hash is not in service."""
    publish(tmp_path, 1, 109.5)
    second = publish(tmp_path, 2, 119.5)
    (tmp_path / "2" / GRAPH).write_bytes(b"garbage")
    files = {**second.files, GRAPH: sha256(tmp_path / "2" / GRAPH)}
    second.model_copy(update={"files": files}).write(tmp_path / "2")
    (comparison,), _, _ = compare(answers(TRUTH), second, tmp_path)
    assert comparison.version == 1


def test_a_model_with_other_labels_needs_force(tmp_path: Path) -> None:
    """The refusal names the labels that only one of the two has; with force, the card has the reason."""
    publish(tmp_path, 1, TRUTH - 0.5, labels=("night", "light"))
    ours = publish(tmp_path / "elsewhere", 1, TRUTH - 0.5)
    with pytest.raises(PublishError, match=r"labels .* version 1 \(only in the new model: dark; .*: night\).*--force"):
        gate.pass_gate(answers(150), ours, tmp_path, force=False)
    verdict = gate.pass_gate(answers(150), ours, tmp_path, force=True)
    assert verdict.startswith("Published with --force, although the labels are not those of version 1")


def test_labels_in_another_order_are_compared_by_name(tmp_path: Path) -> None:
    """Equal sets of labels are one task, whatever their order."""
    manifest = publish(tmp_path, 1, TRUTH - 0.5)
    turned = manifest.model_copy(update={"labels": manifest.labels[::-1]})
    (probabilities, truth) = answers(TRUTH)["levels"]
    ours = {"levels": gate.Answers(probabilities[:, ::-1], 1 - truth)}
    (comparison,), obstacles, _ = compare(ours, turned, tmp_path)
    assert not obstacles
    assert (comparison.gained, comparison.lost) == (0, 0)


def test_other_test_splits_need_force(tmp_path: Path) -> None:
    """A split of another name or size than that of the version in service is a refusal, not a pass."""
    manifest = publish(tmp_path, 1, TRUTH - 0.5)
    renamed = manifest.model_copy(update={"test_metrics": {"others": manifest.test_metrics["levels"]}})
    for other, name, draft in (
        (answers(150)["levels"], "others", renamed),
        (answers(150, 199)["levels"], "levels", manifest),
    ):
        with pytest.raises(PublishError, match=r"(test split.*version 1|version 1.*test split).*--force"):
            gate.pass_gate({name: other}, draft, tmp_path, force=False)
        assert "Not compared with version 1" in gate.pass_gate({name: other}, draft, tmp_path, force=True)


def test_the_best_version_is_compared_too(tmp_path: Path) -> None:
    """A model that equals the poor version in service, but is worse than an older one, is refused."""
    first = publish(tmp_path, 1, TRUTH - 0.5)
    second = publish(tmp_path, 2, 139.5)
    for manifest, accuracy in ((first, 1.0), (second, 0.8)):
        metrics = {"levels": Metrics(n=200, accuracy=accuracy, nll=0, ece=0)}
        manifest.model_copy(update={"test_metrics": metrics}).write(tmp_path / str(manifest.version))
    comparisons, _, verdict = compare(answers(140), second, tmp_path)
    assert [(each.version, each.is_worse) for each in comparisons] == [(2, False), (1, True)]
    assert "version 1, the best one" in verdict
    with pytest.raises(PublishError, match=r"worse: levels: .* version 1 has 100\.00%"):
        gate.pass_gate(answers(140), second, tmp_path, force=False)


def test_a_best_version_that_cannot_be_compared_needs_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test split of another length is a refusal for the best version, as for the one in service, not a skip."""
    first, second = publish(tmp_path, 1, TRUTH - 0.5), publish(tmp_path, 2, 139.5)
    for manifest, accuracy in ((first, 1.0), (second, 0.8)):
        metrics = {"levels": Metrics(n=200, accuracy=accuracy, nll=0, ece=0)}
        manifest.model_copy(update={"test_metrics": metrics}).write(tmp_path / str(manifest.version))
    lengths = {1: 199, 2: 200}
    monkeypatch.setattr(
        gate,
        "version_answers",
        lambda _session, manifest, *_: answers(140, lengths[manifest.version]),
    )
    with pytest.raises(PublishError, match="200 examples, but 199 for version 1, the best one"):
        gate.pass_gate(answers(140), second, tmp_path, force=False)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"split_seed": 1}, True),
        ({"test": 0.3}, True),
        ({"validation": 0.3}, False),
        ({"path": "elsewhere"}, False),
    ],
)
def test_another_draw_of_the_test_split_needs_force(change: dict[str, object], refused: bool, tmp_path: Path) -> None:
    """Examples that the older version was trained on would make it look better, and other ones cannot be paired."""
    data = {"name": "folder", "path": "photos", "validation": 0.2, "test": 0.2}
    manifest = publish(tmp_path, 1, TRUTH - 0.5).model_copy(update={"recipe": {"data": data}})
    manifest.write(tmp_path / "1")
    draft = manifest.model_copy(update={"recipe": {"data": {**data, **change}}})
    obstacles = compare(answers(TRUTH), draft, tmp_path).obstacles
    assert [next(iter(change)) in each for each in obstacles] == ([True] if refused else [])


def test_a_model_that_equals_the_version_in_service_passes(tmp_path: Path) -> None:
    """With equal answers nothing is lost: p is 1."""
    manifest = publish(tmp_path, 1, 120.5)
    verdict = gate.pass_gate(answers(120.5), manifest, tmp_path, force=False)
    assert "0 examples gained, 0 lost, p = 1" in verdict


def test_a_model_must_surpass_the_largest_class(tmp_path: Path) -> None:
    """An accuracy of the baseline is refused also for the first version, unless forced."""
    manifest = publish(tmp_path / "elsewhere", 1, TRUTH - 0.5)
    always_light = answers(0)
    with pytest.raises(PublishError, match=r"levels, 50\.00%, is not above .* largest class, 50\.00%"):
        gate.pass_gate(always_light, manifest, tmp_path, force=False, is_new=True)
    assert "although" in gate.pass_gate(always_light, manifest, tmp_path, force=True, is_new=True)
    assert gate.pass_gate(answers(TRUTH), manifest, tmp_path, force=False, is_new=True)


def test_looks_at_the_test_splits_are_counted(tmp_path: Path) -> None:
    """Each publication and refusal counts, and so does a version that was published before the count began."""
    manifest = publish(tmp_path, 1, TRUTH - 0.5)
    other = manifest.model_copy(update={"dataset_fingerprint": "sha256:other"})
    assert [looks.record(tmp_path, draft) for draft in (manifest, manifest, other, manifest)] == [2, 3, 1, 4]


def test_without_a_version_in_service_there_is_nothing_to_compare(tmp_path: Path) -> None:
    """The first version passes, and the verdict says why."""
    manifest = publish(tmp_path / "elsewhere", 1, 99.5)
    home = tmp_path / "home"
    home.mkdir()
    comparisons, obstacles, verdict = compare(answers(150), manifest, home)
    assert not comparisons
    assert not obstacles
    assert "no version was in service" in verdict


def test_answers_of_a_published_model_are_those_of_its_graph(tmp_path: Path) -> None:
    """Each row, in the order of the split, is what the graph predicts."""
    manifest = publish(tmp_path, 1, 129.5)
    session = Session(tmp_path / "1" / GRAPH, manifest, provider="cpu")
    actual = gate.version_answers(session, manifest, tmp_path / "1", manifest)
    assert actual.keys() == {"levels"}
    expected = answers(130)["levels"]
    np.testing.assert_array_equal(actual["levels"].probabilities.argmax(axis=1), expected.probabilities.argmax(axis=1))
    np.testing.assert_array_equal(actual["levels"].truth, expected.truth)


def test_a_model_of_unknown_data_cannot_be_measured(tmp_path: Path) -> None:
    """The error names a data set that is unknown."""
    manifest = publish(tmp_path, 1, 129.5).model_copy(update={"dataset": "secrets"})
    with pytest.raises(TrainingError, match="data set 'secrets'"):
        gate.tests_of(manifest, tmp_path / "1")


def with_gate(manifest: Manifest, **table: str) -> Manifest:
    return manifest.model_copy(update={"recipe": {"gate": table}})


def test_the_gate_holds_on_the_metric_of_the_recipe(tmp_path: Path) -> None:
    """Edges at 110 and 90 have one accuracy, but 90 and 100 % of the light images: a loss if their recall counts."""
    manifest = publish(tmp_path, 1, 89.5)
    assert gate.pass_gate(answers(110), manifest, tmp_path, force=False)
    strict = with_gate(manifest, metric="recall", label="light")
    with pytest.raises(PublishError, match=r"worse: levels: recall of 'light' 90.00% \(95 % interval 82.6-94.5 %\)"):
        gate.pass_gate(answers(110), strict, tmp_path, force=False)
    verdict = gate.pass_gate(answers(85), strict, tmp_path, force=False)
    assert "recall of 'light' 100.00% (95 % interval 96.3-100.0 %), version 1 has 100.00%" in verdict
    balanced = with_gate(manifest, metric="balanced-accuracy")
    assert "balanced accuracy 95.00%" in gate.pass_gate(answers(110), balanced, tmp_path, force=False)


def test_the_best_version_by_another_metric_is_measured(tmp_path: Path) -> None:
    """A manifest does not have the metric: of three versions, the one that is measured to have the highest recall."""
    for number, edge in enumerate((119.5, 79.5, 129.5), start=1):
        manifest = publish(tmp_path, number, edge)
    draft = with_gate(manifest, metric="recall", label="light")
    comparisons, _, verdict = compare(answers(130), draft, tmp_path)
    assert [(each.version, each.theirs.value, each.is_worse) for each in comparisons] == [(3, 0.7, False), (2, 1, True)]
    assert "version 2, the best one" in verdict


def test_a_model_must_surpass_the_baseline_of_the_metric(tmp_path: Path) -> None:
    """Always naming a label has a full recall of it, but is refused; so is the F1 of always naming it."""
    manifest = publish(tmp_path / "elsewhere", 1, TRUTH - 0.5)
    for table, words in (
        ({"metric": "recall", "label": "light"}, r"balanced accuracy on levels, 50.00%, is not above"),
        ({"metric": "f1", "label": "light"}, r"F1 of 'light' on levels, 66.67%, is not above .* always naming 'light'"),
        ({"metric": "roc-auc"}, r"ROC AUC on levels, 0.5000, is not above that of equal scores for all, 0.5000"),
    ):
        with pytest.raises(PublishError, match=words):
            gate.pass_gate(answers(0), with_gate(manifest, **table), tmp_path, force=False, is_new=True)


def test_a_metric_of_a_label_without_test_examples_needs_force(tmp_path: Path) -> None:
    """The first 100 images are dark, so a recall of the light ones does not exist."""
    manifest = with_gate(publish(tmp_path, 1, TRUTH - 0.5), metric="recall", label="light")
    with pytest.raises(PublishError, match="levels has no example for recall of 'light'"):
        gate.pass_gate(answers(TRUTH, 100), manifest, tmp_path, force=False, is_new=True)


def test_an_accuracy_that_misleads_is_named(tmp_path: Path) -> None:
    """Of 100 dark and 30 light images 69 % are right, less than always saying dark; the other figure is proposed."""
    manifest = publish(tmp_path / "elsewhere", 1, TRUTH - 0.5)
    with pytest.raises(PublishError, match=r"its balanced accuracy is 80\.00%; .*--set gate\.metric=balanced-accuracy"):
        gate.pass_gate(answers(60, 130), manifest, tmp_path, force=False, is_new=True)
    balanced = with_gate(manifest, metric="balanced-accuracy")
    verdict = gate.pass_gate(answers(60, 130), balanced, tmp_path, force=False, is_new=True)
    assert "holds on the balanced accuracy: 80.00% on levels (95 % interval" in verdict
