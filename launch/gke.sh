#!/usr/bin/env bash
# Runs on a TPU slice of Google Kubernetes Engine, as a JobSet (https://jobset.sigs.k8s.io, version
# 0.8 or newer).
#
#   launch/gke.sh --name=NAME --topology=v5e:4x4 --image=IMAGE [--chips_per_host=4] [--spot]
#                 [--restarts=10] [--namespace=default] [--service_account=default] [--dry_run]
#                 -- --config=configs/coco.py --workdir=gs://BUCKET/coco ...
#
# The image is that of launch/container.sh --platform=tpu. --topology is that of `pdl_jax plan`: v4,
# v5e, v5p, v6e or tpu7x and the chips along each axis; a node pool of that shape must exist or be
# provisioned. The service account must be allowed to write to the bucket. --dry_run prints the
# command with its manifest only.

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

name='' topology='' image='' chips_per_host=4 spot=false restarts=10
namespace=default service_account=default
generation='' grid='' chips=0
parse_flags 'name topology image chips_per_host spot restarts namespace service_account' "$@"
require name topology image
require_name "$name"
require_number chips_per_host restarts
require_program_flags
parse_topology "$topology"

((chips >= chips_per_host)) || chips_per_host=$chips
((chips % chips_per_host == 0)) ||
  die "--chips_per_host=$chips_per_host does not divide the $chips chips of $topology"
hosts=$((chips / chips_per_host))
case $generation in
  v4) accelerator=tpu-v4-podslice ;;
  v5e) accelerator=tpu-v5-lite-podslice ;;
  v5p) accelerator=tpu-v5p-slice ;;
  v6e) accelerator=tpu-v6e-slice ;;
  tpu7x) accelerator=tpu7x ;;
esac

# json TEXT: prints a JSON string, which YAML reads as the same string whatever it contains.
json() {
  local backslash=\\ mark='"' text=$1
  [[ $text != *[[:cntrl:]]* ]] || die "control characters are not supported: $(quote "$text")"
  text=${text//"$backslash"/"$backslash$backslash"}
  text=${text//"$mark"/"$backslash$mark"}
  printf '"%s"' "$text"
}

image=$(json "$image")
namespace=$(json "$namespace")
service_account=$(json "$service_account")
program_flags=''
for flag in "${PROGRAM_FLAGS[@]}" "${rest[@]}"; do
  program_flags+="${program_flags:+, }$(json "$flag")"
done
spot_selector='' spot_toleration=''
if [[ $spot == true ]]; then
  spot_selector='
                cloud.google.com/gke-spot: "true"'
  spot_toleration='
              tolerations:
                - {key: cloud.google.com/gke-spot, operator: Equal, value: "true", effect: NoSchedule}'
fi

# Preemption, maintenance and a run that was told to stop do not count as restarts.
manifest="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  namespace: $namespace
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes: {containerName: pdl-jax, operator: In, values: [$STOPPED_STATUS]}
              - action: FailJob
                onPodConditions: [{type: DisruptionTarget, status: \"True\"}]
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 300
              serviceAccountName: $service_account
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $accelerator
                cloud.google.com/gke-tpu-topology: $grid$spot_selector$spot_toleration
              containers:
                - name: pdl-jax
                  image: $image
                  args: [$program_flags]
                  securityContext: {privileged: true}
                  resources:
                    limits: {google.com/tpu: $chips_per_host}
                  volumeMounts:
                    - {name: shared-memory, mountPath: /dev/shm}
              volumes:
                # The processes that read data hand it over in shared memory.
                - {name: shared-memory, emptyDir: {medium: Memory}}"

command=(kubectl apply --filename=-)
if [[ $dry_run == true ]]; then
  printf "%s <<'MANIFEST'\n%s\nMANIFEST\n" "$(quote "${command[@]}")" "$manifest"
else
  run "${command[@]}" <<<"$manifest"
fi
