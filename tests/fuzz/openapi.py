"""Checks a running server against its own OpenAPI document with schemathesis: no server error, no undeclared response.

`python -m tests.fuzz.openapi --examples 1000` sends that many random requests to each operation, valid and invalid,
after the requests that schemathesis derives from the schema's keywords.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from contract import manifest as contract
from service.http import keys
from tests.fuzz.hooks import SPARE
from tests.serving import ROOT, Server

CONFIG = Path(__file__).with_name("schemathesis.toml")


def run(folder: Path, *, examples: int, seed: int = 0) -> tuple[int, str]:
    """Start a server and run schemathesis; return its exit code (0: no failures) and its output.

    Args:
        folder: an empty folder for the server's models and log.
        examples: random requests for each operation.
        seed: the seed of all random choices.
    """
    models = _models(folder / "models")
    key = keys.add(folder / "keys", "all", "manage")
    environment = {
        "CONVOKE_MODELS": str(models),
        "CONVOKE_API_KEYS_FILE": str(folder / "keys"),
        "CONVOKE_PUBLIC": "predict,metrics",
        "CONVOKE_POLL_S": "0.2",
    }
    server = Server([sys.executable, "-m", "service"], ROOT, folder / "log", environment)
    try:
        server.wait_until_ready()
        completed = subprocess.run(
            [
                *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()"),
                *("--config-file", str(CONFIG), "run", f"{server.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {key}", "--max-examples", str(examples), "--seed", str(seed)),
            ],
            cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert server.running, server.log
    finally:
        server.stop()
    return completed.returncode, completed.stdout + completed.stderr


def _models(folder: Path) -> Path:
    """The models of this checkout, and a spare one for loading and unloading."""
    shutil.copytree(ROOT / "models", folder)
    version = Path(shutil.copytree(folder / "digits/1", folder / SPARE / "1"))
    path = version / contract.MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": SPARE}), encoding="utf-8")
    return folder


def main() -> int:
    """Print schemathesis's output and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.openapi", description=__doc__)
    parser.add_argument("--examples", type=int, default=1000, help="requests per operation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        code, output = run(Path(folder), examples=args.examples, seed=args.seed)
    print(output)
    return code


if __name__ == "__main__":
    sys.exit(main())
