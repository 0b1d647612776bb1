"""The OpenAPI 3.1 document of every route.

Paths, methods, keys and the form of errors come from the routes, statuses and their meanings from the error classes,
and schemas from the classes that read requests and write responses. What a route does stands in `operations.py`.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import __version__, errors
from service.http import access
from service.http.route import Route, code_and_message
from service.routes.operations import JSON, PARAMETERS, Json, Operation, Schema, operations, ref
from service.routes.schemas import Error, Images, ProtocolError, Texts
from service.settings import Settings

_KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, if the service has a file of keys."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in another header."},
}


def document(routes: Sequence[Route], settings: Settings) -> Json:
    """The OpenAPI document of these routes and of BentoML's /livez and /readyz."""
    known = operations(settings)
    paths: dict[str, Json] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _describe(route, _operation(known, route), settings)
    for path in ("/livez", "/readyz"):
        paths[path]["get"] = _describe_plain(path, known[path])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Convoke",
            "version": __version__,
            "summary": "Batched classification of images and texts.",
            "description": (
                "Every response carries X-Request-ID (the client's, if it sent a short and plain one) and "
                "Server-Timing. A body may be compressed with gzip or deflate (Content-Encoding). On every path, a "
                "request on a connection above the limit is answered 429, too_many_connections, and an internal error "
                "500, internal."
            ),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "classify", "description": "Labels for images and texts."},
            {"name": "feedback", "description": "Right labels, from which the next model learns."},
            {"name": "models", "description": "The models that are served."},
            {"name": "protocol", "description": "The Open Inference Protocol, version 2, for its own clients."},
            {"name": "operation", "description": "Health and metrics."},
        ],
        "paths": paths,
        "components": {"schemas": _components(known.values(), settings), "securitySchemes": _KEYS},
    }


def _operation(known: dict[str, Operation], route: Route) -> Operation:
    operation = known[route.path]
    return operation.delete if route.method == "DELETE" and operation.delete else operation


def _describe(route: Route, operation: Operation, settings: Settings) -> Json:
    """The operation of a route, with what its key and the form of its errors add."""
    locked = access.is_locked(route, settings)
    refusals = (*operation.errors, *((errors.Unauthorized, errors.Forbidden) if locked else ()))
    form = Error if route.error_form is code_and_message else ProtocolError
    described = _describe_plain(route.path, operation)
    for error in sorted(refusals, key=lambda error: error.status):
        response = described["responses"].setdefault(str(error.status), _content({JSON: form}, ""))
        response["description"] = f"{response['description']} {error.__doc__}".strip()
    return {**described, "security": [{name: []} for name in _KEYS]} if locked else described


def _describe_plain(path: str, operation: Operation) -> Json:
    """An operation without its errors."""
    responses = {"200": _content(operation.answers, f"{operation.summary}.")}
    if operation.not_ready is not None:
        responses["503"] = _content(operation.not_ready, "Not ready yet, or not any more.")
    names = (*re.findall("{([a-z_]+)}", path), *operation.parameters)
    described: Json = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(name) for name in names],
        "responses": responses,
    }
    if operation.description:
        described["description"] = operation.description
    if operation.id:
        described["operationId"] = operation.id
    if operation.takes:
        content = {kind: {"schema": ref(form), "x-means": means} for kind, (form, means) in operation.takes.items()}
        described["requestBody"] = {"required": operation.needs_body, "content": content}
    return described


def _parameter(name: str) -> Json:
    where, pattern, description = PARAMETERS[name]
    schema = {"type": "string", "pattern": f"^({pattern})$"}
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": description}


def _content(forms: dict[str, Schema], description: str) -> Json:
    content = {kind: {"schema": ref(form)} for kind, form in forms.items()}
    return {"description": description, **({"content": content} if content else {})}


def _components(described: Collection[Operation], settings: Settings) -> Json:
    """The schemas of all classes in these operations and in errors; lists of items get their bound."""
    forms: set[type[BaseModel]] = {Error, ProtocolError, Images, Texts}
    for operation in [*described, *(each.delete for each in described if each.delete)]:
        forms |= {form for form in operation.answers.values() if not isinstance(form, dict)}
        forms |= {form for form, _ in operation.takes.values() if not isinstance(form, dict)}
    _, schemas = models_json_schema(
        [(form, "validation") for form in sorted(forms, key=lambda form: form.__name__)],
        ref_template="#/components/schemas/{model}",
    )
    components: Json = schemas["$defs"]
    for name in ("Images", "ImagesCall", "Texts", "TextsCall"):
        for key in {"images", "texts"} & set(components[name]["properties"]):
            components[name]["properties"][key]["maxItems"] = settings.max_items
    return components
