"""How busy each GPU is while something else runs: the utilisation that NVML tells, sampled.

The share of time in which a kernel ran, as the driver counts it: a check on what the records of
the chunks say, and the only witness of the seconds between two jobs.
"""

import itertools
import threading
import time

EVERY_S = 0.05
IDLE_BELOW = 5  # percent


class GpuWatch:
    """Samples the utilisation of GPUs from `with` to its end.

    Args:
        uuids: of the GPUs, as `cdm.jobs.device.visible_devices` lists them.
    """

    def __init__(self, uuids: list[str]):
        self.uuids = [uuid for uuid in uuids if uuid.startswith("GPU-")]
        self.times: list[float] = []
        self.percents: list[list[int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        if self.uuids:
            import pynvml

            pynvml.nvmlInit()
            self._handles = [pynvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in self.uuids]
            self._read = pynvml.nvmlDeviceGetUtilizationRates
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        if self.uuids:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.times.append(time.time())
            self.percents.append([self._read(handle).gpu for handle in self._handles])

    def figures(self, wall_s: float) -> list[dict]:
        """Of each GPU: busy share of the wall time, first and last kernels, idle in between."""
        found = []
        for number, uuid in enumerate(self.uuids):
            values = [percents[number] for percents in self.percents]
            busy = [i for i, value in enumerate(values) if value >= IDLE_BELOW]
            steps = [b - a for a, b in itertools.pairwise(self.times)] + [EVERY_S]
            busy_s = sum(step * value / 100 for step, value in zip(steps, values, strict=True))
            entry = {"gpu": uuid, "busy_s": round(busy_s, 2), "share": round(busy_s / wall_s, 4)}
            if busy:
                inside = range(busy[0], busy[-1] + 1)
                idle_s = sum(steps[i] for i in inside if values[i] < IDLE_BELOW)
                entry |= {
                    "first_s": round(self.times[busy[0]] - self.times[0], 2),
                    "last_s": round(self.times[busy[-1]] - self.times[0], 2),
                    "idle_between_s": round(idle_s, 2),
                }
            found.append(entry)
        return found
