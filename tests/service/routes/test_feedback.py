"""Feedback: right labels are kept with the items that they belong to, and become a data set."""

import asyncio
import importlib
import json
import shutil
import stat
from pathlib import Path
from random import Random

import httpx
import pytest

from service.inference import feedback
from service.server.assembly import Parts, assemble
from service.settings import Settings, SettingsError
from tests import reviews
from tests.drawing import encode, mnist_like
from tests.serving import ROOT, Call, client, code, over_fast_path, parts
from training import __main__ as command

SEVEN = encode(mnist_like(7))
PNG = {"content-type": "image/png"}


@pytest.fixture(autouse=True)
def _short_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "CLAIM_S", 0.2)
    monkeypatch.setattr(feedback, "POLL_S", 0.02)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of texts, and that of digits."""
    folder = tmp_path_factory.mktemp("models")
    reviews.publish(folder)
    shutil.copytree(ROOT / "models/digits", folder / "digits")
    return folder


def files(folder: Path) -> set[str]:
    """What was kept."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def classify(call: Call, model: str, request_id: str, **content: object) -> httpx.Response:
    headers = {"x-request-id": request_id, **(PNG if model == "digits" else {"content-type": "text/plain"})}
    response = call("POST", f"/classify/{model}", headers=headers, **content)
    assert response.status_code == 200
    assert response.headers["x-request-id"] == request_id
    return response


def test_an_image_is_kept_with_its_right_label(models: Path, tmp_path: Path) -> None:
    """The file has the bytes that were sent, in a folder of the label; one line beside it has the answer."""
    call = client(models=models, feedback_dir=tmp_path)
    answer = classify(call, "digits", "seven", content=SEVEN).json()["predictions"][0]
    kept = call("POST", "/feedback/seven", json={"label": "1"})
    assert kept.status_code == 200
    assert (tmp_path / "digits/1/seven.png").read_bytes() == SEVEN
    assert files(tmp_path) == {"digits/1/seven.png", "digits/1/seven.json"}
    (line,) = (tmp_path / "digits/1/seven.json").read_text().splitlines()
    assert json.loads(line) == kept.json()
    expected = {"id": "seven", "item": 0, "model": "digits", "version": "1", "label": "1", "answer": "7"}
    assert kept.json() == {
        **expected, "score": answer["score"], "is_correct": False, "file": "digits/1/seven.png",
        "time": kept.json()["time"],
    }  # fmt: skip
    assert stat.S_IMODE((tmp_path / "digits/1/seven.png").stat().st_mode) == 0o600
    metrics = call("GET", "/metrics").text
    assert 'convoke_feedback_total{answer="wrong",model="digits",version="1"} 1.0' in metrics


def test_a_text_is_kept_in_utf8(models: Path, tmp_path: Path) -> None:
    """Whatever way it was sent, also as one of several in JSON; the place says which."""
    call = client(models=models, feedback_dir=tmp_path)
    classify(call, "reviews", "one", content="Good très bon".encode())
    assert call("POST", "/feedback/one", json={"label": "positive"}).json()["is_correct"]
    sent = {"texts": ["awful", "très mal", "fine"]}
    call("POST", "/classify/reviews", json=sent, headers={"x-request-id": "three"})
    assert call("POST", "/feedback/three", json={"label": "negative", "item": 1}).status_code == 200
    assert (tmp_path / "reviews/positive/one.txt").read_text(encoding="utf-8") == "Good très bon"
    assert (tmp_path / "reviews/negative/three_1.txt").read_text(encoding="utf-8") == "très mal"
    for item in (None, 3, -1):
        response = call("POST", "/feedback/three", json={"label": "negative", "item": item})
        assert code(response) == (400, "invalid_request")
        assert "3 items" in response.json()["error"]["message"]


def test_the_last_label_counts(models: Path, tmp_path: Path) -> None:
    """A second label moves the item, and the answer is counted once."""
    call = client(models=models, feedback_dir=tmp_path)
    classify(call, "digits", "seven", content=SEVEN)
    for label in ("1", "7", "7"):
        assert call("POST", "/feedback/seven", json={"label": label}).status_code == 200
    assert files(tmp_path) == {"digits/7/seven.png", "digits/7/seven.json"}
    metrics = call("GET", "/metrics").text
    assert sum(line.startswith("convoke_feedback_total{") for line in metrics.splitlines()) == 1


