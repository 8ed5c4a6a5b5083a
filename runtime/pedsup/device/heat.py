"""How hot the device is, where its sensors can be read.

Android lets an app read the kernel's thermal zones on some phones, not on others, and the folder
can rarely be listed: zones are probed by number. Nothing readable is the common case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pedsup.device.system_files import signed_number, text_of

MAX_ZONES: Final = 128
MISSING_IN_A_ROW: Final = 8
"""How many zones may be missing or denied before probing stops."""
HOT_CPU_C: Final = 75.0
COOL_CPU_C: Final = 50.0
HOT_BATTERY_C: Final = 42.0
COOL_BATTERY_C: Final = 35.0
"""Phones begin to lower their clocks in this range: skin limits are about 40 to 45 degrees."""
SENSIBLE_C: Final = (1.0, 150.0)

_CPU: Final = re.compile(r"cpu|cluster|big|little|mid|soc|mtkts.?cpu|x86_pkg|tsens", re.IGNORECASE)
_BATTERY: Final = re.compile(r"batt", re.IGNORECASE)
_BATTERY_FILES: Final = (
    "sys/class/power_supply/battery/temp",
    "sys/class/power_supply/bms/temp",
)


@dataclass(frozen=True)
class Heat:
    """Degrees Celsius of the hottest sensor of each kind; None if no sensor can be read."""

    cpu: float | None = None
    battery: float | None = None

    @property
    def known(self) -> bool:
        return self.cpu is not None or self.battery is not None

    @property
    def hot(self) -> bool | None:
        """Whether the device is hot; None if the sensors are in between or absent."""
        if (self.cpu or 0.0) >= HOT_CPU_C or (self.battery or 0.0) >= HOT_BATTERY_C:
            return True
        if not self.known:
            return None
        cool_cpu = self.cpu is None or self.cpu < COOL_CPU_C
        cool_battery = self.battery is None or self.battery < COOL_BATTERY_C
        return False if cool_cpu and cool_battery else None


class HeatSensors:
    """The sensors that can be read, as found at the start."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._cpu: list[Path] = []
        self._battery = [root / name for name in _BATTERY_FILES if _celsius(root / name)]
        missing = 0
        for number in range(MAX_ZONES):
            zone = root / f"sys/class/thermal/thermal_zone{number}"
            kind = text_of(zone / "type").strip()
            missing = 0 if kind else missing + 1
            if missing > MISSING_IN_A_ROW:
                break
            if kind and _celsius(zone / "temp") is not None:
                if _BATTERY.search(kind):
                    self._battery.append(zone / "temp")
                elif _CPU.search(kind):
                    self._cpu.append(zone / "temp")

    def read(self) -> Heat:
        return Heat(_hottest(self._cpu), _hottest(self._battery))


def _hottest(paths: list[Path]) -> float | None:
    return max((c for path in paths if (c := _celsius(path)) is not None), default=None)


def _celsius(path: Path) -> float | None:
    """A reading in degrees: drivers give degrees, tenths or thousandths; told by their size."""
    raw = signed_number(text_of(path))
    if raw is None:
        return None
    scale = 1000 if abs(raw) >= 2000 else 10 if abs(raw) >= 200 else 1
    low, high = SENSIBLE_C
    return raw / scale if low <= raw / scale <= high else None
