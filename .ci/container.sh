#!/usr/bin/env bash
# Builds the image and runs it as an unknown user, where buildah can run and has a base; says so where it cannot.
# Tests hold the same command line to the same promises without an image (tests/cli/test_any_user.py).
#   CONTAINER_BASE   an image to build on, if not the Containerfile's own
#   CONTAINER_FLAGS  more for `buildah bud`: mounts of a package mirror, for instance
set -euo pipefail
cd "$(dirname "$0")/.."
export STORAGE_DRIVER=${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=${BUILDAH_ISOLATION:-chroot}
base=${CONTAINER_BASE:-$(sed -n 's/^ARG BASE=//p' Containerfile)}
if ! command -v buildah >/dev/null; then
  echo "container: not built, buildah is not installed"
  exit 0
fi
if ! timeout 60 buildah pull --quiet --policy missing "$base" >/dev/null 2>&1; then
  echo "container: not built, $base cannot be had"
  exit 0
fi
# shellcheck disable=SC2086  flags are several words
buildah bud --quiet --network host ${CONTAINER_FLAGS:-} --build-arg "BASE=$base" -t medldm -f Containerfile . >/dev/null
name=$(buildah from medldm)
out=$(mktemp -d)
chmod 777 "$out"
cp medldm/samples/mr_t1w.nii.gz "$out"
trap 'buildah rm "$name" >/dev/null; rm -rf "$out"' EXIT
buildah run --user 12345:0 -v "$out:/data" "$name" -- \
  medldm denoise mr_t1w.nii.gz out.nii.gz --model brain-mri-2d-fast --quiet
test -s "$out/out.nii.gz"
echo "container: built on $base, and restores as uid 12345"
