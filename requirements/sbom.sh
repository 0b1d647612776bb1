#!/bin/sh
# Writes the bill of materials of an environment as CycloneDX JSON: requirements/sbom.sh CYCLONEDX_PY PYTHON FILE [ARG ...]
# The file is validated against CycloneDX's schema. The same environment gives the same bytes.
set -eu
tool=$1 python=$2 file=$3
shift 3
mkdir -p "$(dirname "$file")"
"$tool" environment --pyproject "$(dirname "$0")/../pyproject.toml" --spec-version 1.6 --output-reproducible --validate \
    --output-format JSON --output-file "$file" "$@" "$python"
