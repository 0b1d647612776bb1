"""The options of `python -m training adopt`, read without torch and onnx, which take seconds to import."""

import argparse
import re
from fractions import Fraction
from pathlib import Path

_RANGES = {"0..1": Fraction(1, 255), "0..255": Fraction(1)}


def add(command: argparse.ArgumentParser) -> None:
    """Add the options to a command."""
    command.add_argument("file", type=Path, metavar="FILE.onnx", help="an ONNX classifier")
    command.add_argument("--name", help="the name of the model (default: that of the file)")
    command.add_argument(
        "--labels", help="the labels in the order of the scores: A,B,C or a file with one on each line, or JSON"
    )
    command.add_argument(
        "--examples",
        type=Path,
        metavar="FOLDER",
        help="labelled examples: a subfolder for each label, or a table of texts",
    )
    images = command.add_argument_group("images")
    images.add_argument("--scale", type=scale, help="what pixels from 0 to 255 are multiplied by, like 1/255 or 1")
    images.add_argument(
        "--mean", type=values, metavar="M[,M,M]", help="subtracted after --scale, one or one for each channel"
    )
    images.add_argument("--std", type=values, metavar="S[,S,S]", help="what the difference is divided by")
    images.add_argument("--mode", choices=["L", "RGB", "BGR"], help="grey, or the order of the colours")
    images.add_argument("--layout", choices=["nchw", "nhwc"], help="channels before or behind height and width")
    images.add_argument("--size", type=size, metavar="HxW", help="height and width in pixels, like 224x224")
    images.add_argument(
        "--framing",
        choices=["squash", "pad", "crop", "mnist"],
        default="squash",
        help="resize both sides; or keep the aspect, with padding or by cropping; or frame a digit (default: squash)",
    )
    texts = command.add_argument_group("texts")
    texts.add_argument("--tokenizer", type=Path, metavar="tokenizer.json", help="of Hugging Face tokenizers")
    texts.add_argument("--inputs", type=names, metavar="IDS[,MASK[,TYPES]]", help="the names of the graph's inputs")
    texts.add_argument("--length", type=positive, help="the most tokens that the graph reads")
    texts.add_argument("--pad-id", type=int, help="the id of padding")
    texts.add_argument(
        "--padding", choices=["left", "right"], help="the side of the padding (Keras's pad_sequences: left)"
    )
    scores = command.add_argument_group("scores")
    scores.add_argument("--output", metavar="NAME", help="the output with the scores")
    scores.add_argument("--softmax", choices=["yes", "no"], help="whether the scores still need a softmax (or sigmoid)")


def scale(text: str) -> float:
    """A number or a fraction, or the range that the pixels have after it."""
    try:
        return float(_RANGES.get(text) or Fraction(text.replace(" ", "")))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(
            f"invalid scale {text!r}; expected a number or a fraction like 1/255"
        ) from error


def values(text: str) -> tuple[float, ...]:
    """Numbers, separated by commas or spaces."""
    try:
        return tuple(float(Fraction(part)) for part in re.split(r"[,\s]+", text.strip(" []()")))
    except (ValueError, ZeroDivisionError) as error:
        raise argparse.ArgumentTypeError(f"invalid numbers {text!r}; expected them like 0.485,0.456,0.406") from error


def size(text: str) -> tuple[int, int]:
    """Height and width."""
    match = re.fullmatch(r"([1-9][0-9]{0,4})(?:[xX,]([1-9][0-9]{0,4}))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"invalid size {text!r}; expected height and width like 224x224")
    height = int(match[1])
    return height, int(match[2] or height)


def names(text: str) -> tuple[str, ...]:
    """Names, separated by commas."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def positive(text: str) -> int:
    """A whole number from 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"invalid number {text!r}; expected a whole number from 1")
    return int(text)


def model_name(options: argparse.Namespace) -> str:
    """The name of the model: as stated, or that of the file, in what a URL and a folder allow."""
    if options.name:
        return str(options.name)
    return re.sub(r"[^\w.-]+", "-", options.file.stem.lower()).strip("-_.") or "model"
