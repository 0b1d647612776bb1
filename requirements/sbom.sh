#!/bin/sh
# The bill of materials of an environment, in CycloneDX's JSON: requirements/sbom.sh CYCLONEDX_PY PYTHON FILE [WORD ...].
# It is checked against CycloneDX's schema, and the same environment gives the same bytes.
set -eu
tool=$1 python=$2 file=$3
shift 3
mkdir -p "$(dirname "$file")"
"$tool" environment --pyproject "$(dirname "$0")/../pyproject.toml" --spec-version 1.6 --output-reproducible --validate \
    --output-format JSON --output-file "$file" "$@" "$python"
