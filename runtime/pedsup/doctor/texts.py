"""The doctor's words, in English and Spanish."""

from __future__ import annotations

from typing import Final, NamedTuple

from pedsup.texts.intended_use import Language


class Text(NamedTuple):
    """A finding's sentence and its remedy, by language."""

    found: dict[Language, str]
    remedy: dict[Language, str] | None = None


def _text(en: str, es: str, do_en: str = "", do_es: str = "") -> Text:
    return Text({"en": en, "es": es}, {"en": do_en, "es": do_es} if do_en else None)


TOPICS: Final[dict[str, dict[Language, str]]] = {
    "chip": {"en": "chip", "es": "chip"},
    "cores": {"en": "cores", "es": "núcleos"},
    "features": {"en": "features", "es": "instrucciones"},
    "page": {"en": "page size", "es": "página"},
    "memory": {"en": "memory", "es": "memoria"},
    "swap": {"en": "swap", "es": "intercambio"},
    "storage": {"en": "storage", "es": "almacenamiento"},
    "heat": {"en": "heat", "es": "temperatura"},
    "engine": {"en": "engine", "es": "motor"},
    "phantom": {"en": "processes", "es": "procesos"},
    "battery": {"en": "battery", "es": "batería"},
    "termux": {"en": "termux", "es": "termux"},
    "model": {"en": "model", "es": "modelo"},
    "settings": {"en": "settings", "es": "opciones"},
    "tuning": {"en": "tuning", "es": "ajuste"},
}

_UPDATE_TERMUX: Final = "pkg upgrade && pkg install llama-cpp"
_ADB: Final = 'adb shell "settings put global settings_enable_monitor_phantom_procs false"'
_ADB_12: Final = (
    'adb shell "/system/bin/device_config set_sync_disabled_for_tests persistent; '
    '/system/bin/device_config put activity_manager max_phantom_processes 2147483647"'
)

