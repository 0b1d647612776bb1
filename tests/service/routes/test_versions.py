"""A request is answered by the version that was served when it arrived."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contract import manifest as contract
from service.inference.repository import Repository
from tests import reviews
from tests.drawing import encode, mnist_like
from tests.serving import ROOT, parts

TEXT = b"good film"
TENSOR = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT.decode()]}]}).encode()


def publish_images(models: Path) -> None:
    """Version 2 of the model `reviews`, which takes images: a copy of digits."""
    folder = Path(shutil.copytree(ROOT / "models/digits/1", models / "reviews/2"))
    path = folder / contract.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "reviews", "version": 2}))


async def swapped(
    session: httpx.AsyncClient, path: str, body: bytes, models: Path, repository: Repository
) -> dict[str, Any]:
    """The response to a request during whose body version 2 takes over from version 1, which is unloaded."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body[:5]
        assert repository.get("reviews").number == "1"
        publish_images(models)
        for _ in range(2):  # the first scan serves version 2, the second one unloads version 1
            await asyncio.to_thread(repository.scan)
        assert repository.numbers("reviews") == ["2"]
        yield body[5:]

    response = await session.post(path, content=chunks(), headers={"Content-Type": "text/plain"})
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content


@pytest.mark.parametrize(
    ("path", "body"), [("/classify/reviews", TEXT), ("/v2/models/reviews/infer", TENSOR)], ids=["classify", "oip"]
)
def test_a_swap_while_the_body_is_read_does_not_mix_versions(tmp_path: Path, path: str, body: bytes) -> None:
    """A text sent to version 1 is decoded for it and answered by it, even if version 2 takes images and serves now."""
    reviews.publish(tmp_path)
    worker = parts(models=tmp_path, versions=1)

    async def scenario() -> tuple[dict[str, Any], dict[str, Any]]:
        transport = httpx.ASGITransport(worker.application)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as session:
            before = await swapped(session, path, body, tmp_path, worker.repository)
            after = await session.post("/classify/reviews", content=encode(mnist_like(7)))
        return before, after.json()

    before, after = asyncio.run(scenario())
    if path.startswith("/v2"):
        labels = {output["name"]: output["data"] for output in before["outputs"]}["label"]
        assert (before["model_version"], labels) == ("1", ["positive"])
    else:
        assert (before["version"], before["predictions"][0]["label"]) == ("1", "positive")
    assert (after["version"], after["predictions"][0]["label"]) == ("2", "7")
