"""The Open Inference Protocol: requests by hand in one process, and Triton's own client with a started server."""

import asyncio
import base64
import gzip
import json
import shutil
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from service import __version__
from service.http import limited
from tests import reviews
from tests.drawing import encode, mnist_like
from tests.service.inference.test_repository import add_version
from tests.serving import ROOT, Call, Server, client, make_keys

DIGITS = list(range(10))
INFER = "/v2/models/digits/infer"
LENGTH = "Inference-Header-Content-Length"


def images(count: int = 10) -> npt.NDArray[np.uint8]:
    """Digits 0, 1, 2, ... as the graph takes them: uint8 (count, 28, 28, 1)."""
    return np.stack([np.asarray(mnist_like(index % 10), np.uint8)[..., None] for index in range(count)])


def tensor(values: Any, datatype: str = "UINT8", name: str = "image", **more: Any) -> dict[str, Any]:
    """An input with its data in the JSON."""
    shape = list(np.shape(values))
    return {"name": name, "shape": shape, "datatype": datatype, "data": values, **more}


def packed(*values: bytes) -> bytes:
    """A binary BYTES tensor."""
    return b"".join(struct.pack("<I", len(value)) + value for value in values)


def binary(request: dict[str, Any], data: bytes) -> dict[str, Any]:
    """The arguments of a call with binary tensors."""
    content = json.dumps(request).encode()
    return {"content": content + data, "headers": {LENGTH: str(len(content))}}


def output(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(tensor for tensor in answer["outputs"] if tensor["name"] == name)


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


def test_the_server_and_its_models_describe_themselves(call: Call) -> None:
    """Metadata, liveness, readiness and the repository index have the protocol's form."""
    server = call("GET", "/v2").json()
    assert server["name"] == "convoke"
    assert server["version"] == __version__
    assert "binary_tensor_data" in server["extensions"]
    for path in (
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/digits/ready",
        "/v2/models/digits/versions/1/ready",
    ):
        assert call("GET", path).status_code == 200, path
    for path in ("/v2/models/digits", "/v2/models/digits/versions/1"):
        assert call("GET", path).json() == {
            "name": "digits",
            "versions": ["1"],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}],
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
            ],
        }
    index = call("POST", "/v2/repository/index", content=b"").json()
    assert {"name": "digits", "version": "1", "state": "READY", "reason": ""} in index


def test_before_the_models_are_loaded_nothing_is_ready() -> None:
    """Readiness is answered 503 until the models are loaded."""
    call = client(load=False)
    assert call("GET", "/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/digits/ready"):
        assert call("GET", path).status_code == 503, path


def forms() -> dict[str, dict[str, Any]]:
    """Ten digits, in each form that the protocol has for them."""
    values = images()
    files = [encode(mnist_like(digit)) for digit in DIGITS]
    flat = {"name": "image", "shape": [10, 28, 28, 1], "datatype": "UINT8", "data": values.ravel().tolist()}
    return {
        "nested": {"json": {"inputs": [tensor(values.tolist())]}},
        "flat": {"json": {"inputs": [flat]}},
        "binary": binary(
            {"inputs": [{**flat, "data": None, "parameters": {"binary_data_size": 7840}}]}, values.tobytes()
        ),
        "base64": {"json": {"inputs": [tensor([base64.b64encode(file).decode() for file in files], "BYTES")]}},
        "files": binary(
            {
                "inputs": [
                    {
                        "name": "image",
                        "shape": [10],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(packed(*files))},
                    }
                ]
            },
            packed(*files),
        ),
    }


@pytest.mark.parametrize("form", ["nested", "flat", "binary", "base64", "files"])
def test_every_form_of_input_gives_the_same_answer(call: Call, form: str) -> None:
    """The graph's tensor and encoded files, in JSON and binary, give the same labels and probabilities."""
    response = call("POST", INFER, **forms()[form])
    answer = response.json()
    assert (answer["model_name"], answer["model_version"]) == ("digits", "1")
    assert output(answer, "label") == {
        "name": "label", "datatype": "BYTES", "shape": [10], "data": [str(digit) for digit in DIGITS]
    }  # fmt: skip
    probabilities = output(answer, "probabilities")
    assert (probabilities["datatype"], probabilities["shape"]) == ("FP32", [10, 10])
    files = [("f", ("x", encode(mnist_like(digit)))) for digit in DIGITS]
    predictions = call("POST", "/classify/digits", files=files).json()["predictions"]
    expected = [[prediction["scores"][str(digit)] for digit in DIGITS] for prediction in predictions]
    assert np.reshape(probabilities["data"], (10, 10)) == pytest.approx(np.array(expected), abs=2e-6)
    assert [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")] == [
        "read", "queue", "infer", "total",
    ]  # fmt: skip


