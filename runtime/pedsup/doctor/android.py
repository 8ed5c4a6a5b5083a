"""Probes of what Android does to a long-running program in Termux."""

from __future__ import annotations

from typing import Final

from pedsup.device.system_files import whole_number
from pedsup.doctor.device import ANDROID_12, Device
from pedsup.doctor.finding import Finding

ANDROID_14: Final = 34
DEFAULT_LIMIT: Final = 32
UNLIMITED: Final = 1000
_FLAG: Final = "settings_enable_monitor_phantom_procs"
_OVERRIDES: Final = (f"persist.sys.fflag.override.{_FLAG}", f"sys.fflag.override.{_FLAG}")
_SOURCES: Final = {"F_DROID": "F-Droid", "GITHUB": "GitHub", "GOOGLE_PLAY_STORE": "Google Play"}


def phantom(device: Device) -> list[Finding]:
    """The limit on child processes: Android 12's 'phantom processes' (termux-app #2366).

    The Developer option of Android 14 shows as a property; the global setting and the device
    configuration can be asked for, but are usually denied to an app.
    """
    if not device.android:
        return []
    version = device.properties.get("ro.build.version.release") or "?"
    if device.sdk is not None and device.sdk < ANDROID_12:
        return [Finding("phantom", "ok", "phantom_none", {"version": version})]
    monitored = next((v for n in _OVERRIDES if (v := device.properties.get(n))), None)
    if monitored is None:
        monitored = _ask(device, "settings", "get", "global", _FLAG)
    limit = whole_number(
        _ask(device, "device_config", "get", "activity_manager", "max_phantom_processes") or ""
    )
    off = (monitored or "").lower() in ("false", "0")
    if off or (limit is not None and limit >= UNLIMITED):
        return [Finding("phantom", "ok", "phantom_off", {"version": version})]
    values = {
        "version": version,
        "limit": limit if limit is not None else DEFAULT_LIMIT,
        "monitored": monitored,
    }
    new = device.sdk is None or device.sdk >= ANDROID_14
    return [Finding("phantom", "note", "phantom_14" if new else "phantom_12", values)]


def battery(device: Device) -> list[Finding]:
    """Battery optimisation and the wake lock: `dumpsys` is denied to apps."""
    return [Finding("battery", "note", "battery")] if device.android else []


def termux(device: Device) -> list[Finding]:
    if not device.android:
        return []
    environ = device.environ
    version = environ.get("TERMUX_VERSION") or environ.get("TERMUX_APP__APP_VERSION_NAME") or ""
    source = environ.get("TERMUX_APK_RELEASE") or environ.get("TERMUX_APP__APK_RELEASE") or ""
    if not version and not source:
        return [Finding("termux", "note", "termux_unknown")]
    if source == "GOOGLE_PLAY_STORE" or version.startswith("googleplay"):
        return [Finding("termux", "problem", "termux_play", {"version": version or "?"})]
    values = {"version": version or "?", "source": _SOURCES.get(source, source or "?")}
    return [Finding("termux", "ok", "termux", values)]


def _ask(device: Device, name: str, *arguments: str) -> str | None:
    """The one-word answer of a system command; None if there is no credible one."""
    program = device.command(name)
    answer = device.run([program, *arguments], 0.6) if program else None
    if answer is None or answer.code != 0:
        return None
    words = answer.text.split()
    return words[0] if len(words) == 1 and words[0] != "null" else None
