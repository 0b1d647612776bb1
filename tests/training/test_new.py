"""From the user's own data to a served version: `new`, `train`, `publish`, and a request over HTTP."""

import errno
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.serving import client
from training.__main__ import main
from training.errors import RecipeError
from training.recipe import new, schema, toml

SHAPES = ("circle", "square", "Dreieck ü")
WORDS = {
    "ham": ["lunch", "home", "tonight", "family", "meeting"],
    "spam": ["prize", "cash", "urgent", "winner", "claim"],
}


def drawn(kind: str, seed: int) -> Image.Image:
    """A light shape on dark noise, 24 x 24."""
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 60, (24, 24, 3), np.uint8))
    x, y, r = (int(random.integers(low, high)) for low, high in ((10, 14), (10, 14), (6, 9)))
    draw, box = ImageDraw.Draw(image), [x - r, y - r, x + r, y + r]
    if kind == "circle":
        draw.ellipse(box, fill=(220, 200, 90))
    elif kind == "square":
        draw.rectangle(box, fill=(220, 200, 90))
    else:
        draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=(220, 200, 90))
    return image


def sentence(label: str, seed: int) -> str:
    random = np.random.default_rng(seed)
    return " ".join(
        [*random.choice(WORDS[label], 3), *random.choice(["the", "a", "to", "of", "we", "on"], 3), str(seed)]
    )


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVOKE_CACHE", str(tmp_path / "cache"))
    return tmp_path


def publish(name: str, path: str, *options: str) -> None:
    """Run the three commands of the guide."""
    assert main(["new", name, path, *options]) == 0
    assert main(["train", f"recipes/{name}.toml", "--threads", "1"]) == 0
    (run,) = Path("runs", name).iterdir()
    assert main(["publish", str(run)]) == 0


