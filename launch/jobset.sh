#!/usr/bin/env bash
# Submit a command to any Kubernetes cluster with JobSet.
set -euo pipefail

usage() {
  cat <<'END'
Submits a run of `compressed-lm train` or `compress` to a Kubernetes cluster on which JobSet
(https://jobset.sigs.k8s.io) is installed.

  jobset.sh --name NAME --image IMAGE --hosts N [options] -- train|compress ARGUMENTS

  --name NAME      name of the JobSet
  --image IMAGE    image with compressed-lm: docker build -f launch/Dockerfile -t IMAGE . && docker push IMAGE
  --hosts N        number of pods, one per host
  --tpu KIND       on GKE: accelerator such as tpu-v5-lite-podslice, with --topology 4x4 and --chips 4 (per host)
  --gpus N         GPUs per host, all in one process
  --cpus N         CPUs per host, if there are no TPUs or GPUs (default 4)
  --bucket BUCKET  on GKE with the Cloud Storage FUSE driver: mount this bucket as /bucket
  --account NAME   Kubernetes service account that may use the bucket (default: default)
  --spot           on GKE: spot nodes
  --restarts N     restarts after preemptions and aborts (default 20); of `compress`: of each pod, on average
  --grace S        seconds to save before a pod is removed (default 120)
  --dry-run        print the manifest and the command without running it
  --help           this text

JobSet restarts a training run that saved on SIGTERM or lost a host, and the run resumes. Pods of `compress` are
replaced one by one, and each continues its own share of the documents. Nothing is restarted after status 1 or 2: these
errors would occur again. --store must be a folder that every pod reads, such as /bucket; --out may be gs://.

examples, a v5e 4x4, and 32 pods of 16 cores:
  launch/jobset.sh --name paper-403m --image gcr.io/PROJECT/compressed-lm --hosts 4 \
    --tpu tpu-v5-lite-podslice --topology 4x4 --chips 4 --bucket BUCKET -- \
    train --store /bucket/stores/c4 --out gs://BUCKET/runs/403m --size 403m --mesh 1,16,1
  launch/jobset.sh --name c4-pieces --image gcr.io/PROJECT/compressed-lm --hosts 32 --cpus 16 -- \
    compress --corpus 'json:gs://BUCKET/c4/*.gz' --codec pieces16-en --out gs://BUCKET/stores/c4 --workers 16
END
}

# shellcheck source=words.sh
. "$(dirname "$0")/words.sh"

# Prints the words as a YAML list. Kubernetes expands $(NAME), so $( is escaped as $$(.
yaml_list() {
  local word list=''
  for word; do
    word=${word//\\/\\\\}
    word=${word//\"/\\\"}
    word=${word//$'\n'/\\n}
    word=${word//$'\t'/\\t}
    # shellcheck disable=SC2016
    word=${word//'$('/'$$('}
    list+="\"$word\", "
  done
  printf '[%s]\n' "${list%, }"
}

name='' image='' hosts='' tpu='' topology='' chips='' gpus='' cpus='' bucket='' account='' spot='' restarts=20 grace=120 dry=''
while [ $# -gt 0 ]; do
  case $1 in
    --name) name=$2; shift 2 ;;
    --image) image=$2; shift 2 ;;
    --hosts) hosts=$2; shift 2 ;;
    --tpu) tpu=$2; shift 2 ;;
    --topology) topology=$2; shift 2 ;;
    --chips) chips=$2; shift 2 ;;
    --gpus) gpus=$2; shift 2 ;;
    --cpus) cpus=$2; shift 2 ;;
    --bucket) bucket=$2; shift 2 ;;
    --account) account=$2; shift 2 ;;
    --spot) spot=1; shift ;;
    --restarts) restarts=$2; shift 2 ;;
    --grace) grace=$2; shift 2 ;;
    --dry-run) dry=1; shift ;;
    --help | -h) usage; exit ;;
    --) shift; break ;;
    *) fail "unknown option $1; see --help. Put the command after --" ;;
  esac
done
[ -n "$name" ] && [ -n "$image" ] && [ -n "$hosts" ] || fail '--name, --image and --hosts are required; see --help'
set_program "$@"

selector='' environment=() backoff=0
if [ -n "$tpu" ]; then
  [ -n "$topology" ] && [ -n "$chips" ] || fail '--tpu needs --topology and --chips; see --help'
  resource="google.com/tpu: \"$chips\""
  selector="
                cloud.google.com/gke-tpu-accelerator: $tpu
                cloud.google.com/gke-tpu-topology: $topology"
elif [ -n "$gpus" ]; then
  resource="nvidia.com/gpu: \"$gpus\""
else
  resource="cpu: \"${cpus:-4}\""
fi
if [ "${program[0]}" = compress ]; then
  backoff=$((restarts * hosts))
  numbered=1
  # shellcheck disable=SC2206 # three words
  [ -z "$tpu" ] || [ "$hosts" -eq 1 ] || environment=($one_tpu_host)
elif [ -z "$tpu" ]; then
  numbered=1
  environment=("COMPRESSED_LM_COORDINATOR=$name-worker-0-0.$name:8476")
else
  numbered='' # GKE sets the variables that connect the pods of a TPU slice, in the order of the chips
fi
[ -z "$numbered" ] || environment+=("COMPRESSED_LM_NUM_PROCESSES=$hosts")

variables=''
for variable in ${environment[@]+"${environment[@]}"}; do
  variables+="
                    - name: ${variable%%=*}
                      value: \"${variable#*=}\""
done
[ -z "$numbered" ] || variables+="
                    - name: COMPRESSED_LM_PROCESS_ID
                      valueFrom:
                        fieldRef:
                          fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']"
[ -z "$variables" ] || variables="
                  env:$variables"
[ -z "$spot" ] || selector+='
                cloud.google.com/gke-spot: "true"'
[ -z "$selector" ] || selector="
              nodeSelector:$selector"

annotations='' mounts='' volumes=''
if [ -n "$bucket" ]; then
  annotations='
            metadata:
              annotations:
                gke-gcsfuse/volumes: "true"'
  mounts='
                  volumeMounts:
                    - name: bucket
                      mountPath: /bucket'
  volumes="
              volumes:
                - name: bucket
                  csi:
                    driver: gcsfuse.csi.storage.gke.io
                    volumeAttributes:
                      bucketName: $bucket
                      mountOptions: implicit-dirs"
fi
[ -z "$account" ] || selector+="
              serviceAccountName: $account"

manifest="apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
      - action: FailJobSet
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: worker
      replicas: 1
      template:
        spec:
          parallelism: $hosts
          completions: $hosts
          completionMode: Indexed
          backoffLimit: $backoff
          podFailurePolicy:
            rules:
              - action: FailJob
                onExitCodes:
                  containerName: main
                  operator: In
                  values: [1, 2]
          template:$annotations
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: $grace$selector
              containers:
                - name: main
                  image: $image
                  command: [compressed-lm]
                  args: $(yaml_list "${program[@]}")$variables$mounts
                  resources:
                    limits:
                      $resource$volumes"

if [ -n "$dry" ]; then
  printf 'kubectl apply -f - <<'\''END'\''\n%s\nEND\n' "$manifest"
else
  printf '%s\n' "$manifest" | kubectl apply -f -
fi
