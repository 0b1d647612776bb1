"""What each route does, takes and answers: a table from which the OpenAPI document is written."""

from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from contract.errors import ConvokeError, ModelRefused, NotInspectable, TooLarge, Unreadable, UnsupportedMediaType
from contract.occlusion import MAX_CELLS, MAX_NGRAM_RUNS, MAX_PARTS
from service import errors
from service.inference.feedback import Kept
from service.routes import classify, drift, feedback, inspect, models, oip
from service.routes.schemas import (
    Answer,
    Explanation,
    Images,
    ImagesCall,
    InferenceAnswer,
    Inspection,
    Texts,
    TextsCall,
)
from service.routes.tensors import InferenceRequest
from service.settings import Settings
from service.telemetry.drift import LARGE, MODERATE

Json = dict[str, Any]
Schema = Json | type[BaseModel]
Errors = tuple[type[ConvokeError], ...]

JSON, TEXT, OCTETS = "application/json", "text/plain", "application/octet-stream"
_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", OCTETS)
STRING: Json = {"type": "string"}
BYTES: Json = {"type": "string", "contentEncoding": "binary"}
PARAMETERS = {
    "model": ("path", r"[^\s/._-][^\s/]{0,99}", "The name of a model, as GET /models lists it."),
    "version": ("path", "[1-9][0-9]{0,8}", "The number of a loaded version."),
    "top": ("query", classify.TOP, "How many labels get a score; by default all of up to 20 labels, and 10 of more."),
    "min_score": (
        "query",
        classify.MIN_SCORE,
        "A probability from 0 to 1. If the score is below it, the label is null, with the guess beside it.",
    ),
    "request_id": ("path", "[A-Za-z0-9._:/+=@-]{1,128}", "The X-Request-ID of a response of POST /classify/{model}."),
    "file": ("path", "[a-z-]+[.][a-z]+", "The name of a file."),
    "label": ("query", ".{1,200}", "The label to explain; the predicted one by default."),
    "method": (
        "query",
        "occlusion|cam",
        "How the label is explained; by occlusion by default.",
    ),
    "layer": ("query", ".{1,1000}", "The name of a layer, or of its node; all layers by default."),
    "show": ("query", inspect.SHOW, "What a PNG shows of the layer; its feature maps by default."),
    "cell": ("query", inspect.CELL, "A position in the layer's output, like 3,10,12 for map, row and column."),
    "several": (
        "query",
        classify.SEVERAL,
        "Whether an image may show several digits: each has a prediction with its box, line by line.",
    ),
    "Inference-Header-Content-Length": (
        "header",
        "[0-9]{1,11}",
        "The length of the JSON in bytes, if binary tensors follow it.",
    ),
}

_FIND: Errors = (errors.ModelNotFound, errors.NotReady)
_READ: Errors = (
    errors.InvalidRequest, errors.SlowBody, TooLarge, UnsupportedMediaType, Unreadable, errors.Overloaded,
)  # fmt: skip
_RUN: Errors = (*_FIND, *_READ, errors.InferenceFailed, errors.DeadlineExceeded)
_MANAGE: Errors = (*_FIND, *_READ, errors.ReadOnly, ModelRefused)


@dataclass(frozen=True)
class Operation:
    """What a route does, takes and answers.

    Args:
        tag: its group.
        summary: what it does or gives.
        answers: content type -> schema of the response.
        errors: those that it answers, apart from those of keys.
        takes: content type -> schema of the request body and its meaning.
        needs_body: whether the body must not be empty.
        parameters: names from `PARAMETERS`, apart from those in the path.
        id: its `operationId`.
        description: more than fits the summary.
        delete: what DELETE does on the same path.
        not_ready: the response while models are being loaded, if it is not an error.
    """

    tag: str
    summary: str
    answers: dict[str, Schema]
    errors: Errors = ()
    takes: dict[str, tuple[Schema, str]] = field(default_factory=dict)
    needs_body: bool = True
    parameters: tuple[str, ...] = ()
    id: str = ""
    description: str = ""
    not_ready: dict[str, Schema] | None = None
    delete: "Operation | None" = None