@pytest.mark.slow
def test_a_folder_and_a_table_become_served_models(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three commands take photos in class folders, and a table in another encoding, to models that answer rightly."""
    for kind in SHAPES:
        (workplace / "photos" / kind).mkdir(parents=True)
        for seed in range(50):
            drawn(kind, seed).save(workplace / "photos" / kind / f"{seed}.png")
    labels = ["spam" if seed % 4 == 0 else "ham" for seed in range(120)]
    rows = [(label, sentence(label, seed)) for seed, label in enumerate(labels)]
    lines = ["v1;v2;", *(f'{label};"£ {text}\nend";' for label, text in rows)]
    (workplace / "spam.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    publish("shapes", "photos", "--set", "epochs=8")
    publish("spam", "spam.csv", "--label", "v1", "--set", "epochs=40", "--set", "data.sampling=balanced")
    assert main(["evaluate", "models/shapes/1"]) == 0
    assert "read as cp1252, semicolon, quoted, with a header" in capsys.readouterr().out
    card = " ".join((workplace / "models/shapes/1/card.md").read_text().split())
    assert "The test split (15%) was made by content" in card
    assert "| Dreieck ü | " in card
    call = client(models=workplace / "models")
    right = 0
    for seed in range(100, 110):
        for kind in SHAPES:
            drawn(kind, seed).save(workplace / "new.jpg")
            answer = call("POST", "/classify/shapes", content=(workplace / "new.jpg").read_bytes())
            right += answer.json()["predictions"][0]["label"] == kind
        for label in WORDS:
            answer = call("POST", "/classify/spam", content=sentence(label, seed).encode())
            right += answer.json()["predictions"][0]["label"] == label
    assert right >= 0.95 * 50


def test_a_recipe_is_never_replaced_unasked(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--check writes nothing; without --force an existing recipe stays as it is."""
    rows = "".join(f"{label}\t{sentence(label, seed)}\n" for seed in range(10) for label in WORDS)
    (workplace / "spam.tsv").write_text(rows)
    assert main(["new", "spam", "spam.tsv", "--check"]) == 0
    assert not (workplace / "recipes").exists()
    assert main(["new", "spam", "spam.tsv", "--set", "epochs=3"]) == 0
    recipe = schema.load("recipes/spam.toml")
    assert (recipe.epochs, recipe.data.path, recipe.data.label) == (3, "spam.tsv", "column 1")
    assert main(["new", "spam", "spam.tsv"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["new", "spam", "spam.tsv", "--force"]) == 0
    assert [path.name for path in (workplace / "recipes").iterdir()] == ["spam.toml"]
    assert main(["new", "Spam Filter", "spam.tsv", "--check"]) == 2
    assert "spam-filter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "advice"), [(["--check"], "CONVOKE_CACHE"), (["--output", "/dev/full/sub/x.toml"], "--output")]
)
def test_what_cannot_be_written_is_named(
    option: list[str], advice: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the folder, the cause and the setting; nothing is ever written beside the data."""
    for kind in SHAPES:
        (workplace / "photos" / kind).mkdir(parents=True)
        for seed in range(5):
            drawn(kind, seed).save(workplace / "photos" / kind / f"{seed}.png")
    before = {path: path.stat().st_mtime_ns for path in (workplace / "photos").rglob("*")}
    if advice == "CONVOKE_CACHE":
        monkeypatch.setenv(advice, "/dev/full/cache")
    assert main(["new", "shapes", "photos", *option]) == 2
    shown = capsys.readouterr().err
    assert "/dev/full" in shown
    assert os.strerror(errno.ENOTDIR) in shown
    assert advice in shown
    assert {path: path.stat().st_mtime_ns for path in (workplace / "photos").rglob("*")} == before


def test_looking_needs_no_torch(workplace: Path) -> None:
    """`new` is quick, since it does not import torch, whose import takes longer than reading a thousand photos."""
    for kind in SHAPES:
        (workplace / "photos" / kind).mkdir(parents=True)
        for seed in range(5):
            drawn(kind, seed).save(workplace / "photos" / kind / f"{seed}.png")
    (workplace / "t.csv").write_text(
        "".join(f"{label},{sentence(label, seed)}\n" for seed in range(10) for label in WORDS)
    )
    program = (
        "import sys; from training.__main__ import main\n"
        "assert main(['new', 'shapes', 'photos', '--check']) == main(['new', 'spam', 't.csv', '--check']) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": root})


def test_the_written_toml_is_the_table() -> None:
    """Whatever the labels, what is written is read again as the same."""
    table = {
        "labels": ['a "b"', "c\\d", "ü\n", "\x7f", *(f"label {number}" for number in range(20))],
        "x": 0.5,
        "layers": [{"dense": 3, "activation": "none"}],
        "data": {"label_names": {"0": "ham", "1 = x": "s"}, "refit": False},
    }
    text = toml.write(table, {"": "words " * 40, "x": "a number", "data": "a section"})
    assert tomllib.loads(text) == table


def test_label_names_are_pairs() -> None:
    """--labels takes LABEL=NAME, separated by commas or repeated."""
    assert new.label_names(["0=ham,1=spam", "2 = other"]) == {"0": "ham", "1": "spam", "2": "other"}
    with pytest.raises(RecipeError, match="LABEL=NAME"):
        new.label_names(["ham"])


def test_uneven_classes_are_weighted_and_compared_alike(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 60 texts and 12, the recipe weights the classes, and versions are compared by the mean recall of both."""
    lines = [f"{label},{sentence(label, seed)}" for label, n in (("ham", 60), ("spam", 12)) for seed in range(n)]
    (workplace / "spam.csv").write_text("label,text\n" + "\n".join(lines) + "\n", encoding="utf-8")
    assert main(["new", "spam", "spam.csv", "--text", "text", "--label", "label"]) == 0
    assert "5.0 times" in capsys.readouterr().out
    recipe = schema.load("recipes/spam.toml")
    assert recipe.loss.class_weights == "balanced"
    assert recipe.gate.metric == "balanced-accuracy"
