"""Draws what each layer of a published version makes of an image or text, into files for slides.

The sheets are those of the service's `POST /inspect/{model}`.
"""

import json
from pathlib import Path

from contract import inspection, sheets
from contract.errors import ConvokeError
from contract.inputs import load_preprocessor
from contract.manifest import GRAPH, MANIFEST, read, verify
from contract.twin import Twin
from training.errors import RunError

REPORT = "layers.json"


def draw(version: Path, item: bytes, folder: Path) -> list[Path]:
    """Write a sheet of each layer's feature maps and filters, the input, and a report in JSON; return their paths.

    Args:
        version: a folder models/NAME/VERSION.
        item: an encoded image, or a text in UTF-8.
        folder: where the files are written: `00-input.png`, `01-conv1.png`, `01-conv1-filters.png` and so on.

    Raises:
        RunError: the folder is not a published version, the item cannot be read, or its layers cannot be shown.
    """
    if not (version / MANIFEST).is_file():
        raise RunError(f"{version}: not a published version, models/NAME/VERSION; publish a run first, then inspect it")
    try:
        manifest = read(version)
        verify(version, manifest)
        preprocessor = load_preprocessor(version, manifest.input)
        decoded = preprocessor.decode(item)
        found = Twin((version / GRAPH).read_bytes(), manifest).run(decoded)
    except ConvokeError as error:
        raise RunError(f"{version}: {error}") from error
    units = preprocessor.units(decoded)
    folder.mkdir(parents=True, exist_ok=True)
    report = inspection.report(found, units)
    files = {REPORT: json.dumps(report, indent=2, ensure_ascii=False).encode()}
    if not manifest.input.is_text:
        files["00-input.png"] = sheets.image(decoded)
    for number, (layer, described) in enumerate(zip(found.layers, report["layers"], strict=True), start=1):
        files[f"{number:02}-{layer.name}.png"] = inspection.sheet(found, layer, "maps")
        if "filters" in described:
            files[f"{number:02}-{layer.name}-filters.png"] = inspection.sheet(found, layer, "filters")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in sorted(files)]


def table(paths: list[Path]) -> str:
    """What was written, in words: the layers of the report, one in a line, and the files."""
    (report,) = (path for path in paths if path.name == REPORT)
    content = json.loads(report.read_text(encoding="utf-8"))
    lines = [f"prediction {content['prediction']} ({content['score']:.1%})", ""]
    for layer in content["layers"]:
        shape = " x ".join(map(str, layer["shape"]))
        lines.append(f"  {layer['name']:<12} {shape:>14}  {layer['title']}")
        lines += [f"  {'':<12} {'':>14}  {formula}" for formula in layer["formulas"]]
    return "\n".join([*lines, "", f"wrote {len(paths)} files to {report.parent}"])
