#!/bin/sh
# Resolves the dependencies of pyproject.toml into lock files with hashes: requirements/lock.sh UV [--upgrade].
# Each builds on the one before, so that a package has one version everywhere. The files hold no address:
# they install from whatever index pip and uv are configured for.
set -eu
uv=$1
shift
cd "$(dirname "$0")/.."
compile() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" --output-file "requirements/$out.txt" "$@"
}
echo "uv" | compile uv - "$@"
compile serve pyproject.toml "$@"
compile otel pyproject.toml --extra otel --constraints requirements/serve.txt "$@"
compile train pyproject.toml --extra train --constraints requirements/serve.txt "$@"
compile dev pyproject.toml --extra train --extra otel --group dev --constraints requirements/train.txt "$@"
compile supply --group supply --constraints requirements/dev.txt "$@"
compile bench pyproject.toml --group bench --constraints requirements/serve.txt "$@"
# The peers pin what we do not; only what computes must be the same, so that they differ in what carries it alone.
sed -n 's/^\(\(numpy\|onnxruntime\|onnxruntime-gpu\|pillow\|tokenizers\)==.*\) \\$/\1/p' requirements/serve.txt |
    compile peers --group peers --constraints - "$@"
