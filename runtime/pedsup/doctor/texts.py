"""The doctor's texts, by code."""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.messages import Message, message


class Text(NamedTuple):
    """A finding's sentence and its remedy."""

    found: Message
    remedy: Message | None = None


TOPICS: Final[dict[str, Message]] = {
    "chip": message("chip"),
    "cores": message("cores"),
    "features": message("features"),
    "page": message("page size"),
    "memory": message("memory"),
    "swap": message("swap"),
    "storage": message("storage"),
    "heat": message("heat"),
    "engine": message("engine"),
    "phantom": message("processes"),
    "battery": message("battery"),
    "termux": message("termux"),
    "model": message("model"),
    "settings": message("settings"),
    "tuning": message("tuning"),
}

_PHANTOM: Final = message(
    "Android {version} ends child processes above {limit} of all apps together, and busy ones in "
    "the background (signal 9). An app can rarely see whether that was switched off"
)
TEXTS: Final[dict[str, Text]] = {
    "probe_failed": Text(message("this could not be examined: {reason}")),
    "probe_slow": Text(message("the system did not answer in time")),
    # ---- processor ----
    "chip": Text(message("{name}")),
    "chip_unknown": Text(message("unknown: nothing here reports it")),
    "bits32": Text(
        message(
            "the system runs 32-bit programs ({machine}): a model above 2 GiB cannot be mapped"
        ),
        message("install the arm64 build of Termux, if the phone has one; else use a small model"),
    ),
    "cores": Text(message("{clusters}; {n_big} big, so {threads} threads (by {evidence})")),
    "cores_unknown": Text(
        message("{n} cores, of unknown kinds: {threads} threads"),
        message("pedsup-run tune MODEL finds the best number of threads by measuring"),
    ),
    "cores_fewer": Text(
        message("only {n} of {present} cores may be used now"),
        message("bring Termux to the foreground and switch battery saving off"),
    ),
    "features": Text(message("{names}")),
    "features_unknown": Text(message("unknown: /proc/cpuinfo lists none")),
    "no_dotprod": Text(
        message(
            "no dotprod (and so no i8mm): llama.cpp built for armv8.2-a+dotprod or for "
            "another phone dies here with SIGILL (illegal instruction); prompts are read "
            "slowly"
        ),
        message(
            "use Termux's own build, which chooses when it starts: pkg install "
            "llama-cpp. A build of your own needs -DGGML_CPU_ARM_ARCH=armv8-a"
        ),
    ),
    "no_avx2": Text(message("no AVX2: llama.cpp runs slowly here")),
    "page": Text(message("{kib} KiB")),
    "page_large": Text(
        message("{kib} KiB pages: libraries linked for 4 KiB pages do not load"),
        message(
            "use Termux's current packages: pkg upgrade && pkg install llama-cpp; a "
            "library of your own needs -Wl,-z,max-page-size=16384"
        ),
    ),
    # ---- memory, storage, heat ----
    "memory": Text(message("{total} in all, {available} available now (limited by {source})")),
    "memory_short": Text(
        message("{total} in all, but only {available} available now (limited by {source})"),
        message("close other apps (recent apps, Close all) or restart the phone before a session"),
    ),
    "memory_unknown": Text(message("unknown: /proc/meminfo cannot be read")),
    "swap": Text(message("{kind} {total}, {free} free")),
    "swap_full": Text(
        message(
            "{kind} {total}, only {free} free: the system is short of memory and may kill a session"
        ),
        message("close other apps, or restart the phone"),
    ),
    "no_swap": Text(message("none")),
    "storage": Text(message("{free} free in {folder}")),
    "storage_short": Text(
        message("only {free} free in {folder}: sessions and saved prompts need room"),
        message("delete files you do not need; rm -r {cache} is always safe"),
    ),
    "storage_denied": Text(
        message("{folder} cannot be written: {reason}"),
        message("make it writable, or run with --no-history --no-cache, or --history-dir FOLDER"),
    ),
    "storage_speed": Text(message("{file} is read at {rate}/s")),
    "storage_slow": Text(
        message(
            "{file} is read at only {rate}/s: loading takes about {load_s} s, and "
            "weights that do not stay in memory are read again for each token"
        ),
        message("copy the model from the SD card into Termux's home folder (cp FILE ~/)"),
    ),
    "storage_fuse": Text(
        message("{file} is on shared storage ({kind}), which Android reads through an extra layer"),
        message("copy it into Termux's home folder: cp {file} ~/"),
    ),
    "heat": Text(message("{degrees}")),
    "heat_hot": Text(
        message("{degrees}: the phone will lower its clocks"),
        message(
            "let it cool, out of its case and off the charger; one thread fewer (--threads) helps"
        ),
    ),
    "heat_unknown": Text(
        message("no sensor can be read here; the decode speed shows heat instead")
    ),
    # ---- engines ----
    "engine": Text(message("{name}")),
    "engine_died": Text(message("{name} dies when it starts: {reason}"), message("{remedy}")),
    "engine_built": Text(message("{name} is built for this processor ({features})")),
    "engine_units": Text(
        message(
            "{name} was built without {units}, which this processor has: about {factor} "
            "times slower"
        ),
        message("{remedy}"),
    ),
    "engine_slow": Text(
        message("{name} is there, but did not report its version within {seconds} s")
    ),
    "engine_none": Text(
        message("none: neither llama-cpp-python nor llama-server was found"),
        message(
            "in Termux: pkg install llama-cpp; elsewhere: pip install llama-cpp-python==0.3.36"
        ),
    ),
    # ---- Android ----
    "phantom_off": Text(message("Android {version}: child processes are not limited")),
    "phantom_none": Text(message("Android {version} has no limit on child processes")),
    "phantom_14": Text(
        _PHANTOM,
        message(
            "Settings, System, Developer options, Disable child process restrictions: on "
            "(Developer options appear after 7 taps on the build number). Or from a "
            'computer: adb shell "settings put global '
            'settings_enable_monitor_phantom_procs false"'
        ),
    ),
    "phantom_12": Text(
        _PHANTOM,
        message(
            'from a computer: adb shell "settings put global '
            'settings_enable_monitor_phantom_procs false" (Android 12 without L: adb shell '
            '"/system/bin/device_config set_sync_disabled_for_tests persistent; '
            "/system/bin/device_config put activity_manager max_phantom_processes "
            '2147483647")'
        ),
    ),
    "battery": Text(
        message("an app cannot see whether Android may put Termux to sleep"),
        message(
            "once: Settings, Apps, Termux, Battery, Unrestricted. For each long session: "
            "termux-wake-lock before, termux-wake-unlock after"
        ),
    ),
    "termux": Text(message("Termux {version} from {source}")),
    "termux_play": Text(
        message("Termux {version} from Google Play: a restricted build with other packages"),
        message(
            "save your files, uninstall it and install Termux from F-Droid: "
            "https://f-droid.org/packages/com.termux/"
        ),
    ),
    "termux_unknown": Text(
        message("Android without Termux's environment: its source is unknown"),
        message("use Termux from F-Droid: https://f-droid.org/packages/com.termux/"),
    ),
    # ---- model ----
    "model_none": Text(
        message("none was given"), message("pedsup-run doctor MODEL says whether a model fits")
    ),
    "model_bad": Text(message("{reason}"), message("{remedy}")),
    "model_missing": Text(
        message("there is no file {path}"),
        message("give the path of a .gguf file; install.sh puts it into ~/pedsup"),
    ),
    "model_elsewhere": Text(
        message("there is no file {path}"), message("pedsup-run doctor {near}")
    ),
    "model_fits": Text(
        message(
            "{name} needs {need} for a context of {ctx} tokens and fits; the largest "
            "context that fits is {largest}"
        )
    ),
    "model_pages": Text(
        message(
            "{name} needs {need}, and {available} is available: it would be read "
            "again from storage for each token"
        ),
        message("{remedy}"),
    ),
    "model_refused": Text(
        message(
            "{name} needs {need}, of which {anonymous} cannot be paged out, and "
            "{available} is available: the system would kill it"
        ),
        message("{remedy}"),
    ),
    "settings_bad": Text(
        message("the settings file is not used here: {reason}"),
        message("correct {file}, or delete it"),
    ),
    "tuned": Text(message("measured on {date}: {values}")),
    "not_tuned": Text(
        message("this model was not measured on this device"),
        message("pedsup-run tune {file} takes about 2 minutes"),
    ),
}