def operations(settings: Settings) -> dict[str, Operation]:
    """Path -> operation, for every route and for BentoML's /livez and /readyz."""
    status: dict[str, Schema] = {JSON: {"type": "object"}}
    metadata = Operation("protocol", "Inputs and outputs of a model", {JSON: oip.ModelMetadata}, _FIND)
    ready = Operation("protocol", "Whether a model is ready", status, _FIND)
    infer = _infer(settings)
    options: dict[str, tuple[Schema, str]] = {JSON: ({"type": "object"}, "options, as Triton has them")}
    versioned = "/v2/models/{model}/versions/{version}"
    return {
        "/classify/{model}": _classify(settings),
        "/explain/{model}": _explain(),
        "/inspect/{model}": _inspect(),
        "/feedback/{request_id}": _feedback(),
        "/classify_texts": _call("texts", TextsCall),
        "/classify_images": _call("images", ImagesCall),
        "/models": Operation("models", "Served models and refused versions", {JSON: models.Models}, id="models"),
        "/models/{model}": Operation("models", "One model, with its card", {JSON: models.Model}, _FIND, id="model"),
        "/models/{model}/drift": Operation(
            "models",
            "How the answers of a model differ from those to its test data",
            {JSON: drift.ModelDrift},
            _FIND,
            id="drift",
            description=(
                "For the highest score, its label, and the brightness of images or the length and the share of unknown "
                "tokens of texts: the histogram of the test data, that of a sample of the last ten minutes or longer, "
                f"and their population stability index, from {MODERATE:g} moderate and from {LARGE:g} large."
            ),
        ),
        "/v2": Operation("protocol", "Name, version and extensions of the server", {JSON: oip.ServerMetadata}),
        "/v2/health/live": Operation("protocol", "Whether the server is alive", status),
        "/v2/health/ready": Operation("protocol", "Whether every model is ready", status, not_ready=status),
        "/v2/models": Operation("protocol", "Names of the served models", {JSON: oip.ModelNames}),
        "/v2/models/{model}": metadata,
        "/v2/models/{model}/ready": ready,
        "/v2/models/{model}/infer": infer,
        versioned: metadata,
        f"{versioned}/ready": ready,
        f"{versioned}/infer": infer,
        "/v2/repository/index": Operation(
            "protocol", "Every loaded or refused version", {JSON: oip.Index}, _READ, options, needs_body=False
        ),
        "/v2/repository/models/{model}/load": Operation(
            "protocol", "Put a version into service", status, _MANAGE, options, needs_body=False
        ),
        "/v2/repository/models/{model}/unload": Operation(
            "protocol", "Take a version out of service", status, _MANAGE, options, needs_body=False
        ),
        "/metrics": Operation("operation", "Metrics in Prometheus's text format", {TEXT: STRING}),
        "/": Operation(
            "operation",
            "A page that tries the models, for browsers; an index for other clients",
            {JSON: {"type": "object"}, "text/html": STRING},
        ),
        "/page/{file}": Operation(
            "operation",
            "A file of that page",
            {"text/css": STRING, "text/javascript": STRING},
            (errors.RouteNotFound,),
        ),
        "/openapi.json": Operation("operation", "This document", {JSON: {"type": "object"}}),
        "/docs": Operation("operation", "This document as a page that tries each route", {"text/html": STRING}),
        "/docs/{file}": Operation(
            "operation",
            "A file of that page",
            {"text/css": STRING, "text/javascript": STRING},
            (errors.RouteNotFound,),
        ),
        "/livez": Operation("operation", "Whether the process is alive", {TEXT: STRING}),
        "/readyz": Operation("operation", "Whether requests can be answered", {TEXT: STRING}, not_ready={}),
    }


def _classify(settings: Settings) -> Operation:
    parts: Json = {"type": "object", "additionalProperties": BYTES, "minProperties": 1}
    fields: Json = {"type": "object", "additionalProperties": STRING, "minProperties": 1}
    return Operation(
        "classify",
        "Classify images or texts",
        {JSON: Answer},
        _RUN,
        {
            **dict.fromkeys(_IMAGES, ({**BYTES, "minLength": 1}, "one encoded image")),
            TEXT: ({**STRING, "minLength": 1}, "one text in UTF-8"),
            "multipart/form-data": (parts, f"up to {settings.max_items} images or texts, each a file or a field"),
            "application/x-www-form-urlencoded": (
                fields,
                "texts in fields named text, or images in base64 named image",
            ),
            JSON: (
                {"oneOf": [ref(Images), ref(Texts)]},
                'texts {"texts": ["..."]} or images in base64 {"images": ["..."]}; "top" and "min_score" beside them',
            ),
        },
        parameters=("top", "min_score", "several"),
        id="classify",
        description=(
            "The body is one image or text, or holds any number as multipart parts or in JSON. Images are recognised "
            "by their content, whatever their Content-Type says. An item that cannot be read has an error in its place "
            "and leaves the others alone; if it is the only item, the request fails with that error. A text "
            "that is longer than the model reads has truncated, tokens_read and tokens in its prediction."
        ),
    )


