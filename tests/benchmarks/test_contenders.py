"""What contenders are sent and what is read from their answers, without the contenders' own packages."""

import asyncio
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools
import httpx
import pytest
from PIL import Image

from benchmarks import items, workloads
from benchmarks.contender import CONTENDERS, OURS, Answer, Contender, Form, Request, content_type
from benchmarks.contenders import starlette_bare, work
from benchmarks.items import Kind, Model, Runtime
from benchmarks.workloads import CLOSED, MANY, Exam
from tests import reviews
from tests.serving import ROOT, application

FORMS = [(contender, form) for contender in CONTENDERS for form in contender.forms]
NAMES = [f"{contender.key}, {form.name}" for contender, form in FORMS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Kind, Path]:
    """A version of each kind, in one models/."""
    root = tmp_path_factory.mktemp("models")
    for name in ("digits", "cats-vs-dogs"):
        shutil.copytree(ROOT / "models" / name, root / name)
    reviews.publish(root)
    return workloads.find(root)


@pytest.fixture(scope="module")
def exam(folders: dict[Kind, Path]) -> Exam:
    """All items, and the model's own labels."""
    return Exam({kind: Model.load(kind, folder, Runtime()) for kind, folder in folders.items()})


def ask(app: Any, request: Request) -> Answer:
    """An ASGI application's answer."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            headers = {"Content-Type": request.kind, **dict(request.headers)}
            return await session.post(request.path, content=request.body, headers=headers)

    response = asyncio.run(send())
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def by_key(key: str) -> Contender:
    """A contender."""
    return next(one for one in CONTENDERS if one.key == key)


def check(app: Any, form: Form, exam: Exam) -> None:
    """Every item, and many at once, in this form, get the model's own labels."""
    for name, encoded in exam.encoded.items():
        kind: Kind = "photos" if name == "large" else name  # type: ignore[assignment]
        for request, item in zip(exam.requests(form, name), encoded, strict=True):
            answer = ask(app, request)
            assert answer.status == 200
            assert form.labels(answer) == [exam.models[kind].label(item)]
    for batch in exam.batches if form.many else ():
        assert form.many
        labels = form.labels(ask(app, form.many("digits", batch)))
        assert labels == [exam.models["digits"].label(item) for item in batch.encoded]
        assert len(labels) == MANY


@pytest.mark.slow
@pytest.mark.parametrize("form", by_key(OURS).forms, ids=lambda form: form.name)
def test_our_forms_are_the_service_s(form: Form, exam: Exam, folders: dict[Kind, Path]) -> None:
    """The service answers each form, binary tensors among them, and the labels are read from its answers."""
    check(application(models=folders["reviews"].parents[1]), form, exam)


@pytest.mark.slow
def test_bare_starlette_gives_the_service_s_labels(
    exam: Exam, folders: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What peers do with an item, decoding in full, ends in the labels of the service, which drafts large JPEGs."""
    monkeypatch.setenv("BENCH_THREADS", "1")
    monkeypatch.setenv("BENCH_PRECISION", "float32")
    monkeypatch.setenv("BENCH_MODELS", json.dumps({kind: str(folder) for kind, folder in folders.items()}))
    check(starlette_bare.create(), by_key("starlette").forms[0], exam)


@pytest.mark.parametrize(("contender", "form"), FORMS, ids=NAMES)
def test_requests_are_http(contender: Contender, form: Form, exam: Exam) -> None:
    """Every request is one whole POST with the body that its length says, to the path that it is meant for."""
    made = [request for name in exam.encoded for request in exam.requests(form, name)[:2]]
    if form.many:
        made.append(form.many("digits", exam.batches[0]))
    for request in made:
        parsed = parse(request.wire(8080))
        assert parsed == (b"POST", request.path.encode(), request.body, request.kind.encode()), contender.name


def parse(wire: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Method, path, body and Content-Type of one request, by httptools."""

    class Seen:
        url, body, kind, ends = b"", b"", b"", 0

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.kind = value if name == b"Content-Type" else self.kind

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            self.ends += 1

    seen = Seen()
    parser = httptools.HttpRequestParser(seen)
    parser.feed_data(wire)
    assert seen.ends == 1
    return parser.get_method(), seen.url, seen.body, seen.kind


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("bentoml", b'["7"]'),
        ("litserve", b'{"label":"7"}'),
        ("ray", b'{"labels":["7"]}'),
        ("mlserver", b'{"outputs":[{"name":"label","datatype":"BYTES","shape":[1,1],"data":["7"]}]}'),
    ],
)
def test_labels_are_read_from_answers(key: str, body: bytes) -> None:
    """Each contender's answer, of the form that it was seen to have, gives its labels."""
    assert by_key(key).forms[0].labels(Answer(200, {}, body)) == ["7"]


def test_items_are_the_same_every_time(exam: Exam) -> None:
    """Generated pictures and texts do not change from run to run, and differ among themselves."""
    makers: list[Callable[[], list[bytes]]] = [
        lambda: items.digits(12),
        lambda: items.photos(4, items.SMALL),
        lambda: items.reviews(8),
    ]
    for make in makers:
        made = make()
        assert made == make()
        assert len(set(made)) == len(made)
    assert {content_type(encoded[0]) for encoded in exam.encoded.values()} == {"image/png", "image/jpeg", "text/plain"}


def test_what_is_asked_is_what_the_title_says(exam: Exam) -> None:
    """Photos have the size of their title, tensors the number of digits, and a mix asks its kinds by turns."""
    sizes = {name: {image_size(item) for item in exam.encoded[name]} for name in ("digits", "photos", "large")}
    assert sizes == {"digits": {(28, 28)}, "photos": {(500, 375)}, "large": {(4000, 3000)}}
    assert all(batch.tensor.shape == (MANY, 28, 28, 1) for batch in exam.batches)
    mix = next(one for one in CLOSED if one.key == "mix-16").requests(exam, by_key("starlette").forms[0])
    assert mix
    assert [request.path for request in mix[:6]] == ["/raw/digits", "/raw/reviews", "/raw/photos"] * 2


def image_size(encoded: bytes) -> tuple[int, int]:
    """A picture's (width, height)."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


def test_peers_pad_texts_as_the_graph_wants(folders: dict[Kind, Path]) -> None:
    """Texts of differing lengths in one batch have the labels that they have alone."""
    model = work.Model(folders["reviews"], 1)
    tokens = [model.text(text) for text in ("good good film", "bad", "awful " * 9, "fine")]
    labels = [model.label([one])[0] for one in tokens]
    assert model.label(tokens) == labels == ["positive", "negative", "negative", "positive"]


def test_a_precision_is_the_same_file_for_all(exam: Exam) -> None:
    """Where a version comes in int8, peers and ceiling run its int8, and elsewhere float32; both give its labels."""
    runtime = Runtime(precision="int8")
    for kind in ("digits", "photos"):
        folder = exam.models[kind].folder
        ours, theirs = Model.load(kind, folder, runtime), work.Model(folder, 1, "int8")
        assert ours.session.precision == ("int8" if "int8" in ours.manifest.precisions else "float32")
        item = ours.decode(exam.encoded[kind][0])
        assert theirs.label([item]) == [ours.manifest.labels[int(ours.run([item])[0].argmax())]]