TEXTS: Final[dict[str, Text]] = {
    "probe_failed": _text(
        "this could not be looked at: {reason}", "esto no se pudo examinar: {reason}"
    ),
    "probe_slow": _text("the system did not answer in time", "el sistema no respondió a tiempo"),
    # ---- processor ----
    "chip": _text("{name}", "{name}"),
    "chip_unknown": _text("unknown: nothing here tells it", "desconocido: nada aquí lo indica"),
    "bits32": _text(
        "the system runs 32-bit programs ({machine}): a model above 2 GiB cannot be mapped",
        "el sistema ejecuta programas de 32 bits ({machine}): no cabe un modelo de más de 2 GiB",
        "install the arm64 build of Termux, if the phone has one; else use a small model",
        "instale Termux para arm64 si el teléfono lo admite; si no, use un modelo pequeño",
    ),
    "cores": _text(
        "{clusters}; {n_big} big, so {threads} threads (by {evidence})",
        "{clusters}; {n_big} grandes, por tanto {threads} hilos (según {evidence})",
    ),
    "cores_unknown": _text(
        "{n} cores, of unknown kinds: {threads} threads",
        "{n} núcleos, de tipo desconocido: {threads} hilos",
        "pedsup-run tune MODEL finds the best number of threads by measuring",
        "pedsup-run tune MODELO encuentra el mejor número de hilos midiendo",
    ),
    "cores_fewer": _text(
        "only {n} of {present} cores may be used now",
        "ahora solo se pueden usar {n} de {present} núcleos",
        "bring Termux to the foreground and switch battery saving off",
        "ponga Termux en primer plano y apague el ahorro de batería",
    ),
    "features": _text("{names}", "{names}"),
    "features_unknown": _text(
        "unknown: /proc/cpuinfo tells none", "desconocidas: /proc/cpuinfo no indica ninguna"
    ),
    "no_dotprod": _text(
        "no dotprod (and so no i8mm): llama.cpp built for armv8.2-a+dotprod or for another phone "
        "dies here with SIGILL (illegal instruction); prompts are read slowly",
        "sin dotprod (ni i8mm): un llama.cpp compilado para armv8.2-a+dotprod o para otro teléfono "
        "muere aquí con SIGILL (instrucción ilegal); las preguntas se leen despacio",
        "use Termux' own build, which chooses at its start: pkg install llama-cpp. A build of your "
        "own needs -DGGML_CPU_ARM_ARCH=armv8-a",
        "use el de Termux, que elige al arrancar: pkg install llama-cpp. Uno propio necesita "
        "-DGGML_CPU_ARM_ARCH=armv8-a",
    ),
    "no_avx2": _text("no AVX2: llama.cpp runs slowly here", "sin AVX2: llama.cpp va despacio aquí"),
    "page": _text("{kib} KiB", "{kib} KiB"),
    "page_large": _text(
        "{kib} KiB pages: libraries linked for 4 KiB pages do not load",
        "páginas de {kib} KiB: las bibliotecas enlazadas para páginas de 4 KiB no cargan",
        "use Termux' packages of today: " + _UPDATE_TERMUX + "; a library of your own needs "
        "-Wl,-z,max-page-size=16384",
        "use los paquetes actuales de Termux: " + _UPDATE_TERMUX + "; una biblioteca propia "
        "necesita -Wl,-z,max-page-size=16384",
    ),
    # ---- memory, storage, heat ----
    "memory": _text(
        "{total} in all, {available} can be taken now (by {source})",
        "{total} en total, ahora se pueden tomar {available} (según {source})",
    ),
    "memory_short": _text(
        "{total} in all, but only {available} can be taken now (by {source})",
        "{total} en total, pero ahora solo se pueden tomar {available} (según {source})",
        "close other apps (recent apps, Close all) or restart the phone before a session",
        "cierre otras aplicaciones (recientes, Cerrar todo) o reinicie el teléfono antes",
    ),
    "memory_unknown": _text(
        "unknown: /proc/meminfo cannot be read", "desconocida: /proc/meminfo no se puede leer"
    ),
    "swap": _text("{kind} {total}, {free} free", "{kind} {total}, {free} libres"),
    "swap_full": _text(
        "{kind} {total}, only {free} free: the system is short of memory and may kill a session",
        "{kind} {total}, solo {free} libres: falta memoria y el sistema puede matar una sesión",
        "close other apps, or restart the phone",
        "cierre otras aplicaciones o reinicie el teléfono",
    ),
    "no_swap": _text("none", "ninguno"),
    "storage": _text("{free} free in {folder}", "{free} libres en {folder}"),
    "storage_short": _text(
        "only {free} free in {folder}: sessions and saved prompts need room",
        "solo {free} libres en {folder}: las sesiones y lo guardado necesitan espacio",
        "delete files you do not need; rm -r {cache} is always safe",
        "borre archivos que no necesite; rm -r {cache} siempre es seguro",
    ),
    "storage_denied": _text(
        "{folder} cannot be written: {reason}",
        "no se puede escribir en {folder}: {reason}",
        "make it writable, or run with --no-history --no-cache, or --history-dir FOLDER",
        "permita escribir, o use --no-history --no-cache, o --history-dir CARPETA",
    ),
    "storage_speed": _text("{file} is read at {rate}/s", "{file} se lee a {rate}/s"),
    "storage_slow": _text(
        "{file} is read at {rate}/s only: loading takes about {load_s} s, and weights that do not "
        "stay in memory are read again for each token",
        "{file} se lee a solo {rate}/s: cargar tarda unos {load_s} s, y los pesos que no quedan en "
        "memoria se vuelven a leer en cada token",
        "copy the model from the SD card into Termux' home folder (cp FILE ~/)",
        "copie el modelo de la tarjeta SD a la carpeta de Termux (cp ARCHIVO ~/)",
    ),
    "storage_fuse": _text(
        "{file} lies on shared storage ({kind}), which Android reads through an extra layer",
        "{file} está en el almacenamiento compartido ({kind}), que Android lee con una capa extra",
        "copy it into Termux' home folder: cp {file} ~/",
        "cópielo a la carpeta de Termux: cp {file} ~/",
    ),
    "heat": _text("{degrees}", "{degrees}"),
    "heat_hot": _text(
        "{degrees}: the phone will lower its clocks",
        "{degrees}: el teléfono bajará su velocidad",
        "let it cool, take it out of its case and off the charger; --threads lower by one helps",
        "déjelo enfriar, sin funda ni cargador; un hilo menos (--threads) ayuda",
    ),
    "heat_unknown": _text(
        "no sensor can be read here; decode speed tells heat instead",
        "aquí no se puede leer ningún sensor; la velocidad de generación lo indica",
    ),
    # ---- engines ----
    "engine": _text("{name}", "{name}"),
    "engine_died": _text(
        "{name} dies at its start: {reason}",
        "{name} muere al arrancar: {reason}",
        "{remedy}",
        "{remedy}",
    ),
    "engine_built": _text(
        "{name} is built for this processor ({features})",
        "{name} está compilado para este procesador ({features})",
    ),
    "engine_units": _text(
        "{name} was built without {units}, which this processor has: about {factor} times slower",
        "{name} se compiló sin {units}, que este procesador tiene: unas {factor} veces más lento",
        "{remedy}",
        "{remedy}",
    ),
    "engine_slow": _text(
        "{name} is there, but did not tell its version in {seconds} s",
        "{name} está, pero no dijo su versión en {seconds} s",
    ),
    "engine_none": _text(
        "none: neither llama-cpp-python nor llama-server was found",
        "ninguno: no se encontró llama-cpp-python ni llama-server",
        "in Termux: pkg install llama-cpp; elsewhere: pip install llama-cpp-python==0.3.36",
        "en Termux: pkg install llama-cpp; en otros: pip install llama-cpp-python==0.3.36",
    ),
    # ---- Android ----
    "phantom_off": _text(
        "Android {version}: child processes are not limited",
        "Android {version}: los procesos hijos no están limitados",
    ),
    "phantom_none": _text(
        "Android {version} has no limit on child processes",
        "Android {version} no limita los procesos hijos",
    ),
    "phantom_14": _text(
        "Android {version} ends child processes above {limit} of all apps together, and busy ones "
        "in the background (signal 9). An app can rarely see whether that was switched off",
        "Android {version} termina los procesos hijos que pasan de {limit} entre todas las "
        "aplicaciones, y los activos en segundo plano (señal 9). Una aplicación rara vez puede ver "
        "si eso se desactivó",
        "Settings, System, Developer options, Disable child process restrictions: on (Developer "
        "options appear after 7 taps on the build number). Or from a computer: " + _ADB,
        "Ajustes, Sistema, Opciones de desarrollador, la de las restricciones de procesos "
        "secundarios (Disable child process restrictions): activar (las opciones aparecen tras 7 "
        "toques en el número de compilación). O desde una computadora: " + _ADB,
    ),
    "phantom_12": _text(
        "Android {version} ends child processes above {limit} of all apps together, and busy ones "
        "in the background (signal 9). An app can rarely see whether that was switched off",
        "Android {version} termina los procesos hijos que pasan de {limit} entre todas las "
        "aplicaciones, y los activos en segundo plano (señal 9). Una aplicación rara vez puede ver "
        "si eso se desactivó",
        "from a computer: " + _ADB + " (Android 12 without L: " + _ADB_12 + ")",
        "desde una computadora: " + _ADB + " (Android 12 sin L: " + _ADB_12 + ")",
    ),
    "battery": _text(
        "an app cannot see whether Android may put Termux to sleep",
        "una aplicación no puede ver si Android puede dormir a Termux",
        "once: Settings, Apps, Termux, Battery, Unrestricted. For each long session: "
        "termux-wake-lock before, termux-wake-unlock after",
        "una vez: Ajustes, Aplicaciones, Termux, Batería, Sin restricciones. En cada sesión larga: "
        "termux-wake-lock antes, termux-wake-unlock después",
    ),
    "termux": _text("Termux {version} from {source}", "Termux {version} de {source}"),
    "termux_play": _text(
        "Termux {version} from Google Play: a restricted build with other packages",
        "Termux {version} de Google Play: una versión restringida con otros paquetes",
        "save your files, uninstall it and install Termux from F-Droid: "
        "https://f-droid.org/packages/com.termux/",
        "guarde sus archivos, desinstálelo e instale Termux desde F-Droid: "
        "https://f-droid.org/packages/com.termux/",
    ),
    "termux_unknown": _text(
        "Android without Termux' environment: where it is from is not known",
        "Android sin el entorno de Termux: no se sabe de dónde viene",
        "use Termux from F-Droid: https://f-droid.org/packages/com.termux/",
        "use Termux de F-Droid: https://f-droid.org/packages/com.termux/",
    ),
    # ---- model ----
    "model_none": _text(
        "none was given",
        "no se dio ninguno",
        "pedsup-run doctor MODEL says whether a model fits",
        "pedsup-run doctor MODELO dice si un modelo cabe",
    ),
    "model_bad": _text("{reason}", "{reason}", "{remedy}", "{remedy}"),
    "model_missing": _text(
        "there is no file {path}",
        "no existe el archivo {path}",
        "give the path of a .gguf file; install.sh puts it into ~/pedsup",
        "indique la ruta de un archivo .gguf; install.sh lo deja en ~/pedsup",
    ),
    "model_elsewhere": _text(
        "there is no file {path}",
        "no existe el archivo {path}",
        "pedsup-run doctor {near}",
        "pedsup-run doctor {near}",
    ),
    "model_fits": _text(
        "{name} needs {need} for a context of {ctx} tokens and fits; the largest context that "
        "fits is {largest}",
        "{name} necesita {need} para un contexto de {ctx} tokens y cabe; el mayor contexto que "
        "cabe es {largest}",
    ),
    "model_pages": _text(
        "{name} needs {need} and {available} can be taken: it would be read again from storage "
        "for each token",
        "{name} necesita {need} y se pueden tomar {available}: se volvería a leer del "
        "almacenamiento en cada token",
        "{remedy}",
        "{remedy}",
    ),
    "model_refused": _text(
        "{name} needs {need}, of which {anonymous} cannot be paged out, and {available} can be "
        "taken: the system would kill it",
        "{name} necesita {need}, de los que {anonymous} no se pueden paginar, y se pueden tomar "
        "{available}: el sistema lo mataría",
        "{remedy}",
        "{remedy}",
    ),
    "settings_bad": _text(
        "the settings file is not used here: {reason}",
        "el archivo de opciones no se usa aquí: {reason}",
        "correct {file}, or delete it",
        "corrija {file}, o bórrelo",
    ),
    "tuned": _text("measured on {date}: {values}", "medido el {date}: {values}"),
    "not_tuned": _text(
        "this model was not measured on this device",
        "este modelo no se ha medido en este dispositivo",
        "pedsup-run tune {file} takes about 2 minutes",
        "pedsup-run tune {file} tarda unos 2 minutos",
    ),
}