def _explain() -> Operation:
    return Operation(
        "classify",
        "Explain the label of one image or text",
        {JSON: Explanation, "image/png": BYTES},
        (*_RUN, errors.NotAcceptable, NotInspectable),
        _one_item(),
        parameters=("label", "method"),
        id="explain",
        description=(
            "By occlusion: squares of the image, or words of the text, are hidden in turn, at most "
            f"{MAX_CELLS**2} squares or {MAX_PARTS} words or groups of words, and the value of each is the fall of the "
            "label's log-odds. The runs have a lower priority than predictions. With Accept: image/png the response is "
            "the image in grey, with evidence for the label in orange and against it in blue. A text also has ngrams, "
            f"its strongest runs of up to three words, for which up to {MAX_NGRAM_RUNS} more items are run. With "
            "method=cam, for networks that end in global average pooling, one run gives a class activation map: what "
            "each place of the last feature maps adds to the label's logit."
        ),
    )


def _inspect() -> Operation:
    return Operation(
        "classify",
        "Show what each layer makes of one image or text",
        {JSON: Inspection, "image/png": BYTES},
        (*_RUN, errors.NotAcceptable, NotInspectable),
        _one_item(),
        parameters=("layer", "show", "cell"),
        id="inspect",
        description=(
            "The layers of the served graph in its order, each with its shape, parameters, arithmetic and receptive "
            "field. With layer=NAME all values of this layer, or with Accept: image/png a sheet of its feature maps, "
            "or of its filters with show=filters; with cell=MAP,ROW,COLUMN what one value has seen and how it was "
            "computed. A twin of the graph runs on the processor, in float32, at a lower priority than predictions."
        ),
    )


def _feedback() -> Operation:
    return Operation(
        "feedback",
        "Keep an item of an answered request with its right label",
        {JSON: Kept},
        (*_READ, errors.RequestNotFound, errors.FeedbackOff, errors.FeedbackFull),
        {
            JSON: (
                feedback.Right,
                'the right label {"label": "..."}; "item" beside it, the place of one of several',
            )
        },
        id="feedback",
        description=(
            "Switched on by CONVOKE_FEEDBACK_DIR. The service remembers recent requests to /classify/{model}; a second "
            "label replaces the first. python -m training new NAME FEEDBACK_DIR makes a data set of what was kept."
        ),
        delete=Operation(
            "feedback",
            "Delete what was kept of a request",
            {JSON: feedback.Deleted},
            (errors.RequestNotFound, errors.FeedbackOff),
            id="delete_feedback",
        ),
    )


def _one_item() -> dict[str, tuple[Schema, str]]:
    """The bodies of routes that take one image or text."""
    return {
        **dict.fromkeys(_IMAGES, ({**BYTES, "minLength": 1}, "one encoded image")),
        TEXT: ({**STRING, "minLength": 1}, "one text in UTF-8"),
        "multipart/form-data": (
            {"type": "object", "additionalProperties": BYTES, "minProperties": 1},
            "one image or text, a file or a field",
        ),
        JSON: ({"oneOf": [ref(Images), ref(Texts)]}, "one text or image, as for /classify/{model}"),
    }


def _call(key: str, form: type[BaseModel]) -> Operation:
    summary = f"Classify {key}, for BentoML's own clients"
    return Operation("classify", summary, {JSON: Answer}, _RUN, {JSON: (form, f"the model's name and {key}")})


def _infer(settings: Settings) -> Operation:
    return Operation(
        "protocol",
        "Run a model",
        {JSON: InferenceAnswer, OCTETS: BYTES},
        _RUN,
        {
            JSON: (InferenceRequest, "tensors in JSON"),
            OCTETS: ({**BYTES, "minLength": 1}, "JSON, then binary tensors"),
        },
        parameters=("Inference-Header-Content-Length",),
        description=(
            "Takes the graph's own tensor, or encoded images (image BYTES [N]) or texts (text BYTES [N]), at most "
            f"{settings.max_items} items; gives probabilities FP32 [N, C] and label BYTES [N]."
        ),
    )


def ref(form: Schema) -> Json:
    """A schema, or a reference to that of a class."""
    return form if isinstance(form, dict) else {"$ref": f"#/components/schemas/{form.__name__}"}
