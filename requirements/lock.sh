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
    "$uv" pip compile --quiet --universal --python-version "${python:-3.11}" --generate-hashes --no-emit-index-url \
        --custom-compile-command "make lock" --output-file "requirements/$out.txt" "$@"
}
echo "uv" | compile uv - "$@"
# onnxruntime-gpu holds the same files as onnxruntime, so an environment has one of them.
overrides=.venv/overrides # the locks name this folder in comments, so it is the same each time
mkdir -p "$overrides"
trap 'rm -r "$overrides"' EXIT
echo "onnxruntime ; python_version < '0'" >"$overrides/cuda"
echo "onnxruntime ; sys_platform != 'linux' or platform_machine != 'x86_64'" >"$overrides/gpu"

compile serve-cpu pyproject.toml "$@"
compile serve-cuda pyproject.toml --extra cuda --overrides "$overrides/cuda" --constraints requirements/serve-cpu.txt "$@"
compile otel pyproject.toml --extra otel --overrides "$overrides/cuda" --constraints requirements/serve-cpu.txt "$@"
compile score pyproject.toml --extra score --overrides "$overrides/cuda" --constraints requirements/serve-cpu.txt "$@"
compile ray pyproject.toml --extra ray --overrides "$overrides/cuda" --constraints requirements/score.txt "$@"
compile train pyproject.toml --extra train --group gpu --overrides "$overrides/gpu" \
    --constraints requirements/serve-cpu.txt "$@"
compile dev pyproject.toml --extra train --extra otel --extra score --group gpu --group dev --overrides "$overrides/gpu" \
    --constraints requirements/train.txt "$@"
compile supply --group supply --constraints requirements/dev.txt "$@"
compile bench pyproject.toml --group bench --constraints requirements/serve-cpu.txt "$@"
# The peers' own pins conflict with these locks. Only the packages that compute are constrained, so that all contenders
# of the benchmark run the same computation.
sed -n 's/^\(\(numpy\|onnxruntime\|pillow\|tokenizers\)==.*\) \\$/\1/p' requirements/serve-cpu.txt |
    compile peers --group peers --constraints - "$@"
# Triton's wheel holds Python backends for each version of Python and needs NumPy 1, whose last release is for 3.12.
sed -n 's/^\(onnxruntime==.*\) \\$/\1/p' requirements/serve-cpu.txt >"$overrides/triton"
python=3.12
compile triton --group triton --constraints "$overrides/triton" "$@"
