"""The OpenAPI 3.1 document of every route, and a page that shows it without loading anything from elsewhere."""

from collections.abc import Sequence
from html import escape
from typing import Any

from service import __version__
from service.http import access
from service.http.route import Route, code_and_message
from service.settings import Settings

Json = dict[str, Any]

_NAME = {"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "maxLength": 100}
_BYTES = {"type": "string", "contentEncoding": "binary", "minLength": 1}
_NUMBER = {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"}

_STATUS = {
    "400": "The request is not of the form that the route reads.",
    "401": "The route needs a key, and none that is known was shown.",
    "403": "The key does not open this route; or, for management, there is no key that does.",
    "404": "There is no such model, version or path.",
    "405": "The path exists, but not for this method.",
    "408": "The body did not arrive in time.",
    "409": "The folder of models cannot be written.",
    "413": "Too many bytes, pixels, characters, items or JSON values.",
    "415": "A kind of content that is not read.",
    "422": "The right kind of content, but damaged.",
    "429": "The queue or the room for bodies is full; Retry-After says when to try again.",
    "500": "The model failed on this item, or the service itself.",
    "503": "The models are not loaded yet.",
    "504": "The answer took longer than a request may.",
}
_KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, where the service has been given keys."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same, as a header alone."},
}
_READING = ["400", "404", "408", "413", "415", "422"]
_RUNNING = [*_READING, "429", "500", "503", "504"]


def document(routes: Sequence[Route], settings: Settings) -> Json:
    """The OpenAPI document of these routes and of BentoML's /livez and /readyz."""
    paths = {
        "/classify/{model}": {"post": _classify(settings)},
        "/models": {"get": _get("models", "What is served, and what was refused and why", "Models")},
        "/models/{model}": {"get": _get("models", "One model, with its card", "Model", model=True)},
        **_protocol(settings),
        "/classify_texts": {"post": _native("texts", settings)},
        "/classify_images": {"post": _native("images", settings)},
        **_operation(),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Convoke",
            "version": __version__,
            "summary": "Classification of pictures and texts, in batches.",
            "description": (
                "Every answer carries X-Request-ID (the caller's, where it sent a plain one) and Server-Timing. "
                "Bodies may be packed with gzip or deflate (Content-Encoding). On any path a request on a "
                "connection above the limit is answered 429, too_many_connections."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "classify", "description": "Labels for pictures and texts."},
            {"name": "models", "description": "What is served."},
            {"name": "protocol", "description": "The Open Inference Protocol, version 2, for its own clients."},
            {"name": "operation", "description": "Health and metrics."},
        ],
        "paths": {**paths, **{route.path: _behind_a_key(route, paths[route.path], settings) for route in routes}},
        "components": {"schemas": _schemas(settings), "securitySchemes": _KEYS},
    }


def page(content: Json) -> str:
    """An OpenAPI document as HTML, for people: every route, what it takes, what it answers."""
    routes = "".join(
        _shown(method.upper(), path, operation)
        for path, operations in content["paths"].items()
        for method, operation in operations.items()
    )
    info = content["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        summary=escape(info["summary"]),
        description=escape(info["description"]),
        routes=routes,
    )


def _shown(method: str, path: str, operation: Json) -> str:
    takes = "".join(
        f"<li><code>{escape(kind)}</code> {escape(content.get('x-means', ''))}</li>"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items()
    )
    parameters = "".join(
        f"<li><code>{escape(one['name'])}</code> {escape(one.get('description', ''))}</li>"
        for one in operation.get("parameters", ())
    )
    answers = "".join(
        f"<li><code>{escape(status)}</code> {escape(answer['description'])}</li>"
        for status, answer in operation["responses"].items()
    )
    lists = [("Parameters", parameters), ("Takes", takes), ("Answers", answers)]
    shown = "".join(f"<h3>{name}</h3><ul>{items}</ul>" for name, items in lists if items)
    description = f"<p>{escape(operation['description'])}</p>" if "description" in operation else ""
    return (
        f"<details><summary><b>{method}</b> <code>{escape(path)}</code> "
        f"<span>{escape(operation['summary'])}</span></summary>{description}{shown}</details>"
    )


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: Json, description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _errors(statuses: list[str], shape: str = "Error") -> Json:
    return {status: _json(_ref(shape), _STATUS[status]) for status in statuses}


def _parameter(name: str, schema: Json, description: str, where: str = "path") -> Json:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


_MODEL = _parameter("model", _NAME, "The model's name, as GET /models lists it.")
_VERSION = _parameter("version", _NUMBER, "A version that is loaded.")


def _get(tag: str, summary: str, schema: str, *, model: bool = False) -> Json:
    return {
        "tags": [tag],
        "summary": summary,
        "operationId": schema.lower(),
        "parameters": [_MODEL] if model else [],
        "responses": {"200": _json(_ref(schema), summary + "."), **(_errors(["404", "503"]) if model else {})},
    }


