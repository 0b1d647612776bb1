"""Writes the tables that the documentation takes from the code: `make docs`; `make check` verifies them.

    python -m tests.docs.generate            write the tables
    python -m tests.docs.generate --check    exit with status 1 if a page is out of date

A page marks the place of a table with `<!-- generated: NAME -->` and `<!-- end -->`; `TABLES` maps NAME to a function.
The program is part of the tests because it reads both `service` and `training`, and neither may import the other.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence

from contract import errors as contract_errors
from contract import manifest as contract
from contract.errors import ConvokeError
from service import errors as service_errors
from service.http.asgi import Application
from service.http.keys import ROLES
from service.http.route import Need
from service.routes import openapi
from service.settings import PREFIX, Settings, allowed
from service.telemetry.metrics import Metrics
from tests.docs import keys
from tests.docs.pages import PAGES, ROOT, name_of
from tests.serving import parts
from training.recipe import schema, shapes
from training.recipe.layers import LAYERS

_REGION = re.compile(r"(?<=^<!-- generated: )([a-z ]+)( -->\n).*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)

_DEFAULTS = {"models": "`models/` beside the service", "decode_threads": "one for each processor"}
"""Defaults that depend on the machine."""


def render(text: str) -> str:
    """A page with its tables written anew.

    Raises:
        KeyError: a marker names a table that does not exist.
    """
    return _REGION.sub(lambda match: f"{match[1]}{match[2]}\n{TABLES[match[1]]()}\n\n", text)


def settings() -> str:
    """Variable, default, allowed values and meaning of each setting of the service."""
    return _table(
        ("variable", "default", "allowed", "meaning"),
        (
            (
                f"`{PREFIX}{name.upper()}`",
                _DEFAULTS.get(name) or _default(field.default),
                allowed(name),
                field.description or "",
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def errors() -> str:
    """Status, code and meaning of each error that a client can receive."""
    meanings = {(ConvokeError.status, ConvokeError.code): "The service itself failed; its log has the details."}
    for module in (contract_errors, service_errors):
        for error in vars(module).values():
            if isinstance(error, type) and issubclass(error, ConvokeError):
                meanings.setdefault((error.status, error.code), keys.prose(error.__doc__))
    return _table(
        ("status", "code", "meaning"),
        ((str(status), f"`{code}`", meaning) for (status, code), meaning in sorted(meanings.items())),
    )


def routes() -> str:
    """Method, path, purpose and needed key of each route; BentoML's own need none."""
    application = parts(load=False).application
    assert isinstance(application, Application)
    needs = {route.path: route.needs for route in application.routes}
    roles: dict[Need, str] = {None: "none", "look": "`predict`, `manage`"}
    roles.update({role: f"`{role}`" for role in ROLES})
    return _table(
        ("route", "what it does", "key"),
        (
            (f"`{method.upper()} {path}`", operation["summary"], roles[needs.get(path)])
            for path, operations in openapi.document(application.routes, Settings())["paths"].items()
            for method, operation in operations.items()
        ),
    )


def metrics() -> str:
    """Name, kind, labels and meaning of each metric of the service."""
    return _table(
        ("metric", "kind", "labels", "meaning"),
        (
            (
                f"`{family.name}{'_total' if family.kind == 'counter' else ''}`",
                family.kind,
                ", ".join(f"`{label}`" for label in family.label_names),
                family.text,
            )
            for family in Metrics().families
        ),
    )


def models() -> str:
    """What the highest version of each published model is worth on its test splits."""
    rows = []
    for home in sorted((ROOT / "models").iterdir()):
        version = max(int(folder.name) for folder in home.iterdir() if folder.name.isdigit())
        manifest = contract.read(home / str(version))
        about = [f"`{manifest.model}`, version {version}", f"`{manifest.recipe['name']}`", f"{manifest.parameters:,}"]
        for split, worth in manifest.test_metrics.items():
            rows.append([*about, split, f"{worth.n:,}", f"{worth.accuracy:.2%}", f"{worth.ece:.4f}"])
            about = ["", "", ""]
    return _table(("model", "recipe", "parameters", "test split", "n", "accuracy", "calibration error"), rows)


def commands() -> str:
    """The commands of `python -m training`."""
    done = subprocess.run(
        [sys.executable, "-m", "training", "--help"],
        cwd=ROOT, env={**os.environ, "COLUMNS": "1000"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    listed = re.findall(r"^    ([a-z]+)\s+(\S.*)$", done.stdout, re.MULTILINE)
    return _table(("command", "what it does"), ((f"`{name}`", meaning) for name, meaning in listed))


def recipes() -> str:
    """The recipes of the repository: network, size, data, and the model that they publish."""
    return _table(
        ("recipe", "network", "parameters", "data", "model"),
        (
            (
                f"[`{name}`](../training/recipes/{name}.toml)",
                recipe.description,
                f"{sum(layer.parameters for layer in shapes.trace(recipe)):,}",
                f"`{recipe.data.name}`",
                "none: cross-validation" if recipe.data.folds else f"`{recipe.task}`",
            )
            for name, recipe in ((name, schema.load(name)) for name in schema.names())
        ),
    )


def recipe_keys() -> str:
    """The keys of a recipe, table by table."""
    fields = schema.Recipe.model_fields
    tables = {name: keys.sections(field.annotation) for name, field in fields.items() if name not in {"name", "layers"}}
    top = {name for name, sections in tables.items() if not sections} | {"layers"}
    parts = [_key_table(row for row in keys.rows(schema.Recipe) if row[0] in top)]
    for name, sections in tables.items():
        if len(sections) > 2:
            parts += [f"### `[{name}]`", _table(("name", "keys", "meaning"), map(keys.row, sections))]
            continue
        for section in sections:
            kind = next(keys.rows(section))
            title = f"`[{name}]`" + (f" with `{kind[0]}` = {kind[1]}" if len(sections) > 1 else "")
            parts += [f"### {title}", keys.prose(section.__doc__), _key_table(keys.rows(section))]
    return "\n\n".join(parts)


def layers() -> str:
    """The layers that a recipe can stack."""
    return _table(("layer", "keys", "meaning"), map(keys.row, LAYERS.values()))


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "errors": errors,
    "routes": routes,
    "metrics": metrics,
    "models": models,
    "commands": commands,
    "recipes": recipes,
    "recipe keys": recipe_keys,
    "layers": layers,
}


def main() -> int:
    """Write the pages, or check them; the exit status is 1 if a page was out of date and is only checked."""
    stale = [page for page in PAGES if render(before := page.read_text(encoding="utf-8")) != before]
    if "--check" in sys.argv[1:]:
        for page in stale:
            print(f"{name_of(page)}: its tables differ from the code; run `make docs` and commit the result")
        return 1 if stale else 0
    for page in stale:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{name_of(page)}: tables written")
    return 0


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "|".join(["", *(f" {cell} ".replace("|", r"\|") if cell else " " for cell in cells), ""])

    return "\n".join(map(line, [header, ["---"] * len(header), *rows]))


def _key_table(rows: Iterable[tuple[str, str, str, str]]) -> str:
    header = ("key", "values", "default", "meaning")
    return _table(header, ((f"`{key}`", *others) for key, *others in rows))


def _default(value: object) -> str:
    if value in {None, ""}:
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.exit(main())