def test_outputs_have_the_requested_order_and_form(call: Call) -> None:
    """Outputs have the requested order and form, JSON or binary; the id of the request is in the response."""
    request = {
        "id": "abc",
        "inputs": [tensor(images(2).tolist())],
        "outputs": [{"name": "label", "parameters": {"binary_data": True}}, {"name": "probabilities"}],
        "parameters": {"binary_data_output": False, "something": 1},
    }
    response = call("POST", INFER, json=request)
    size = int(response.headers[LENGTH])
    answer, data = json.loads(response.content[:size]), response.content[size:]
    assert answer["id"] == "abc"
    assert [tensor["name"] for tensor in answer["outputs"]] == ["label", "probabilities"]
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": len(data)}
    assert data == packed(b"0", b"1")
    everything = call("POST", INFER, json={**request, "outputs": [], "parameters": {"binary_data_output": True}})
    size = int(everything.headers[LENGTH])
    rows = np.frombuffer(everything.content[size : size + 80], "<f4").reshape(2, 10)
    assert rows.sum(axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert everything.content[size + 80 :] == packed(b"0", b"1")


@pytest.mark.parametrize(("count", "in_main_thread"), [(1, True), (30, False)])
def test_a_large_body_is_parsed_off_the_event_loop(
    call: Call, monkeypatch: pytest.MonkeyPatch, count: int, in_main_thread: bool
) -> None:
    """A body of up to 64 KiB is parsed in the event loop's thread, a larger one in another thread."""
    threads = []
    loads = limited.loads

    def spy(*args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return loads(*args, **kwargs)

    monkeypatch.setattr(limited, "loads", spy)
    response = call("POST", INFER, json={"inputs": [tensor(images(count).tolist())]})
    assert response.status_code == 200
    assert {thread is threading.main_thread() for thread in threads} == {in_main_thread}


def test_texts_are_strings_or_token_ids(tmp_path: Path) -> None:
    """`text` BYTES in UTF-8, and `tokens` INT64 with padding at the ends, have the reference's probabilities."""
    reviews.publish(tmp_path)
    call = client(models=tmp_path)
    texts = ["good film", "bad bad film", "fine"]
    expected = np.array(reviews.reference(texts))
    plain = call("POST", "/v2/models/reviews/infer", json={"inputs": [tensor(texts, "BYTES", "text")]}).json()
    ids = [[list(reviews.WEIGHTS).index(word) for word in text.split()] for text in texts]
    rows = [row + [0] * (5 - len(row)) for row in ids]
    numbers = call("POST", "/v2/models/reviews/infer", json={"inputs": [tensor(rows, "INT64", "tokens")]}).json()
    for answer in (plain, numbers):
        assert np.reshape(output(answer, "probabilities")["data"], (3, -1)) == pytest.approx(expected, abs=1e-5)


def replaced(**change: Any) -> dict[str, Any]:
    """A request of one digit, its input changed."""
    return {"json": {"inputs": [{**tensor(images(1).tolist()), **change}]}}


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "not JSON": ({"content": b"nonsense"}, 400, "JSON"),
    "empty": ({"content": b""}, 400, "empty"),
    "no inputs": ({"json": {"inputs": []}}, 400, "inputs"),
    "two inputs": ({"json": {"inputs": [tensor([1]), tensor([1])]}}, 400, "inputs"),
    "no name": ({"json": {"inputs": [{"shape": [1], "datatype": "UINT8", "data": [1]}]}}, 400, "inputs.0.name"),
    "other name": (replaced(name="picture"), 400, "UINT8"),
    "other type": (replaced(datatype="FP32"), 400, "FP32"),
    "other shape": (replaced(shape=[1, 1, 28, 28]), 400, "28, 28, 1]"),
    "too few values": (replaced(shape=[2, 28, 28, 1]), 400, "784 values"),
    "no axis": (replaced(shape=[]), 400, "shape []"),
    "no items": (replaced(shape=[0, 28, 28, 1], data=[]), 400, "shape [0, 28, 28, 1]"),
    "negative shape": (replaced(shape=[-1, 28, 28, 1]), 400, "inputs.0.shape.0"),
    "too large a number": (replaced(data=[256] * 784), 400, "UINT8"),
    "fractions": (replaced(data=[0.5] * 784), 400, "whole numbers"),
    "strings": (replaced(data=["1"] * 784), 400, "whole numbers"),
    "ragged": (replaced(data=[[1, 2], [3]]), 400, "lengths"),
    "no data": (replaced(data=None), 400, "binary_data_size"),
    "shared memory": (replaced(parameters={"shared_memory_region": "x"}), 400, "shared memory"),
    "classification": (
        {"json": {**replaced()["json"], "outputs": [{"name": "label", "parameters": {"classification": 2}}]}},
        400,
        "classification",
    ),
    "unknown output": ({"json": {**replaced()["json"], "outputs": [{"name": "logits"}]}}, 400, "outputs.0.name"),
    "too many items": ({"json": {"inputs": [tensor(["AA=="] * 5, "BYTES")]}}, 413, "4"),
    "no base64": ({"json": {"inputs": [tensor(["%"], "BYTES")]}}, 422, "base64"),
    "no image": ({"json": {"inputs": [tensor(["AAAA"], "BYTES")]}}, 415, "item 0"),
    "both": (
        binary({"inputs": [{**tensor([1]), "parameters": {"binary_data_size": 1}}]}, b"x"), 400, "binary_data_size"
    ),
    "wrong binary size": (
        binary({"inputs": [{**tensor(None), "shape": [1], "parameters": {"binary_data_size": 9}}]}, b"x"),
        400,
        "9",
    ),
    "bytes left over": (binary(replaced()["json"], b"xyz"), 400, "3 bytes"),
    "header too long": ({"content": b"{}", "headers": {LENGTH: "9"}}, 400, "2 bytes"),
    "header no number": ({"content": b"{}", "headers": {LENGTH: "-1"}}, 400, "-1"),
    "cut off": (
        binary(
            {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}}]},
            b"\x09\0\0\0ab",
        ),
        400,
        "cut off",
    ),
    "deep": ({"content": b'{"inputs":' + b"[" * 100_000}, 400, "32"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_an_invalid_request_is_answered_in_the_protocol_s_form(case: str) -> None:
    """An invalid request is answered `{"error": "..."}`, with a status below 500 and the facts in the message."""
    kwargs, status, fact = BAD[case]
    response = client(max_items=4)("POST", INFER, **kwargs)
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert fact in response.json()["error"]


def file_tensor(shape: list[int], data: Any) -> dict[str, Any]:
    """A BYTES tensor of encoded digits."""
    return {"inputs": [{"name": "image", "shape": shape, "datatype": "BYTES", "data": data}]}


B64 = [base64.b64encode(encode(mnist_like(digit))).decode() for digit in (4, 7)]


@pytest.mark.parametrize(
    ("shape", "data", "labels"),
    [
        ([1, 1], [B64[0]], ["4"]), ([1, 1], [[B64[0]]], ["4"]), ([2, 1], [[B64[0]], [B64[1]]], ["4", "7"]),
        ([2, 1], B64, ["4", "7"]), ([1, 2], [B64], ["4", "7"]), ([1, 1, 1], [[[B64[1]]]], ["7"]),
        ([2], B64, ["4", "7"]), ([1, 2, 1], [[[B64[0]], [B64[1]]]], ["4", "7"]),
    ],
)  # fmt: skip
def test_bytes_tensors_may_have_axes_of_one(call: Call, shape: list[int], data: Any, labels: list[str]) -> None:
    """[N, 1] and [1, N], as the examples of Triton and KServe send them, flat or nested, in JSON and binary."""
    answer = call("POST", INFER, json=file_tensor(shape, data)).json()
    assert output(answer, "label")["data"] == labels
    assert output(answer, "probabilities")["shape"] == [len(labels), 10]
    tail = packed(*(encode(mnist_like(int(label))) for label in labels))
    tensor = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    answer = call("POST", INFER, **binary({"inputs": [tensor]}, tail)).json()
    assert output(answer, "label")["data"] == labels


def test_null_is_as_if_left_out(call: Call) -> None:
    """KServe's client sends null for what it does not use."""
    request = file_tensor([1], [B64[0]])
    request["inputs"][0]["parameters"] = None
    for outputs in (None, [{"name": "label", "parameters": None}]):
        response = call("POST", INFER, json={**request, "id": None, "parameters": None, "outputs": outputs})
        assert output(response.json(), "label")["data"] == ["4"]


def test_the_models_are_listed(call: Call) -> None:
    """As KServe's server lists them."""
    assert call("GET", "/v2/models").json() == {"models": ["cats-vs-dogs", "digits", "reviews"]}


IMAGE = encode(mnist_like(4))
WORDS: dict[str, tuple[dict[str, Any], str]] = {
    "an image as the body": ({"content": IMAGE}, "/classify/{model}"),
    "a form as the body": ({"files": [("f", ("x", IMAGE))]}, "multipart"),
    "gzip without its header": ({"content": gzip.compress(b"{}")}, "Content-Encoding"),
    "binary without the header": (
        {"content": json.dumps({"inputs": [{"name": "image", "shape": [1, 28, 28, 1], "datatype": "UINT8",
                                            "parameters": {"binary_data_size": 784}}]}).encode() + images(1).tobytes()},
        LENGTH,
    ),
    "an output twice": ({"json": {**replaced()["json"], "outputs": [{"name": "label"}] * 2}}, "twice"),
    "binary_data in quotes": (
        {"json": {**replaced()["json"], "outputs": [{"name": "label", "parameters": {"binary_data": "true"}}]}},
        '"true"; expected true or false',
    ),
    "binary_data a number": (
        {"json": {**replaced()["json"], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}}, "is 1;",
    ),
    "binary_data_output in quotes": (
        {"json": {**replaced()["json"], "parameters": {"binary_data_output": "false"}}}, '"false"',
    ),
    "binary_data_size in quotes": (replaced(data=None, parameters={"binary_data_size": "784"}), "'784'"),
    "only 0 and 1": (replaced(data=((images(1) > 100) * 1).tolist()), "only 0 and 1"),
    "only 0 and 1 in the second": (
        {"json": {"inputs": [tensor(np.concatenate([images(1), images(1) > 100]).tolist())]}}, "only 0 and 1",
    ),
    "two axes": ({"json": file_tensor([2, 2], [*B64, *B64])}, "[2, 2]"),
    "too few strings": ({"json": file_tensor([2, 1], [[B64[0]]])}, "1 values"),
    "lists and strings": ({"json": file_tensor([2], [B64[0], [B64[1]]])}, "strings"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WORDS))
def test_a_mistake_is_named(call: Call, case: str) -> None:
    """What clients get wrong is a 400 that says what it is."""
    kwargs, fact = WORDS[case]
    response = call("POST", INFER, **kwargs)
    assert response.status_code == 400, response.text
    assert fact in response.json()["error"]


@pytest.mark.parametrize(
    ("tail", "fact"),
    [
        (IMAGE, "image without its length"),
        (encode(mnist_like(4), "JPEG"), "image without its length"),
        (b"A good film.", "without its length"),
        (len(IMAGE).to_bytes(4, "big") + IMAGE, "big-endian"),
        (packed(IMAGE)[:-5], "cut off"),
        (packed(IMAGE) + b"\0\0", "2 bytes follow"),
        (packed(IMAGE, IMAGE), "follow"),
    ],
)
def test_a_binary_value_without_its_length_is_named(call: Call, tail: bytes, fact: str) -> None:
    """The message says what is wrong with the length before the value."""
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    response = call("POST", INFER, **binary({"inputs": [tensor]}, tail))
    assert response.status_code == 400
    assert fact in response.json()["error"]


def test_a_black_image_is_not_a_mask(call: Call) -> None:
    """Load generators send tensors of zeros."""
    assert call("POST", INFER, **replaced(data=[0] * 784)).status_code == 200
    assert call("POST", INFER, **replaced(data=[0, 1] * 391 + [0, 2])).status_code == 200


def test_unknown_models_and_versions_are_named(call: Call) -> None:
    """A 404 lists the models, or the loaded versions."""
    response = call("GET", "/v2/models/cats")
    assert response.status_code == 404
    assert all(name in response.json()["error"] for name in ("'cats'", "cats-vs-dogs", "digits"))
    response = call("POST", "/v2/models/digits/versions/7/infer", json={})
    assert response.status_code == 404
    assert all(name in response.json()["error"] for name in ("'digits'", "'7'", "1"))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_are_read(call: Call, encoding: str) -> None:
    """Bodies can be gzip or zlib, on these routes and on others."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    headers = {"Content-Encoding": encoding}
    body = json.dumps(replaced()["json"]).encode()
    assert output(call("POST", INFER, content=pack(body), headers=headers).json(), "label")["data"] == ["0"]
    answer = call("POST", "/classify/digits", content=pack(encode(mnist_like(3))), headers=headers).json()
    assert answer["predictions"][0]["label"] == "3"


def test_compressed_bodies_are_limited() -> None:
    """A body is not decompressed beyond the limit, and is refused if it does not match its Content-Encoding."""
    call = client(max_body_bytes=100_000)

    def status(content: bytes, encoding: str) -> int:
        return call("POST", "/classify/digits", content=content, headers={"Content-Encoding": encoding}).status_code

    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < 100_000
    assert status(bomb, "gzip") == 413
    assert status(b"nonsense", "gzip") == 422
    assert status(gzip.compress(b"abc")[:-4], "gzip") == 422
    assert status(gzip.compress(b"abc") + b"more", "gzip") == 422
    assert status(b"abc", "br") == 415


@pytest.fixture(scope="module")
def managed(start_server: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> tuple[Server, Path, str]:
    """A started server with digits 1 as its only model, its folder of models, and a key for load and unload."""
    folder = tmp_path_factory.mktemp("managed")
    models, file = folder / "models", folder / "keys"
    shutil.copytree(ROOT / "models/digits/1", models / "digits/1")
    (key,) = make_keys(file, "manage")
    server = start_server(
        CONVOKE_MODELS=str(models), CONVOKE_POLL_S="0.2", CONVOKE_API_KEYS_FILE=str(file), CONVOKE_PUBLIC="predict"
    )
    server.wait_until_ready()
    return server, models, key


def triton_input(values: npt.NDArray[Any], *, is_binary: bool = True) -> Any:
    """An input of Triton's client: the graph's tensor, or encoded files."""
    datatype = "UINT8" if values.dtype == np.uint8 else "BYTES"
    tensor = triton.InferInput("image", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=is_binary)
    return tensor


def test_triton_s_client_works_unchanged(managed: tuple[Server, Path, str]) -> None:
    """Metadata, inference with binary and JSON tensors, compression and BYTES work; errors are its exceptions."""
    server, _, _ = managed
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as session:
        assert session.is_server_live()
        assert session.is_server_ready()
        assert session.is_model_ready("digits")
        assert session.get_server_metadata()["name"] == "convoke"
        assert session.get_model_metadata("digits", "1")["inputs"][0]["datatype"] == "UINT8"
        assert [entry["name"] for entry in session.get_model_repository_index()] == ["digits"]
        expected = [str(digit).encode() for digit in DIGITS]
        for is_binary in (True, False):
            outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("label", "probabilities")]
            for compression in (None, "gzip", "deflate"):
                answer = session.infer(
                    "digits",
                    [triton_input(images(), is_binary=is_binary)],
                    outputs=outputs,
                    request_id="7",
                    request_compression_algorithm=compression,
                    response_compression_algorithm=compression,
                )
                assert answer.get_response()["id"] == "7"
                assert [str(label).strip("b'") for label in answer.as_numpy("label")] == [
                    str(digit) for digit in DIGITS
                ]
                assert answer.as_numpy("probabilities").argmax(axis=1).tolist() == DIGITS
        files = np.array([encode(mnist_like(digit)) for digit in DIGITS], object)
        assert session.infer("digits", [triton_input(files)]).as_numpy("label").tolist() == expected
        with pytest.raises(InferenceServerException, match="'nothing'") as caught:
            session.infer("nothing", [triton_input(images(1))])
        assert caught.value.status() == "404"
        with pytest.raises(InferenceServerException, match="expected"):
            session.infer("digits", [triton_input(images(1)[:, :27])])


def test_triton_s_asynchronous_client_works_unchanged(managed: tuple[Server, Path, str]) -> None:
    """Concurrent requests get their own responses."""
    server, _, _ = managed

    async def scenario() -> None:
        async with triton_aio.InferenceServerClient(server.url.removeprefix("http://")) as session:
            assert await session.is_server_ready()
            answers = await asyncio.gather(
                *(session.infer("digits", [triton_input(images()[digit : digit + 1])]) for digit in DIGITS * 5)
            )
            assert [int(answer.as_numpy("probabilities").argmax()) for answer in answers] == DIGITS * 5
            with pytest.raises(InferenceServerException):
                await session.infer("digits", [triton_input(images(1)[:, :27])])

    asyncio.run(scenario())


def test_a_version_is_rolled_back_and_forth(managed: tuple[Server, Path, str]) -> None:
    """A new version takes over, `unload` returns to the previous one, `load` undoes that; a broken one is refused."""
    server, models, key = managed
    headers = {"Authorization": f"Bearer {key}"}

    def served() -> str:
        return str(httpx.get(f"{server.url}/models/digits").json()["version"])

    add_version(models / "digits/1", 2)
    server.wait(lambda: served() == "2")
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as session:
        assert session.infer("digits", [triton_input(images(1))]).get_response()["model_version"] == "2"
        assert (
            session.infer("digits", [triton_input(images(1))], model_version="1").get_response()["model_version"] == "1"
        )
        session.unload_model("digits", headers=headers)
        assert served() == "1"
        assert json.loads((models / "digits/withdrawn.json").read_text()) == [2]
        assert not session.is_model_ready("digits", "2")
        session.load_model("digits", headers=headers)
        assert served() == "2"
        (add_version(models / "digits/1", 3) / "model.onnx").write_bytes(b"garbage")
        with pytest.raises(InferenceServerException, match=r"model\.onnx"):
            session.load_model("digits", headers=headers)
        assert served() == "2"
    refused = httpx.get(f"{server.url}/models").json()["refused"]
    assert list(refused["digits"]) == ["3"]
    shutil.rmtree(models / "digits/3")
    server.wait(lambda: not httpx.get(f"{server.url}/models").json()["refused"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/digits/config", 404),
        ("GET", "/v2/models/digits/stats", 404),
        ("GET", "/v2/systemsharedmemory/status", 404),
        ("GET", "/v2/models/digits/infer", 405),
    ],
)
def test_unsupported_extensions_are_answered_in_the_protocol_s_form(method: str, path: str, status: int) -> None:
    """An extension that is not supported is answered 404 or 405 in the protocol's form."""
    response = client()(method, path)
    assert response.status_code == status
    assert isinstance(response.json()["error"], str)


def test_an_image_in_place_of_a_text_is_refused(tmp_path: Path) -> None:
    """An image for a model of texts is a 415, and bytes that are not UTF-8 are a 422 with their item and position."""
    reviews.publish(tmp_path)
    call = client(models=tmp_path)

    def infer(*values: bytes) -> httpx.Response:
        data = packed(*values)
        parameters = {"binary_data_size": len(data)}
        text = {"name": "text", "datatype": "BYTES", "shape": [len(values)], "parameters": parameters}
        return call("POST", "/v2/models/reviews/infer", **binary({"inputs": [text]}, data))

    response = infer(b"good", b"\x89PNG\r\n\x1a\n")
    assert response.status_code == 415
    assert response.json()["error"].startswith("item 1: ")
    response = infer(b"good", b"bad \xff")
    assert response.status_code == 422
    assert all(fact in response.json()["error"] for fact in ("item 1", "0xff", "4"))
    content = b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"data":["good \\ud83d"]}]}'
    response = call("POST", "/v2/models/reviews/infer", content=content)
    assert response.status_code == 422
    assert "surrogate" in response.json()["error"]
