#!/usr/bin/env bash
# End jobs with all their processes.
for id in "$@"; do
    kill -TERM -- "-$(cat "${SCHEDULER_DIR:?}/$id/pid")" || true
done