def test_requests_on_the_fast_path_are_remembered(models: Path, tmp_path: Path) -> None:
    """An id that the service gave a request there is good for feedback."""
    assembled = parts(models=models, feedback_dir=tmp_path)
    assert assembled.fast_path is not None
    assert assembled.feedback is not None

    async def send() -> str:
        request = httpx.Request("POST", "http://test/classify/digits", content=SEVEN, headers=PNG)
        reply = await over_fast_path(assembled.fast_path, request, SEVEN)  # type: ignore[arg-type]
        assert reply is not None
        fields = dict(line.split(b": ", 1) for line in reply.fields.split(b"\r\n")[:-1])
        request_id = fields[b"x-request-id"].decode()
        kept = await assembled.feedback.keep(request_id, "7", None)  # type: ignore[union-attr]
        return kept.file

    assert (tmp_path / asyncio.run(send())).read_bytes() == SEVEN


@pytest.mark.parametrize(
    "request_id", ["a/b", "a/../b", "..", ".", "Root=1-67891233:x", "A" * 128, "../../etc/passwd", "id_1", "@"]
)
def test_any_id_of_a_client_is_a_file_in_the_folder(request_id: str, models: Path, tmp_path: Path) -> None:
    """An id with slashes or dots leads nowhere else; deletion finds what was kept, and nothing else."""
    call = client(models=models, feedback_dir=tmp_path / "kept")
    for each in (request_id, "other"):
        classify(call, "digits", each, content=SEVEN)
        path = f"/feedback/{each.replace('.', '%2E').replace('/', '%2F')}"
        assert call("POST", path, json={"label": "7"}).json().get("id") == each
    assert len(files(tmp_path)) == len(files(tmp_path / "kept/digits/7")) == 4
    assert call("DELETE", f"/feedback/{request_id.replace('.', '%2E').replace('/', '%2F')}").json() == {"deleted": 1}
    assert files(tmp_path) == {"kept/digits/7/other.png", "kept/digits/7/other.json"}
    assert code(call("DELETE", "/feedback/unknown")) == (404, "request_not_found")


def test_deletion_forgets_the_request(models: Path, tmp_path: Path) -> None:
    """All items of a request are deleted, and it takes no more feedback."""
    call = client(models=models, feedback_dir=tmp_path)
    call("POST", "/classify/reviews", json={"texts": ["good", "bad"]}, headers={"x-request-id": "two"})
    for item in (0, 1):
        call("POST", "/feedback/two", json={"label": "positive", "item": item})
    assert call("DELETE", "/feedback/two").json() == {"deleted": 2}
    assert files(tmp_path) == set()
    assert code(call("POST", "/feedback/two", json={"label": "positive", "item": 0})) == (404, "request_not_found")


@pytest.mark.parametrize(
    "content",
    [b"", b"7", b"[]", b"{}", b'{"label": 7}', b'{"label": "eight"}', b'{"label": "7", "item": "0"}',
     b'{"label": "7", "item": 1}', b'{"label": "7", "item": true}', b'{"label": "7", "more": 1}', b'{"label": null}'],
)  # fmt: skip
def test_broken_feedback_is_refused(content: bytes, models: Path, tmp_path: Path) -> None:
    """The message says what was expected; nothing is kept."""
    call = client(models=models, feedback_dir=tmp_path)
    classify(call, "digits", "seven", content=SEVEN)
    response = call("POST", "/feedback/seven", content=content)
    assert code(response) == (400, "invalid_request")
    assert files(tmp_path) == set()


def test_items_with_an_error_have_no_label(models: Path, tmp_path: Path) -> None:
    """A file that could not be read was not classified."""
    call = client(models=models, feedback_dir=tmp_path)
    sent = {"a": ("a.png", SEVEN, "image/png"), "b": ("b.png", b"nothing", "image/png")}
    call("POST", "/classify/digits", files=sent, headers={"x-request-id": "mixed"})
    assert code(call("POST", "/feedback/mixed", json={"label": "7", "item": 1})) == (400, "invalid_request")
    assert call("POST", "/feedback/mixed", json={"label": "7", "item": 0}).status_code == 200


def test_without_a_folder_nothing_is_kept(models: Path) -> None:
    """The routes answer 404 and name the setting."""
    call = client(models=models)
    for method in ("POST", "DELETE"):
        response = call(method, "/feedback/seven", **({"json": {"label": "7"}} if method == "POST" else {}))
        assert code(response) == (404, "feedback_off")
        assert "CONVOKE_FEEDBACK_DIR" in response.json()["error"]["message"]
    assert "feedback" not in call("GET", "/").json()


