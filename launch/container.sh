#!/usr/bin/env bash
# Builds the container image for one platform from the working tree, and pushes it with --push.
#
#   launch/container.sh --platform=cpu|gpu|tpu --image=IMAGE [--push] [--dry_run]
#
# --dry_run prints the commands only.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

platform='' image='' push=false
parse_flags 'platform image push' "$@"
require platform image
command=(docker build --file=launch/Dockerfile --build-arg=PLATFORM="$platform" --tag="$image")
case $platform in
  cpu) ;;
  # A build on a laptop with another processor would otherwise target that processor.
  gpu | tpu) command+=(--platform=linux/amd64) ;;
  *) die "--platform must be cpu, gpu or tpu, not $(quote "$platform")" ;;
esac
run "${command[@]}" .
[[ $push == false ]] || run docker push "$image"
