"""The precision in which a version runs: float32, or a variant that is measurably faster on this machine."""

import logging
from pathlib import Path

from contract import providers
from contract.errors import ModelRefused
from contract.manifest import Manifest, Precision
from contract.session import Session, race
from service.settings import Settings

logger = logging.getLogger("bentoml.convoke")

MIN_SPEEDUP = 1.1
"""A variant is a little less accurate, and a close race may have another winner next time."""
RACE_BATCH = 4
"""Large enough to be like any larger batch, and small enough not to delay the start."""


def open_session(folder: Path, manifest: Manifest, settings: Settings) -> Session:
    """Open a session in the precision that the settings select, and replay the golden inputs.

    `auto` selects the variant that is made for the provider if it is faster, both alone and in a batch. `int8` and
    `float16` select that variant of every model that has it; other models run in float32.

    Raises:
        ModelRefused: the graph cannot be loaded, or its outputs differ from those at publication.
        ProviderError: this machine does not have the configured execution provider.
    """
    if settings.precision != "auto":
        has_variant = manifest.variant(settings.precision) is not None
        return _open(folder, manifest, settings, settings.precision if has_variant else "float32")
    float32 = _open(folder, manifest, settings, "float32")
    for variant in manifest.variants:
        if providers.suits(variant.precision, float32.provider):
            return _faster(float32, folder, manifest, settings, variant.precision)
    return float32


def _faster(float32: Session, folder: Path, manifest: Manifest, settings: Settings, precision: Precision) -> Session:
    """The session in float32 or that of a variant, whichever is better on this machine."""
    try:
        variant = _open(folder, manifest, settings, precision)
    except ModelRefused as error:
        logger.warning("model %s runs in float32 because %s is refused: %s", manifest.model, precision, error)
        return float32
    sizes = (1, min(RACE_BATCH, manifest.max_batch))
    speedups = [float32_s / variant_s for float32_s, variant_s in (race([float32, variant], size) for size in sizes)]
    results = ", ".join(f"{speedup:.2f}x at batch {size}" for speedup, size in zip(speedups, sizes, strict=True))
    logger.info("model %s version %s: %s against float32: %s", manifest.model, manifest.version, precision, results)
    return variant if min(speedups) >= MIN_SPEEDUP else float32


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
