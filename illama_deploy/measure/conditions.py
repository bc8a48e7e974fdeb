"""What the machine was doing while something was timed: clocks, load, stolen time, and what a GPU says of itself."""

from __future__ import annotations

import os
import time
from typing import Any

import psutil

__all__ = ["Conditions", "condition_notes"]

#: Seconds between two samples; one costs about a millisecond, outside of what is timed.
EVERY = 0.5
#: Reasons for which NVML says that clocks are held down, of those that spoil a measurement.
THROTTLING = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class Conditions:
    """Looks at the machine now and then while rounds go by.

    Every figure may be missing: virtual machines hide clocks, and load is Linux's and macOS's.
    """

    def __init__(self) -> None:
        self.load_before = _load()
        self._cpu_before = psutil.cpu_times()
        self._mhz: list[float] = []
        self._gpus: list[dict[str, Any]] = []
        self._last = 0.0
        self.sample()

    def sample(self) -> None:
        """Take figures, unless they were just taken."""
        if time.perf_counter() - self._last < EVERY:
            return
        try:
            clock = psutil.cpu_freq()
        except (OSError, NotImplementedError, RuntimeError):
            clock = None
        if clock is not None and clock.current:
            self._mhz.append(float(clock.current))
        _look_at_gpus(self._gpus)
        self._last = time.perf_counter()

    def to_dict(self) -> dict[str, Any]:
        """`cpu_mhz` [lowest, highest], `load_before` (1 minute, per core), `stolen` share of CPU time, `gpus`."""
        after = psutil.cpu_times()
        passed = {key: getattr(after, key) - getattr(self._cpu_before, key) for key in after._fields}
        total = sum(value for key, value in passed.items() if not key.startswith("guest"))
        return {
            "cpu_mhz": [min(self._mhz), max(self._mhz)] if self._mhz else None,
            "load_before": self.load_before,
            "stolen": passed["steal"] / total if total > 0 and "steal" in passed else None,
            "gpus": self._gpus,
        }


def condition_notes(conditions: dict[str, Any]) -> list[str]:
    """What in them may have disturbed a measurement, in words."""
    notes = []
    if (mhz := conditions["cpu_mhz"]) is not None and mhz[0] < 0.9 * mhz[1]:
        notes.append(f"The CPU's clock went between {mhz[0]:.0f} and {mhz[1]:.0f} MHz while latency was measured.")
    if (load := conditions["load_before"]) is not None and load > 0.5:
        notes.append(f"The machine was busy before latency was measured: a load of {load:.1f} for each core.")
    if (stolen := conditions["stolen"]) is not None and stolen > 0.01:
        notes.append(f"Other virtual machines took {100 * stolen:.0f} % of the CPU's time meanwhile.")
    for gpu in conditions["gpus"]:
        if gpu["throttled"]:
            notes.append(
                f"{gpu['name']} held its clock down ({', '.join(gpu['throttled'])}), at up to {gpu['celsius']} °C."
            )
    return notes


def _load() -> float | None:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except (OSError, AttributeError):
        return None


def _look_at_gpus(seen: list[dict[str, Any]]) -> None:
    """Add a sample to each GPU's record: `name`, `sm_mhz` [lowest, highest], `celsius` (highest), `throttled`."""
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        try:
            for number in range(pynvml.nvmlDeviceGetCount()):
                device = pynvml.nvmlDeviceGetHandleByIndex(number)
                mhz = pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM)
                celsius = pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU)
                reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(device)
                if number == len(seen):
                    name = pynvml.nvmlDeviceGetName(device)
                    seen.append({"name": name, "sm_mhz": [mhz, mhz], "celsius": celsius, "throttled": []})
                gpu = seen[number]
                gpu["sm_mhz"] = [min(gpu["sm_mhz"][0], mhz), max(gpu["sm_mhz"][1], mhz)]
                gpu["celsius"] = max(gpu["celsius"], celsius)
                held = [text for bit, text in THROTTLING.items() if reasons & bit]
                gpu["throttled"] = list(dict.fromkeys([*gpu["throttled"], *held]))
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return
