"""The requests to contenders, and the labels read from their responses, without the contenders' own packages."""

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
from benchmarks.contender import CONTENDERS, CONVOKE, Contender, Form, Request, Response, content_type
from benchmarks.contenders import inference, starlette_bare
from benchmarks.items import Kind, Model, Runtime
from benchmarks.workloads import CLOSED, MANY, ItemSet
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
    return workloads.find_models(root)


@pytest.fixture(scope="module")
def item_set(folders: dict[Kind, Path]) -> ItemSet:
    """All generated items, with the models of the folders."""
    return ItemSet({kind: Model.load(kind, folder, Runtime()) for kind, folder in folders.items()})


def send(app: Any, request: Request) -> Response:
    """An ASGI application's response."""

    async def post() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as session:
            headers = {"Content-Type": request.content_type, **dict(request.headers)}
            return await session.post(request.path, content=request.body, headers=headers)

    response = asyncio.run(post())
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, response.content)


def by_key(key: str) -> Contender:
    return next(contender for contender in CONTENDERS if contender.key == key)


def check(app: Any, form: Form, item_set: ItemSet) -> None:
    """In this format, every item and every batch gets the model's own labels."""
    for name, encoded in item_set.encoded.items() if form.single else ():
        for request, item in zip(item_set.requests(form, name), encoded, strict=True):
            response = send(app, request)
            assert response.status == 200
            assert form.labels(response) == [item_set.model(name).label(item)]
    for size, batches in item_set.batches.items() if form.batch else ():
        for request, batch in zip(item_set.batch_requests(form, size), batches, strict=True):
            labels = form.labels(send(app, request))
            assert labels == [item_set.models["digits"].label(item) for item in batch.encoded]
            assert len(labels) == size


@pytest.mark.slow
@pytest.mark.parametrize("form", by_key(CONVOKE).forms, ids=lambda form: form.name)
def test_the_service_takes_our_formats(form: Form, item_set: ItemSet, folders: dict[Kind, Path]) -> None:
    """The service accepts each format, including binary tensors, and labels are read from its responses."""
    check(application(models=folders["reviews"].parents[1]), form, item_set)


@pytest.mark.slow
def test_bare_starlette_gives_the_labels_of_the_service(
    item_set: ItemSet, folders: dict[Kind, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Peers decode images in full and get the labels of the service, which decodes large JPEGs at a smaller scale."""
    monkeypatch.setenv("BENCH_THREADS", "1")
    monkeypatch.setenv("BENCH_PRECISION", "float32")
    monkeypatch.setenv("BENCH_MODELS", json.dumps({kind: str(folder) for kind, folder in folders.items()}))
    check(starlette_bare.create(), by_key("starlette").forms[0], item_set)


@pytest.mark.parametrize(("contender", "form"), FORMS, ids=NAMES)
def test_requests_are_http(contender: Contender, form: Form, item_set: ItemSet) -> None:
    """Every encoded request is one complete POST with its path, body and Content-Type."""
    names = item_set.encoded if form.single else ()
    requests = [request for name in names for request in item_set.requests(form, name)[:2]]
    sizes = item_set.batches if form.batch else ()
    for request in [*requests, *(item_set.batch_requests(form, size)[0] for size in sizes)]:
        parsed = parse(request.encode(8080))
        assert parsed == (b"POST", request.path.encode(), request.body, request.content_type.encode()), contender.name


def parse(encoded: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Method, path, body and Content-Type of one request, parsed by httptools."""

    class Events:
        url, body, content_type, completed = b"", b"", b"", 0

        def on_url(self, url: bytes) -> None:
            self.url += url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.content_type = value if name == b"Content-Type" else self.content_type

        def on_body(self, body: bytes) -> None:
            self.body += body

        def on_message_complete(self) -> None:
            self.completed += 1

    events = Events()
    parser = httptools.HttpRequestParser(events)
    parser.feed_data(encoded)
    assert events.completed == 1
    return parser.get_method(), events.url, events.body, events.content_type


@pytest.mark.parametrize(
    ("key", "body"),
    [
        ("bentoml", b'["7"]'),
        ("litserve", b'{"label":"7"}'),
        ("ray", b'{"labels":["7"]}'),
        ("mlserver", b'{"outputs":[{"name":"label","datatype":"BYTES","shape":[1,1],"data":["7"]}]}'),
    ],
)
def test_labels_are_read_from_responses(key: str, body: bytes) -> None:
    """Recorded responses of each contender give their labels."""
    assert by_key(key).forms[0].labels(Response(200, {}, body)) == ["7"]


def test_items_are_the_same_every_time(item_set: ItemSet) -> None:
    """Generated images and texts do not change from run to run, and all differ."""
    generators: list[Callable[[], list[bytes]]] = [
        lambda: items.digits(12),
        lambda: items.photos(4, items.SMALL),
        lambda: items.reviews(8),
    ]
    for generate in generators:
        generated = generate()
        assert generated == generate()
        assert len(set(generated)) == len(generated)
    types = {content_type(encoded[0]) for encoded in item_set.encoded.values()}
    assert types == {"image/png", "image/jpeg", "text/plain"}


def test_items_match_the_titles_of_the_workloads(item_set: ItemSet) -> None:
    """Photos have the size in the title, batches the number of digits, and a mix sends its kinds in turn."""
    sizes = {name: {image_size(item) for item in item_set.encoded[name]} for name in ("digits", "photos", "large")}
    assert sizes == {"digits": {(28, 28)}, "photos": {(500, 375)}, "large": {(4000, 3000)}}
    assert {1, 64, MANY} == set(item_set.batches)
    for size, batches in item_set.batches.items():
        assert all(batch.tensor.shape == (size, 28, 28, 1) for batch in batches)
    mix = next(workload for workload in CLOSED if workload.key == "mix-16")
    requests = mix.requests(item_set, by_key("starlette").forms[0])
    assert requests
    assert [request.path for request in requests[:6]] == ["/raw/digits", "/raw/reviews", "/raw/photos"] * 2


def image_size(encoded: bytes) -> tuple[int, int]:
    """An image's (width, height)."""
    with Image.open(io.BytesIO(encoded)) as image:
        return image.size


def test_peers_pad_texts_correctly(folders: dict[Kind, Path]) -> None:
    """Texts of different lengths get the same labels in one batch as alone."""
    model = inference.Model(folders["reviews"], 1)
    texts = [b"good good film", b"bad", b"awful " * 9, b"fine"]
    labels = [model.classify([text])[0] for text in texts]
    assert model.classify(texts) == labels == ["positive", "negative", "negative", "positive"]


def test_all_contenders_run_the_same_precision(item_set: ItemSet) -> None:
    """If a version has int8, peers and ceiling run its int8 graph, else float32, and both give the same labels."""
    runtime = Runtime(precision="int8")
    for kind in ("digits", "photos"):
        folder = item_set.models[kind].folder
        ours, theirs = Model.load(kind, folder, runtime), inference.Model(folder, 1, "int8")
        assert ours.session.precision == ("int8" if "int8" in ours.manifest.precisions else "float32")
        pixels = ours.decode(item_set.encoded[kind][0])
        assert theirs.predict([pixels]) == [ours.manifest.labels[int(ours.run([pixels])[0].argmax())]]
