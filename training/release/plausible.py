"""What a foreign graph may expect: everything that its shapes, types and names leave open, within what the user stated.

`pixels` and `ids` list the plausible ways to feed a graph. What is guessed from a shape or a name is a note, which is
shown; the range of pixel values is never guessed: several ways are returned, and examples decide between them.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from training.errors import PublishError
from training.release.foreign import End, Foreign, is_in
from training.release.wrap import Ids, Layout, Mode, Pixels, Role, per_channel

Note = Callable[[str], object]
Floats = tuple[float, ...]

_IMAGENET: tuple[Floats, Floats] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE: Floats = (103.939, 116.779, 123.68)  # of ImageNet, from 0 to 255, blue first
_MNIST: tuple[Floats, Floats] = (0.1307,), (0.3081,)
_CHANNELS = {1, 3}
_ROLES: tuple[tuple[str, Role], ...] = (("mask", "mask"), ("type|segment", "types"), ("", "ids"))


@dataclass(frozen=True)
class Options:
    """What the user stated about a graph; None where nothing was."""

    layout: Layout | None = None
    scale: float | None = None
    mean: Floats | None = None
    std: Floats | None = None
    mode: Mode | None = None
    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    framing: Literal["squash", "pad", "crop", "mnist"] = "squash"
    softmax: bool | None = None
    """Whether softmax (or, of one score, the sigmoid) must be computed; False if the graph gives probabilities."""
    output: str | None = None
    inputs: tuple[str, ...] | None = None
    tokenizer: Path | None = None
    length: int | None = None
    pad_id: int | None = None
    padding: Literal["left", "right"] | None = None
    """The side of the padding of texts."""
    labels: list[str] | None = None


@dataclass(frozen=True)
class Range:
    """A way to scale pixels, for the table."""

    name: str
    scale: float
    mean: Floats = (0.0,)
    std: Floats = (1.0,)


def ranges(channels: int, values: int, mode: Mode) -> list[Range]:
    """The usual ways to scale pixels of that many channels."""
    usual = [
        Range("0 to 1", 1 / 255),
        Range("0 to 255", 1.0),
        Range("-1 to 1", 1 / 127.5, (1.0,)),
    ]
    if channels == 1:
        usual.append(Range("0 to 1, MNIST's mean and deviation", 1 / 255, _MNIST[0], _MNIST[1]))
        if values == 64:  # noqa: PLR2004 -- 8 x 8, the digits of scikit-learn
            usual.append(Range("0 to 16", 16 / 255))
        return usual
    backwards = slice(None, None, -1) if mode == "BGR" else slice(None)
    usual.append(
        Range("0 to 1, ImageNet's mean and deviation", 1 / 255, _IMAGENET[0][backwards], _IMAGENET[1][backwards])
    )
    usual.append(Range("0 to 255, ImageNet's mean", 1.0, _CAFFE if mode == "BGR" else _CAFFE[::-1]))
    return usual


@dataclass(frozen=True)
class Way:
    """A way to feed an image graph, and how the table names it."""

    title: str
    pixels: Pixels
    is_stated: bool
    """Whether it agrees with everything that the user stated."""


def pixels(foreign: Foreign, options: Options, note: Note) -> list[Way]:
    """The plausible ways to feed an image to a graph.

    Raises:
        PublishError: no image fits the graph, or an option does not.
    """
    end = _image_input(foreign)
    forms = _forms(end, options, note)
    ways = []
    modes: tuple[Mode, ...]
    for form in forms:
        modes = ("L",) if form.mode == "L" else ("RGB", "BGR")
        for mode in modes:
            each = replace(form, mode=mode)
            is_mode = options.mode in {None, mode}
            for scaling, is_scale in _scalings(end, each, options):
                pixel = replace(each, scale=scaling.scale, mean=scaling.mean, std=scaling.std)
                ways.append(Way(_title(scaling, mode, form.layout, forms), pixel, is_mode and is_scale))
    if not any(way.is_stated for way in ways):
        raise PublishError(f"--mode {options.mode}: the graph takes {forms[0].channels} channels")
    return ways


def _title(scaling: Range, mode: Mode, layout: Layout, forms: Sequence[Pixels]) -> str:
    layouts = {form.layout for form in forms}
    return ", ".join([scaling.name, *([mode] if mode != "L" else []), *([layout] if len(layouts) > 1 else [])])


def _image_input(foreign: Foreign) -> End:
    ends = foreign.inputs
    listed = ", ".join(map(str, ends)) or "none"
    if len(ends) != 1:
        raise PublishError(
            f"{foreign.path}: an image model has one input, but this has {len(ends)}: {listed}; for a text model give "
            "--tokenizer tokenizer.json and --inputs, and make other inputs constants when you export it"
        )
    (end,) = ends
    if end.type == 8:  # noqa: PLR2004 -- a string
        raise PublishError(
            f"{foreign.path}: takes strings: {end}; the service gives pixels or token ids. Export the part from token "
            "ids to scores and give its words as --tokenizer tokenizer.json, or train on the texts: python -m training "
            "new NAME PATH"
        )
    if not (end.is_float or end.is_integer):
        raise PublishError(f"{foreign.path}: its input {end} takes neither floats nor integers")
    return end


def _forms(end: End, options: Options, note: Note) -> list[Pixels]:
    """The input as a batch of images in each layout that its shape and the options allow; in mode L or RGB."""
    if end.dims is None:
        raise PublishError(f"the graph's input {end} states no shape; export it with a shape, or set one with onnx")
    rank = len(end.dims)
    reader = {1: _flat, 2: _flat, 3: _rank_3, 4: _rank_4}.get(rank)
    if reader is None:
        raise PublishError(f"the graph's input {end} has {rank} axes; an image has 2 to 4, such as [N, 3, 224, 224]")
    forms = reader(end, options, note)
    if not forms:
        raise PublishError(
            f"the graph's input {end} is not an image of 1 or 3 "
            f"channels{f' in layout {options.layout}' if options.layout else ''}; expected [N, C, H, W], [N, H, W, C], "
            "[N, H, W], or [N, values] with --size HEIGHTxWIDTH"
        )
    if len(forms) > 1 and forms[0].layout != forms[1].layout:
        note("layout: nchw and nhwc both fit the shape of the input; --layout decides")
    return forms


def _sides(end: End, dims: tuple[int | None, int | None], options: Options) -> tuple[int, int]:
    """Height and width, from the shape or from --size."""
    wanted = options.size or (None, None)
    for given, own in zip(wanted, dims, strict=True):
        if given is not None and own is not None and given != own:
            raise PublishError(f"--size {wanted[0]}x{wanted[1]}: the graph takes {dims[0]} x {dims[1]} pixels: {end}")
    height, width = (own or given for given, own in zip(wanted, dims, strict=True))
    if height is None or width is None:
        raise PublishError(
            f"the graph takes images of any size: {end}; give the size that it was trained with: --size HEIGHTxWIDTH, "
            "such as --size 224x224"
        )
    return height, width


def _channels(size: int | None, options: Options) -> int | None:
    """The number of channels that an axis of that size has; None if it cannot be one of channels."""
    if size is None:
        return None if options.mode is None else 1 if options.mode == "L" else 3
    return size if size in _CHANNELS else None


def _rank_4(end: End, options: Options, note: Note) -> list[Pixels]:
    assert end.dims is not None
    n, a, b, c = end.dims
    forms = []
    for layout, channels_at, dims in (("nchw", a, (b, c)), ("nhwc", c, (a, b))):
        channels = _channels(channels_at, options)
        if channels is None or options.layout not in {None, layout}:
            continue
        if channels_at is None and is_in(end.dims, 3 if layout == "nchw" else 1, _CHANNELS):
            continue  # the other axis states them
        height, width = _sides(end, dims, options)
        shape = (channels, height, width) if layout == "nchw" else (height, width, channels)
        forms.append(_form(end, height, width, channels, layout, shape, n))
    if len(forms) == 1 and options.layout is None:
        note(f"layout: {forms[0].layout}, from the shape of the input {end}")
    if not forms and a is None and c is None:
        raise PublishError(f"the graph does not state its channels: {end}; give --mode L, RGB or BGR, and --layout")
    return forms


def _rank_3(end: End, options: Options, note: Note) -> list[Pixels]:
    assert end.dims is not None
    a, b, c = end.dims
    for layout, channels, dims in (("nhwc", c, (a, b)), ("nchw", a, (b, c))):
        is_batch = layout == "nchw" and channels == 1  # (1, H, W): a batch of one grey image is the same
        if channels in _CHANNELS and options.layout in {None, layout} and not is_batch and None not in dims:
            height, width = _sides(end, dims, options)
            note(f"one image of {channels} channels at a time, {layout}, from the shape of the input {end}")
            shape = tuple(size for size in end.dims if size is not None)
            return [replace(_form(end, height, width, channels, layout, shape, None), has_batch=False, batch=1)]
    height, width = _sides(end, (b, c), options)
    note(f"grey images without an axis of channels, from the shape of the input {end}")
    return [_form(end, height, width, 1, "nhwc", (height, width), a)]


def _flat(end: End, options: Options, note: Note) -> list[Pixels]:
    """An input of a number of values, such as those of scikit-learn."""
    assert end.dims is not None
    values = end.dims[-1]
    if options.size is not None:
        height, width = options.size
        if values is None:
            values = height * width * (1 if options.mode in {None, "L"} else 3)
        channels, rest = divmod(values, height * width)
        if rest or channels not in _CHANNELS:
            raise PublishError(
                f"--size {height}x{width}: the graph takes {values} values, not 1 or 3 for each pixel: {end}"
            )
    else:
        channels = next((c for c in sorted(_CHANNELS) if values and _is_square(values / c)), 0)
        if not values or not channels:
            raise PublishError(f"the graph takes a row of values: {end}; give --size HEIGHTxWIDTH of its images")
        height = width = math.isqrt(values // channels)
        note(
            f"size: {height} x {width} pixels, {channels} channel(s), as the input {end} has {values} values; --size "
            "decides"
        )
    layouts: tuple[Layout, ...] = ("nhwc",) if channels == 1 else ("nhwc", "nchw")
    has_batch = len(end.dims) == 2  # noqa: PLR2004 -- items and values
    return [
        replace(
            _form(end, height, width, channels, layout, (values,), end.dims[0] if has_batch else None),
            has_batch=has_batch,
            **({} if has_batch else {"batch": 1}),  # type: ignore[arg-type]
        )
        for layout in layouts
        if options.layout in {None, layout} or channels == 1
    ]


def _is_square(values: float) -> bool:
    return values.is_integer() and math.isqrt(int(values)) ** 2 == values


def _form(
    end: End, height: int, width: int, channels: int, layout: str, shape: tuple[int, ...], batch: int | None
) -> Pixels:
    mode: Mode = "L" if channels == 1 else "RGB"
    known: Layout = "nchw" if layout == "nchw" else "nhwc"
    return Pixels(end.name, end.type, height, width, mode, known, shape, batch=batch)


def _scalings(end: End, form: Pixels, options: Options) -> list[tuple[Range, bool]]:
    """The ways to scale pixels, and whether each is what the user stated, or could be."""
    stated = _stated(form, options)
    if end.is_integer:
        if stated is not None:
            raise PublishError(f"--scale, --mean and --std are for floats, but the graph takes integers: {end}")
        return [(Range("0 to 255, since the graph takes integers", 1.0), True)]
    usual = ranges(form.channels, form.height * form.width, form.mode)
    if stated is None:
        return [(each, True) for each in usual]
    others = [each for each in usual if not _is_same(each, stated)]
    return [(stated, True), *((each, False) for each in others)]


def _is_same(one: Range, other: Range) -> bool:
    return all(
        math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(_affine(one), _affine(other), strict=True)
    )


def _affine(scaling: Range) -> list[float]:
    """What is multiplied with and added to the pixels of each of three channels."""
    mean, std = (list(values) * (3 // len(values)) for values in (scaling.mean, scaling.std))
    return [value for m, s in zip(mean, std, strict=True) for value in (scaling.scale / s, -m / s)]


def _stated(form: Pixels, options: Options) -> Range | None:
    if options.scale is None:
        if options.mean is not None or options.std is not None:
            raise PublishError("--mean and --std need --scale: they apply to what the pixels are after it")
        return None
    try:
        mean = per_channel(options.mean or (0.0,), form.channels)
        std = per_channel(options.std or (1.0,), form.channels)
    except ValueError as error:
        raise PublishError(f"--mean, --std: {error}") from error
    highest = 255 * options.scale
    if not 0 < highest <= 255:  # noqa: PLR2004 -- the largest value of a pixel
        raise PublishError(
            f"--scale {options.scale:g}: pixels from 0 to 255 are multiplied by it; give 1/255 for values from 0 to 1, "
            "1 for 0 to 255"
        )
    if max(mean) > highest or min(std) <= 0:
        raise PublishError(
            f"--mean {','.join(map(str, mean))} --std {','.join(map(str, std))}: after --scale {options.scale:.6g} "
            f"pixels are from 0 to {highest:g}, so a mean lies in that range, and a deviation is above 0"
        )
    return Range("as stated", options.scale, mean, std)


def ids(foreign: Foreign, options: Options, note: Note) -> Ids:
    """How token ids are fed to a text graph; pad id and shift are those of id 0.

    Raises:
        PublishError: an input has no known part, or another shape than (N, L).
    """
    names = [end.name for end in foreign.inputs]
    roles: dict[str, Role] = {}
    if options.inputs is not None:
        if sorted(options.inputs) != sorted(names):
            raise PublishError(
                f"--inputs {','.join(options.inputs)}: the graph's inputs are {','.join(names)}; name all of them"
            )
        known: tuple[Role, ...] = ("ids", "mask", "types")
        roles = dict(zip(options.inputs, known, strict=False))
    elif len(names) <= len(_ROLES):
        for name in names:
            role = next(role for pattern, role in _ROLES if re.search(pattern, name, re.IGNORECASE))
            roles[name] = "ids" if len(names) == 1 else role
        if len(names) > 1:
            note(
                f"inputs: {', '.join(f'{name} takes the {_meaning(role)}' for name, role in roles.items())}, by "
                "their names"
            )
    if (
        sorted(roles) != sorted(names)
        or sorted(roles.values()).count("ids") != 1
        or len({*roles.values()}) != len(roles)
    ):
        raise PublishError(
            f"{foreign.path}: cannot tell what its inputs are: {', '.join(map(str, foreign.inputs))}; name them in the "
            "order token ids, attention mask, token types: --inputs input_ids,attention_mask"
        )
    for end in foreign.inputs:
        if end.dims is None or len(end.dims) != 2 or not (end.is_integer or end.is_float):  # noqa: PLR2004 -- N and L
            raise PublishError(f"{foreign.path}: its input {end} is not a tensor (N, L) of token ids")
    first = next(end for end in foreign.inputs if roles[end.name] == "ids")
    assert first.dims is not None
    batch, length = first.dims
    return Ids(roles, {end.name: end.type for end in foreign.inputs}, length=length, batch=batch)


def _meaning(role: Role) -> str:
    return {"ids": "token ids", "mask": "attention mask", "types": "token types"}[role]
