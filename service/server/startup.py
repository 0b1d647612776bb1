"""What a server does before it starts its workers.

It imports none of a worker's parts, since that takes half a second.
"""

import gc
import logging
import os
import tempfile
from pathlib import Path

from bentoml.exceptions import BentoMLConfigException

from contract import providers
from contract.errors import ProviderError
from service import settings
from service.http import keys
from service.server import files, fleet
from service.settings import Settings, SettingsError
from service.telemetry import log, tracing

logger = logging.getLogger("bentoml.convoke")

LOGGERS = ("", "bentoml", "uvicorn.error", "circus")
"""The loggers to which BentoML gives handlers, in the server and in its workers."""


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        BentoMLConfigException: a setting is not valid; BentoML ends with the message, without a traceback.
    """
    try:
        chosen = settings.from_environment()
    except SettingsError as error:
        raise BentoMLConfigException(str(error)) from error
    os.environ[f"{settings.PREFIX}WORKERS"] = str(chosen.workers)  # so that `auto` means the same to the workers
    return chosen


def format_logs(form: log.Format) -> None:
    """Give all log lines of this process, also those of BentoML and uvicorn, the chosen format."""
    if log.choose_format(form) == "text":
        return
    for name in LOGGERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(log.JsonFormatter())


def announce() -> None:
    """Log the settings, check what no worker could start with, and make the folder in which workers publish.

    Raises:
        BentoMLConfigException: a setting is not valid, or names a device, a file or a package that is missing.
        SystemExit: the same, if the log is JSON; it has the message.
    """
    chosen = read_settings()
    format_logs(chosen.log_format)
    logger.info("settings: %s", settings.described(chosen))
    for name, _ in settings.unknown():
        logger.warning("unknown setting %s is ignored", name)
    try:
        providers.check(chosen.provider, chosen.precision)
        if chosen.api_keys_file is not None:
            keys.read(chosen.api_keys_file)
        if chosen.feedback_dir is not None:
            check_feedback(chosen.feedback_dir)
        if exporter := tracing.chosen_exporter():
            tracing.make_exporter(exporter).shutdown()
    except (ProviderError, SettingsError) as error:
        if log.choose_format(chosen.log_format) == "json":  # BentoML would write plain text
            logger.critical("cannot start: %s", error)
            raise SystemExit(1) from error
        raise BentoMLConfigException(str(error)) from error
    if chosen.provider == "auto" and providers.has_unused_cuda():
        logger.warning("%s; %s", providers.NO_GPU, providers.GET_GPU)
    _fit_files(chosen.max_connections)
    from service.server import processes  # noqa: PLC0415 -- a worker needs none of it, and would start later

    processes.set_up()
    if chosen.workers > 1:
        fleet.make_folder()
    gc.freeze()  # the modules, which the server does not use again
    gc.enable()  # `launch.serve` disabled it


def check_feedback(folder: Path) -> None:
    """Make the folder of feedback.

    Raises:
        SettingsError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SettingsError(
            f"CONVOKE_FEEDBACK_DIR={str(folder)!r}: cannot be written: {error.strerror}; mount a volume there that "
            f"user {os.getuid()} may write to"
        ) from error


def _fit_files(connections: int) -> None:
    """Let each worker open as many files as its connections need, or log how many connections fit."""
    files.raise_limit(connections)
    if (fitting := files.fit(connections)) < connections:
        logger.warning(
            "CONVOKE_MAX_CONNECTIONS=%d, but a process may open only %d files: each worker accepts %d connections; "
            "raise the limit (ulimit -n, LimitNOFILE of systemd, --ulimit nofile of Docker)",
            connections,
            fitting + files.RESERVED,
            fitting,
        )