def _classify(settings: Settings) -> Json:
    pictures = {"schema": _BYTES, "x-means": "one encoded picture"}
    kinds = (
        "image/jpeg",
        "image/png",
        "image/webp",
        "image/gif",
        "image/bmp",
        "image/tiff",
        "application/octet-stream",
    )
    return {
        "tags": ["classify"],
        "summary": "Classify pictures or texts",
        "description": (
            "One picture or text as the body, or any number as multipart parts or in JSON. Pictures are told by their "
            "content, whatever their label says. An item that cannot be read has an error in its place and leaves its "
            "neighbours alone; where it is the only one, the request fails with that error."
        ),
        "operationId": "classify",
        "parameters": [
            _MODEL,
            _parameter("top", _NUMBER, "How many labels to give a probability for; all by default.", "query"),
            _parameter(
                "min_score",
                {"type": "string", "pattern": r"^(0(\.[0-9]{1,9})?|1(\.0{1,9})?)$"},
                "Below this probability, from 0 to 1, the answer abstains: the label is null, the guess beside it.",
                "query",
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                **dict.fromkeys(kinds, pictures),
                "text/plain": {"schema": {"type": "string", "minLength": 1}, "x-means": "one text in UTF-8"},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "additionalProperties": {"type": "string", "contentEncoding": "binary"},
                        "minProperties": 1,
                    },
                    "x-means": f"up to {settings.max_items} pictures or texts, one a part, whatever its name",
                },
                "application/json": {
                    "schema": {"oneOf": [_ref("Images"), _ref("Texts")]},
                    "x-means": 'texts {"texts": ["..."]} or pictures in base64 {"images": ["..."]}',
                },
            },
        },
        "responses": {"200": _json(_ref("Answer"), "A prediction or an error an item, in order."), **_errors(_RUNNING)},
    }


def _behind_a_key(route: Route, operations: Json, settings: Settings) -> Json:
    """The operations of a path with the answers and the keys that the settings make of it."""
    if not access.is_locked(route, settings):
        return operations
    shape = "Error" if route.error_form is code_and_message else "ProtocolError"
    security: list[Json] = [{name: []} for name in _KEYS]
    return {
        method: {
            **operation,
            "security": security,
            "responses": dict(sorted({**operation["responses"], **_errors(["401", "403"], shape)}.items())),
        }
        for method, operation in operations.items()
    }


def _native(key: str, settings: Settings) -> Json:
    text = {"type": "string"}
    items = {"type": "array", "items": text, "minItems": 1, "maxItems": settings.max_items}
    return {
        "tags": ["classify"],
        "summary": f"Classify {key}, for BentoML's own clients",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _object({"model": text, key: items}, closed=True)}},
        },
        "responses": {"200": _json(_ref("Answer"), "A prediction or an error an item, in order."), **_errors(_RUNNING)},
    }


def _protocol(settings: Settings) -> Json:
    def get(summary: str, schema: Json, statuses: list[str], *parameters: Json) -> Json:
        return {
            "get": {
                "tags": ["protocol"],
                "summary": summary,
                "parameters": list(parameters),
                "responses": {"200": _json(schema, summary + "."), **_errors(statuses, "ProtocolError")},
            }
        }

    paths: Json = {
        "/v2": get("Name, version and extensions of the server", _ref("ServerMetadata"), []),
        "/v2/health/live": get("Whether the server is alive", {"type": "object"}, []),
        "/v2/health/ready": get("Whether every model can be asked", {"type": "object"}, ["503"]),
        "/v2/repository/index": {"post": _repository("Every version that is loaded or was refused", _ref("Index"), [])},
    }
    for verb, means in (("load", "Put a version into service again"), ("unload", "Take a version out of service")):
        statuses = ["404", "409", "422", "503"]
        operation = _repository(means, {"type": "object"}, statuses)
        paths[f"/v2/repository/models/{{model}}/{verb}"] = {"post": {**operation, "parameters": [_MODEL]}}
    for path, parameters in (
        ("/v2/models/{model}", [_MODEL]),
        ("/v2/models/{model}/versions/{version}", [_MODEL, _VERSION]),
    ):
        paths[path] = get("Inputs and outputs of a model", _ref("ModelMetadata"), ["404", "503"], *parameters)
        paths[f"{path}/ready"] = get("Whether a model can be asked", {"type": "object"}, ["404", "503"], *parameters)
        paths[f"{path}/infer"] = {"post": _infer(parameters, settings)}
    return paths


def _repository(summary: str, schema: Json, statuses: list[str]) -> Json:
    return {
        "tags": ["protocol"],
        "summary": summary,
        "requestBody": {
            "required": False,
            "content": {"application/json": {"schema": {"type": "object"}, "x-means": "options, as Triton has them"}},
        },
        "responses": {
            "200": _json(schema, summary + "."),
            **_errors(sorted({"400", "408", "413", "415", "422", "429", *statuses}), "ProtocolError"),
        },
    }


