"""`python -m service.score INPUT... --model NAME --output OUT`: classify files instead of requests.

INPUT is a folder, a pattern, a file of one item, or a table (CSV, TSV, JSONL, Parquet) with a --column of texts or of
paths of images. OUT is a file that ends in .parquet, .csv or .jsonl, or a folder for files of a --format. The same
command again, also after a kill, continues: what has a row is not scored again.

The settings of the service apply: CONVOKE_MODELS, limits, threads, provider. The exit status is 0 if all rows have a
label, 1 if some have an error, and 2 if nothing could be done.
"""

import argparse
import codecs
import sys
import threading
import time
from pathlib import Path

from contract.errors import ConvokeError
from service import settings
from service.bulk import scoring
from service.bulk.reading import InputError, Source
from service.bulk.scoring import Summary
from service.bulk.writing import FORMATS, Output, OutputError

_REPORT_S = 0.5, 30.0  # on a terminal, and elsewhere


def main() -> None:
    """Score, print a summary, and exit."""
    parser = argparse.ArgumentParser(
        prog="python -m service.score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="folder, pattern, file or table")
    parser.add_argument("--model", required=True, help="name of the model")
    parser.add_argument("--version", type=int, help="version of the model (default: the highest; pinned in OUT)")
    parser.add_argument("--output", required=True, type=Path, metavar="OUT", help="file or folder of the rows")
    parser.add_argument("--format", choices=sorted(set(FORMATS.values())), help="of a folder (default: parquet)")
    parser.add_argument("--column", help="column of tables (default: the only one)")
    parser.add_argument("--encoding", type=_encoding, help="of tables of text (default: UTF-8)")
    parser.add_argument("--ray", metavar="ADDRESS", help="address of a Ray cluster, or auto: score on all its machines")
    args = parser.parse_args()
    try:
        summary, place = _score(args)
    except (ConvokeError, InputError, OutputError, settings.SettingsError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error}; once that is mended, the same command continues", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    print(f"{place}: {summary}")
    sys.exit(1 if summary.errors else 0)


def _score(args: argparse.Namespace) -> tuple[Summary, Path]:
    chosen = settings.from_environment()
    output = Output(args.output, args.format)
    folder = scoring.find_version(chosen, args.model, args.version)
    with output.lock():
        earlier = output.open({"model": args.model, "version": int(folder.name), "format": output.format})
        if earlier["model"] != args.model or args.version not in {None, earlier["version"]}:
            raise OutputError(
                f"{args.output} holds rows of {earlier['model']} version {earlier['version']}; choose another "
                f"--output, or remove it{f' and {output.folder}' if output.file and output.folder.is_dir() else ''}"
            )
        folder = scoring.find_version(chosen, args.model, earlier["version"])
        manifest = scoring.manifest_of(folder)
        source = Source(tuple(args.inputs), manifest.input, args.column, chosen.max_body_bytes, args.encoding)
        source.check()
        if args.ray:
            from service.bulk import cluster  # noqa: PLC0415 -- needs the optional extra

            summary = cluster.score(source, output, folder, chosen, args.ray, Progress(source))
        else:
            summary = scoring.score(source, output, scoring.Scorer(folder, chosen), Progress(source))
        return summary, output.finish(earlier, summary.scored + summary.skipped)


def _encoding(name: str) -> str:
    """The name of an encoding.

    Raises:
        argparse.ArgumentTypeError: it is unknown.
    """
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise argparse.ArgumentTypeError(f"unknown encoding {name!r}; expected a name such as cp1252") from error


class Progress:
    """A line on standard error: rows, rows a second, and the time that is left, once the items are counted."""

    def __init__(self, source: Source) -> None:
        self._start = self._shown_at = time.monotonic()
        self.total: int | None = None
        self._is_terminal = sys.stderr.isatty()
        threading.Thread(target=self._count, args=(source,), daemon=True).start()

    def __call__(self, summary: Summary) -> None:
        """Show the progress, if it was not shown lately."""
        now = time.monotonic()
        if now - self._shown_at < _REPORT_S[not self._is_terminal]:
            return
        self._shown_at = now
        done = summary.scored + summary.skipped
        rate = summary.scored / (now - self._start)
        line = f"{done:,} rows, {rate:,.0f}/s"
        if self.total is not None and rate:
            left_s = int(max(self.total - done, 0) / rate)
            line = f"{done:,} of {self.total:,} rows, {rate:,.0f}/s, {left_s // 60}:{left_s % 60:02} left"
        print(f"\r{line:<70}" if self._is_terminal else line, end="" if self._is_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def _count(self, source: Source) -> None:
        try:
            self.total = source.count()
        except InputError:
            return  # the run reports it


if __name__ == "__main__":
    main()