def test_memory_and_folder_are_bounded(models: Path, tmp_path: Path) -> None:
    """The oldest requests are forgotten first; a full folder takes no more, and says which setting raises its limit."""
    call = client(models=models, feedback_dir=tmp_path, feedback_recent_bytes=4000, feedback_bytes=1024)
    for number in range(6):
        classify(call, "digits", f"id-{number}", content=SEVEN)
    assert code(call("POST", "/feedback/id-0", json={"label": "7"})) == (404, "request_not_found")
    assert call("POST", "/feedback/id-5", json={"label": "7"}).status_code == 200
    responses = [call("POST", f"/feedback/id-{number}", json={"label": "7"}) for number in (4, 3)]
    response = responses[-1]
    assert code(response) == (507, "feedback_full")
    assert "CONVOKE_FEEDBACK_BYTES" in response.json()["error"]["message"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) < 1024 + 4096  # a folder of claims has 4096


def test_another_worker_keeps_what_it_answered(models: Path, tmp_path: Path) -> None:
    """Feedback may reach a worker that did not answer the request; errors pass on, and no claim is left."""
    settings = Settings(models=models, provider="cpu", workers=2, feedback_dir=tmp_path)
    first, second = (assemble(settings, index=index) for index in (1, 2))
    for worker in (first, second):
        worker.repository.load()

    async def call(worker: Parts, path: str, **content: object) -> httpx.Response:
        transport = httpx.ASGITransport(app=worker.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            return await session.post(path, **content)  # type: ignore[arg-type]

    async def run() -> list[httpx.Response]:
        watching = [asyncio.create_task(worker.feedback.watch()) for worker in (first, second) if worker.feedback]
        await call(first, "/classify/reviews", content="good", headers={"x-request-id": "of-first"})
        responses = [
            await call(second, f"/feedback/{request_id}", json={"label": label})
            for request_id, label in (("of-first", "positive"), ("of-first", "dull"), ("of-none", "positive"))
        ]
        for task in watching:
            task.cancel()
        return responses

    kept, refused, unknown = asyncio.run(run())
    assert (kept.status_code, kept.json()["id"], kept.json()["is_correct"]) == (200, "of-first", True)
    assert code(refused) == (400, "invalid_request")
    assert code(unknown) == (404, "request_not_found")
    assert files(tmp_path) == {"reviews/positive/of-first.txt", "reviews/positive/of-first.json"}


def test_feedback_becomes_a_model_in_two_commands(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`training new` takes the folder, and `training train` its recipe: the texts and labels are those of clients."""
    assembled = parts(models=models, feedback_dir=tmp_path / "feedback")
    assert assembled.feedback is not None
    random = Random(0)
    texts = [" ".join("".join(random.choices("abcdefgh", k=5)) for _ in range(8)) for _ in range(60)]

    async def send() -> None:
        transport = httpx.ASGITransport(app=assembled.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            await session.post("/classify/reviews", json={"texts": texts}, headers={"x-request-id": "many"})
            for item in range(60):
                right = {"label": "positive" if item % 2 else "negative", "item": item}
                assert (await session.post("/feedback/many", json=right)).status_code == 200

    asyncio.run(send())
    monkeypatch.chdir(tmp_path)
    assert command.main(["new", "own-reviews", "feedback"]) == 0
    recipe = (tmp_path / "recipes/own-reviews.toml").read_text(encoding="utf-8")
    assert 'labels = ["negative", "positive"]' in recipe
    changes = ["--set", "epochs=1", "--set", "batch_size=16"]
    assert command.main(["train", "recipes/own-reviews.toml", *changes, "--threads", "1"]) == 0


def test_a_folder_that_cannot_be_written_is_named_at_the_start(tmp_path: Path) -> None:
    """As a volume that is not mounted below a read-only root; a folder that can be made is made."""
    startup = importlib.import_module("service.server.startup")
    startup.check_feedback(tmp_path / "a/b")
    assert (tmp_path / "a/b").is_dir()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/folder", Path("/proc/nothing")):
        with pytest.raises(SettingsError, match="CONVOKE_FEEDBACK_DIR") as error:
            startup.check_feedback(folder)
        assert str(folder) in str(error.value)
