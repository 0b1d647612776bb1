"""No query parameter is ignored, and slashes too many do not matter."""

import pytest

from tests.drawing import encode, mnist_like
from tests.serving import Call, client

DIGIT = encode(mnist_like(7))


@pytest.fixture(scope="module")
def call() -> Call:
    return client()


@pytest.mark.parametrize(
    ("query", "facts"),
    [
        ("topk=1", ["'topk'", "did you mean top?"]),
        ("top_k=1", ["'top_k'", "top"]),
        ("Top=1", ["'Top'", "did you mean top?"]),
        ("minscore=0.5", ["'minscore'", "did you mean min_score?"]),
        ("min-score=0.5", ["'min-score'", "did you mean min_score?"]),
        ("threshold=0.5", ["'threshold'", "top, min_score"]),
        ("version=1", ["'version'", "/v2/models/{model}/versions/{version}"]),
        ("top=1&x=2&y", ["'x', 'y'"]),
        ("top=1&top=2", ["'top'", "2 times"]),
        ("top=1&top=1", ["'top'", "2 times"]),
        ("%74opk=1", ["'topk'"]),
        ("top=1;min_score=0.5", ["top="]),
        ("=1", ["''"]),
        ("&".join(f"a{number}=1" for number in range(200)), ["100"]),
        ("a" * 5000, ["'aaaa"]),
    ],
)
def test_unknown_and_repeated_parameters_are_named(call: Call, query: str, facts: list[str]) -> None:
    """The answer is 400, with the names and what the route takes."""
    response = call("POST", f"/classify/digits?{query}", content=DIGIT)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert all(fact in message for fact in facts), message
    assert len(message) < 400


@pytest.mark.parametrize("query", ["", "top=1", "min_score=0.5&top=2", "&top=1&", "%74op=1"])
def test_known_parameters_are_read(call: Call, query: str) -> None:
    """Also percent-encoded, and with an empty pair."""
    assert call("POST", f"/classify/digits?{query}", content=DIGIT).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/models?name=digits", 400), ("GET", "/models/digits?version=1", 400),
        ("GET", "/v2/models/digits?x=1", 400), ("POST", "/v2/models/digits/infer?x=1", 400),
        ("POST", "/classify_texts?model=digits", 400), ("POST", "/v2/repository/index?ready=true", 400),
        ("GET", "/docs?v=2", 200), ("GET", "/openapi.json?_=1", 200), ("GET", "/metrics?name[]=up", 200),
        ("GET", "/v2/health/live?verbose", 200), ("GET", "/v2?x=1", 200),
    ],
)  # fmt: skip
def test_every_route_checks_its_query(call: Call, method: str, path: str, status: int) -> None:
    """Routes without parameters refuse them, but for health, metrics and documents, where tools append some."""
    assert call(method, path).status_code == status


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/classify/digits/"), ("POST", "//classify/digits"), ("POST", "/classify//digits"),
        ("POST", "/classify/digits//?top=1"), ("POST", "///classify///digits///"), ("GET", "/models/"),
        ("GET", "//models"), ("GET", "/models//digits/"), ("GET", "/v2/"), ("GET", "//v2"), ("GET", "/v2/health/live/"),
        ("GET", "/v2/models/"), ("GET", "/v2/models/digits/"), ("GET", "/v2/models/digits/ready/"),
        ("GET", "/v2//models/digits/versions/1/"), ("GET", "/docs/"), ("GET", "/metrics/"), ("HEAD", "/models/"),
    ],
)  # fmt: skip
def test_slashes_too_many_do_not_matter(call: Call, method: str, path: str) -> None:
    """The route answers itself, since few clients follow a redirect of a POST."""
    content = DIGIT if method == "POST" else b""
    assert call(method, f"http://test{path}", content=content).status_code == 200  # else //v2 would be a host


@pytest.mark.parametrize("path", ["/livez/", "//livez", "/readyz/"])
def test_health_with_a_slash_is_redirected(call: Call, path: str) -> None:
    """BentoML answers /livez and /readyz under their exact paths only."""
    response = call("GET", f"http://test{path}")
    assert response.status_code == 308
    assert response.headers["Location"] == f"/{path.strip('/')}"
    assert call("POST", f"http://test{path}").status_code == 405


def test_slashes_do_not_open_a_route(call: Call) -> None:
    """An empty name is not a model, and a path with other segments is not found."""
    for path in ("/classify/", "/classify//", "/classify/digits/x", "/models/digits/.."):
        assert call("POST", path, content=DIGIT).status_code in {404, 405}
