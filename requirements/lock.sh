#!/bin/sh
# Resolves the dependencies of pyproject.toml into lock files with hashes: requirements/lock.sh UV [--upgrade]
# Each lock is constrained by an earlier one, so that a package has the same version everywhere. The files hold no
# addresses: packages are installed from the index that pip and uv are configured for.
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
# The peers' own pins conflict with these locks. Only the packages that compute are constrained, so that all contenders
# of the benchmark run the same computation.
sed -n 's/^\(\(numpy\|onnxruntime\|onnxruntime-gpu\|pillow\|tokenizers\)==.*\) \\$/\1/p' requirements/serve.txt |
    compile peers --group peers --constraints - "$@"
