#!/usr/bin/env bash
# running, success or failed.
id=${SCHEDULER_DIR:?}/$1
if [ ! -e "$id/done" ]; then
    echo running
elif [ "$(cat "$id/done")" = 0 ]; then
    echo success
else
    echo failed
fi
