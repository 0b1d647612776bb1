"""How a foreign graph takes images: what its shapes and labelled examples say, and what must be stated."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from contract.inputs import ImagePreprocessor
from contract.spec import MAX_PIXELS
from training.errors import PublishError
from training.release import foreign, plausible, probe, trial
from training.release.decided import Decided, Say, labels_of, measured
from training.release.foreign import Foreign
from training.release.plausible import Options, Way
from training.release.wrap import Pixels, spec_of


def decide(
    source: Foreign, options: Options, folder: Path | None, notes: list[str], note: Say, say: Say, *, force: bool
) -> Decided:
    _refuse_token_ids(source)
    ways = plausible.pixels(source, options, note)
    output = foreign.scores_of(source, options.output, None if options.labels is None else len(options.labels))
    model = foreign.prepare(source, output)
    stated = [way for way in ways if way.is_stated]
    open_settings = _open_settings(stated)
    if folder is None and open_settings:
        raise PublishError(_must_state(source, open_settings))
    if folder is None and len(stated) > 1:
        note("mode: RGB, as most networks of three channels take; --mode BGR for the others")
    found = None if folder is None else trial.labelled(folder, is_text=False)
    model, ways, values = _settled(model, ways, note)
    stated = [way for way in ways if way.is_stated]
    scores = probe.scores_kind(model, output, values, options, note)
    labels = labels_of(source, options, scores, found, note)
    spec = spec_of(stated[0].pixels, options.framing)
    if options.framing == "squash" and spec.height == spec.width:
        note("framing: squash, both sides are resized to the square; --framing pad or crop keeps the aspect")
    preprocessor = ImagePreprocessor(spec, MAX_PIXELS)
    decided = Decided(source, model, spec, stated[0].pixels, scores, labels, preprocessor, None, notes)
    if found is None or folder is None:
        return decided
    examples = trial.decode(found, labels, preprocessor, folder)
    return measured(_chosen(decided, ways, examples, note, say, force=force), examples)


def _chosen(
    decided: Decided, ways: Sequence[Way], examples: trial.Examples, note: Say, say: Say, *, force: bool
) -> Decided:
    """Try every plausible way on half of the examples, or on all if they are few, and take the best."""
    part = examples.part(0, 2) if len(examples) >= trial.MIN_HALVES else examples
    tried = trial.compare(decided.model, ways, decided.scores, part, decided.preprocessor)
    for line in trial.table(tried):
        say(f"  {line}")
    fault, doubts = trial.doubts(tried, decided.labels, part)
    for doubt in doubts:
        note(doubt)
    if fault is not None and not force:
        raise PublishError(f"{fault}. Nothing was published; --force publishes it nevertheless")
    if len(tried) > 1:
        note(
            f"pixels: {tried[0].title}, the best of {len(tried)} settings on {len(part):,} examples "
            f"({tried[0].accuracy:.2%} right)"
        )
    return replace(decided, inputs=tried[0].inputs)


def _settled(model: onnx.ModelProto, ways: Sequence[Way], note: Say) -> tuple[onnx.ModelProto, list[Way], Any]:
    """The ways that ONNX Runtime can run, with the batch that the graph takes, and scores of generated images.

    Raises:
        PublishError: it can run none.
    """
    faults: dict[str, PublishError] = {}
    settled: dict[str, tuple[onnx.ModelProto, Pixels, Any]] = {}
    for way in ways:
        layout = way.pixels.layout
        if layout in faults or layout in settled:
            continue
        try:
            changed, inputs, values = probe.settle(model, way.pixels, probe.random_images(way.pixels), note)
        except PublishError as error:
            faults[layout] = error
            continue
        assert isinstance(inputs, Pixels)
        settled[layout] = changed, inputs, values
    kept = [way for way in ways if way.pixels.layout in settled]
    if not any(way.is_stated for way in kept):
        raise next(iter(faults.values()))
    first = next(way for way in kept if way.is_stated)
    model, inputs, values = settled[first.pixels.layout]
    return (
        model,
        [replace(way, pixels=replace(way.pixels, batch=inputs.batch)) for way in kept],
        values,
    )


def _open_settings(stated: Sequence[Way]) -> list[str]:
    """The options that must be given, since several values of what they state are plausible."""
    opened = []
    if len({(way.pixels.scale, way.pixels.mean, way.pixels.std) for way in stated if way.pixels.mode != "BGR"}) > 1:
        opened.append("--scale")
    if len({way.pixels.layout for way in stated}) > 1:
        opened.append("--layout")
    return opened


def _must_state(source: Foreign, opened: Sequence[str]) -> str:
    scale = (
        " Its input is float, and nothing in the file says what range of values it was trained on; the same network "
        "gives confident nonsense on another. --scale 1/255 means from 0 to 1, --scale 1 from 0 to 255, --scale "
        "1/127.5 --mean 1 from -1 to 1; --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 is usual for "
        "ImageNet."
    )
    return (
        f"{source.path}: {' and '.join(opened)} must be given.{scale if '--scale' in opened else ''} Or give labelled "
        "examples, --examples FOLDER with a subfolder for each label: every plausible setting is tried on them"
    )


def _refuse_token_ids(source: Foreign) -> None:
    named = [end for end in source.inputs if re.search("input_ids|token|attention_mask", end.name, re.IGNORECASE)]
    if named and all(end.is_integer for end in named):
        raise PublishError(
            f"{source.path}: takes token ids: {', '.join(map(str, source.inputs))}; give the tokenizer that it was "
            "trained with: --tokenizer tokenizer.json"
        )
