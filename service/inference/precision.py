"""The precision that a version runs in here: float32, or a variant that is measured to be faster on this machine."""

import logging
from pathlib import Path

from contract import providers
from contract.errors import ModelRefused
from contract.manifest import Manifest, Precision
from contract.session import Session, race
from service.settings import Settings

logger = logging.getLogger("bentoml.convoke")

WORTH = 1.1
"""How many times faster a variant must be: what it gives is a little off, and a close race may end otherwise."""
SEVERAL = 8
"""Items of a batch in the race: enough to be like any larger one, and a start that waits for it is short."""


def open_session(folder: Path, manifest: Manifest, settings: Settings) -> Session:
    """A session that replays the golden outputs of its precision, in the precision that the settings mean here.

    `auto` takes the variant that is made for the provider if it is faster, alone and in a batch of several. `int8` and
    `float16` take that variant of every model that has one; a model without it runs in float32.

    Raises:
        ModelRefused: what would be served cannot be loaded, or computes something else than at publication.
        ProviderError: the execution provider that was asked for cannot be had.
    """
    if settings.precision != "auto":
        has_it = manifest.variant(settings.precision) is not None
        return _open(folder, manifest, settings, settings.precision if has_it else "float32")
    plain = _open(folder, manifest, settings, "float32")
    for variant in manifest.variants:
        if providers.suits(variant.precision, plain.provider):
            return _faster(plain, folder, manifest, settings, variant.precision)
    return plain


def _faster(plain: Session, folder: Path, manifest: Manifest, settings: Settings, precision: Precision) -> Session:
    """The session in float32 or that of a variant, whichever this machine is better off with."""
    try:
        variant = _open(folder, manifest, settings, precision)
    except ModelRefused as error:
        logger.warning("model %s runs in float32, since %s is refused: %s", manifest.model, precision, error)
        return plain
    sizes = (1, min(SEVERAL, manifest.max_batch))
    gains = [plain_s / variant_s for plain_s, variant_s in (race([plain, variant], size) for size in sizes)]
    told = ", ".join(f"{gain:.2f}x at batch {size}" for gain, size in zip(gains, sizes, strict=True))
    logger.info("model %s version %s: %s beside float32: %s", manifest.model, manifest.version, precision, told)
    return variant if min(gains) >= WORTH else plain


def _open(folder: Path, manifest: Manifest, settings: Settings, precision: Precision) -> Session:
    session = Session(
        folder / manifest.graph(precision),
        manifest,
        provider=settings.provider,
        threads=settings.threads,
        precision=precision,
        engine_cache=settings.engine_cache,
        cuda_graphs=settings.cuda_graphs,
    )
    session.replay(folder)
    return session