def _infer(parameters: list[Json], settings: Settings) -> Json:
    length = {"type": "string", "pattern": "^[0-9]{1,11}$"}
    header = _parameter(
        "Inference-Header-Content-Length",
        length,
        "How many bytes of the body are JSON; binary tensors follow.",
        "header",
    )
    return {
        "tags": ["protocol"],
        "summary": "Infer",
        "description": (
            "Takes the graph's own tensor, or encoded pictures (image BYTES [N]) or texts (text BYTES [N]), at most "
            f"{settings.max_items} items; gives probabilities FP32 [N, C] and label BYTES [N]."
        ),
        "parameters": [*parameters, header],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ref("InferenceRequest"), "x-means": "tensors in JSON"},
                "application/octet-stream": {
                    "schema": _BYTES,
                    "x-means": "JSON, then binary tensors",
                },
            },
        },
        "responses": {
            "200": {
                "description": "The outputs, in JSON or as binary tensors behind it.",
                "content": {
                    "application/json": {"schema": _ref("InferenceAnswer")},
                    "application/octet-stream": {"schema": {"type": "string", "contentEncoding": "binary"}},
                },
            },
            **_errors(_RUNNING, "ProtocolError"),
        },
    }


def _operation() -> Json:
    def get(summary: str, kind: str, schema: Json, *, unready: bool = False) -> Json:
        responses: Json = {"200": {"description": summary + ".", "content": {kind: {"schema": schema}}}}
        if unready:
            responses["503"] = {"description": "Not yet, or no more."}
        return {"get": {"tags": ["operation"], "summary": summary, "responses": responses}}

    text = {"type": "string"}
    return {
        "/livez": get("Whether the process is alive", "text/plain", text),
        "/readyz": get("Whether requests can be answered", "text/plain", text, unready=True),
        "/metrics": get("Metrics in Prometheus's text format", "text/plain", text),
        "/openapi.json": get("This document", "application/json", {"type": "object"}),
        "/docs": get("This document for people", "text/html", text),
    }


def _schemas(settings: Settings) -> Json:
    text: Json = {"type": "string"}
    count = {"type": "integer", "minimum": 0}
    problem = _object({"code": text, "message": text})
    items = {"type": "array", "items": text, "minItems": 1, "maxItems": settings.max_items}
    described = _object({"name": text, "datatype": text, "shape": {"type": "array", "items": {"type": "integer"}}})
    return {
        "Images": _object({"images": items}, closed=True),
        "Texts": _object({"texts": items}, closed=True),
        "Answer": _object(
            {
                "model": text,
                "version": text,
                "predictions": {
                    "type": "array",
                    "items": {"oneOf": [_ref("Prediction"), _object({"error": problem}, closed=True)]},
                },
            }
        ),
        "Prediction": _prediction(),
        "Error": _object({"error": problem}),
        "Models": _object(
            {
                "models": {"type": "array", "items": _ref("ModelSummary")},
                "refused": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": text}},
            }
        ),
        "ModelSummary": _object(
            {
                "name": text,
                "version": text,
                "task": text,
                "labels": {"type": "array", "items": text},
                "input": {"type": "object"},
                "max_batch": count,
                "test_metrics": {"type": "object"},
                "provider": text,
                "precision": text,
            }
        ),
        "Model": {"allOf": [_ref("ModelSummary"), _object({"card": text})]},
        "ProtocolError": _object({"error": text}),
        "ServerMetadata": _object({"name": text, "version": text, "extensions": {"type": "array", "items": text}}),
        "ModelMetadata": _object(
            {
                "name": text,
                "versions": {"type": "array", "items": text},
                "platform": text,
                "inputs": {"type": "array", "items": described},
                "outputs": {"type": "array", "items": described},
            }
        ),
        "Index": {
            "type": "array",
            "items": _object({"name": text, "version": text, "state": text, "reason": text}),
        },
        "InferenceRequest": _object(
            {"inputs": {"type": "array", "items": described, "minItems": 1, "maxItems": 1}},
        ),
        "InferenceAnswer": _object(
            {"model_name": text, "model_version": text, "outputs": {"type": "array", "items": described}}
        ),
    }


def _prediction() -> Json:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    found = _object(
        {
            "label": {"type": ["string", "null"]},
            "score": share,
            "scores": {"type": "object", "additionalProperties": share},
        },
        closed=True,
    )
    found["properties"]["guess"] = {"type": "string", "description": "What an answer that abstains would have said."}
    return found


def _object(properties: Json, *, closed: bool = False) -> Json:
    """A JSON object that has all of these properties, and no other where it is closed."""
    found: Json = {"type": "object", "properties": properties, "required": list(properties)}
    return {**found, "additionalProperties": False} if closed else found


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} {version}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --quiet: #888; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ margin-bottom: 0; }} h3 {{ font-size: 0.9rem; margin: 0.8rem 0 0.2rem; }}
ul {{ margin: 0; padding-left: 1.2rem; }}
summary {{ cursor: pointer; padding: 0.5rem 0; }} summary span {{ color: var(--quiet); }}
summary b {{ display: inline-block; min-width: 3.2rem; }}
details {{ border-top: 1px solid var(--line); }} details[open] {{ padding-bottom: 1rem; }}
code {{ font-size: 0.9em; overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{summary} Version {version}; the same for machines: <a href="/openapi.json">/openapi.json</a>.</p>
<p>{description}</p>
{routes}
</body>
</html>
"""
