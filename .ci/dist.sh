#!/usr/bin/env bash
# Wheel and sdist, as they would be published: built, weighed, installed where the repository cannot be seen, run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
rm -rf dist
"$python" -m build --no-isolation --outdir dist . >/dev/null
for file in dist/*; do
    size=$(stat -c %s "$file")
    echo "$file: $((size / 1000)) kB"
    [ "$size" -lt 100000000 ] || { echo "$file is larger than 100 MB"; exit 1; }
done
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# The dependencies are those of the tested environment; medldm itself comes from the wheel alone.
"$python" -m venv "$place/venv"
site=$("$python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
"$place/venv/bin/python" - "$site" <<'PY'
import pathlib, sys, sysconfig
# A path file is read after site-packages: the wheel wins over an editable install of the repository.
pathlib.Path(sysconfig.get_path("purelib"), "tested.pth").write_text(sys.argv[1] + "\n")
PY
"$place/venv/bin/python" -m pip install --quiet --no-deps --no-index dist/*.whl
cd "$place"
"$place/venv/bin/python" -c "import medldm; assert '$place' in medldm.__file__, medldm.__file__"
"$place/venv/bin/medldm" --version
"$place/venv/bin/medldm" models
"$place/venv/bin/medldm" demo demo_result --no-progress
