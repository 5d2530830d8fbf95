#!/usr/bin/env bash
# The smallest scheduler: starts a job script in the background and prints its id.
#   submit.sh GPUS SCRIPT
set -euo pipefail
folder=${SCHEDULER_DIR:?}
id=$(mktemp -d "$folder/job.XXXXXX")
echo "gpus $1" >"$id/request"
(
    setsid bash "$2" >"$id/output" 2>&1 &
    echo "$!" >"$id/pid"
    status=0
    wait "$!" || status=$?
    echo "$status" >"$id/done.tmp" && mv "$id/done.tmp" "$id/done"
) >/dev/null 2>&1 &
until [ -s "$id/pid" ]; do sleep 0.01; done
basename "$id"
