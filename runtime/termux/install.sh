#!/bin/sh
# Installs pedsup in Termux, on the phone. Nothing is compiled, root is not needed.
#
#   sh install.sh            from the folder that `make phone-bundle` makes (SD card, Download)
#   sh install.sh --help     every option
#
# It can be stopped at any moment and run again: what is done stays done, what was half done is
# finished, and nothing half-copied ever has its final name.
set -u

COPY_BLOCK=1048576 # bytes; part files are whole multiples of it
COPY_SLICE=${PEDSUP_COPY_SLICE:-256} # blocks between two progress lines
UNPACKED=5 # how many times the size of its wheels the program takes, compiled files included
MARK='# pedsup launcher, written by install.sh'

# ---- saying what happens ----------------------------------------------------------------------

# Each text comes twice, in English and in Spanish.
say() {
    if [ "$language" = es ]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi
}

step() {
    if [ "$language" = es ]; then printf '\n* %s\n' "$2"; else printf '\n* %s\n' "$1"; fi
}

# fail CODE ENGLISH SPANISH
fail() {
    code=$1
    shift
    {
        printf '\n'
        if [ "$language" = es ]; then printf 'error: %s\n' "$2"; else printf 'error: %s\n' "$1"; fi
    } >&2
    exit "$code"
}

# Termux sets LANG to en_US whatever the phone speaks: Android's own setting is asked too.
find_language() {
    for value in "${LC_ALL:-}" "${LC_MESSAGES:-}" "${LANG:-}"; do
        case $value in es*) language=es && return ;; esac
    done
    case $(getprop persist.sys.locale 2>/dev/null) in es*) language=es ;; *) language=en ;; esac
}

usage() {
    say "sh install.sh [OPTIONS]
  --no-model          install the program only
  --model-dir FOLDER  where the model goes (default: $HOME/pedsup)
  --debs FOLDER       install Termux's own packages from the .deb files in this folder
  --wheel FILE        install this wheel of pedsup, its dependencies from the internet
  --uninstall         remove the program (models and conversations stay)
  --lang en|es        language of the messages
  --help              this text" "sh install.sh [OPCIONES]
  --no-model           instalar solo el programa
  --model-dir CARPETA  dónde va el modelo (si no se indica: $HOME/pedsup)
  --debs CARPETA       instalar los paquetes de Termux desde los .deb de esta carpeta
  --wheel ARCHIVO      instalar este wheel de pedsup y sus dependencias desde internet
  --uninstall          quitar el programa (los modelos y las conversaciones se quedan)
  --lang en|es         idioma de los mensajes
  --help               este texto"
}

# ---- small tools ------------------------------------------------------------------------------

have() { command -v "$1" >/dev/null 2>&1; }

size_of() { stat -c %s "$1" 2>/dev/null || wc -c <"$1"; }

sha_of() {
    sum=$(sha256sum "$1") || return 1
    printf '%s\n' "${sum%% *}"
}

# Free bytes on the disk of an existing folder.
free_bytes() {
    df -Pk "$1" 2>/dev/null | {
        read -r _
        read -r _ _ _ kib _
        case ${kib:-x} in *[!0-9]*) return 1 ;; esac
        printf '%s\n' "$((kib * 1024))"
    }
}

need_room() {
    room=$(free_bytes "$1") || return 0 # a df that cannot tell is no reason to refuse
    [ "$room" -ge "$2" ] && return 0
    fail 7 "not enough free space in $1: $((room / 1000000)) MB are free, $(($2 / 1000000)) MB are needed.
Delete photos, videos or apps, then run this again." \
        "no hay espacio en $1: hay $((room / 1000000)) MB libres y hacen falta $(($2 / 1000000)) MB.
Borre fotos, videos o aplicaciones y ejecute esto de nuevo."
}

# The lines of the bundle's SHA256SUMS for the model's parts (-e) or for all other files (-v).
sums() { grep "$1" '[ *]models/.*\.gguf\(\.part[0-9]*\)\{0,1\}$' "$here/SHA256SUMS"; }

# The wheels that SHA256SUMS names; a computer may have left other files on the card.
wheels() { sums -v | sed -n "s|^[0-9a-f]* [ *]wheels/|$here/wheels/|p"; }

# The files of a list of sums on standard input that are not as listed.
damaged() { (cd "$here" && sha256sum -c - 2>/dev/null | grep -v ': OK$'); }

# ---- one at a time ----------------------------------------------------------------------------

take_lock() {
    mkdir -p "$home" || fail 6 "cannot make the folder $home" "no se puede crear la carpeta $home"
    if ! mkdir "$home/install.lock" 2>/dev/null; then
        other=$(cat "$home/install.lock/pid" 2>/dev/null)
        if [ -n "$other" ] && grep -q install "/proc/$other/cmdline" 2>/dev/null; then
            fail 6 "another installation is running (process $other): wait for it to end" \
                "ya hay otra instalación en marcha (proceso $other): espere a que termine"
        fi
        # Its owner was killed: the lock is ours.
    fi
    printf '%s\n' "$$" >"$home/install.lock/pid"
    trap 'rm -rf "$home/install.lock"' EXIT
    trap 'stopped' HUP INT TERM
}

stopped() {
    say "
Stopped. Run this again: it goes on where it was." "
Detenido. Ejecútelo de nuevo: sigue donde estaba." >&2
    exit 130
}

# ---- steps ------------------------------------------------------------------------------------

check_place() {
    [ "$(id -u)" -ne 0 ] || [ -n "${PEDSUP_ALLOW_ROOT:-}" ] || fail 2 \
        "do not run this as root: Termux needs none" "no ejecute esto como root: Termux no lo necesita"
    if [ -z "${PREFIX:-}" ] || ! have pkg; then
        fail 2 "this is not Termux. Open the app Termux on the phone and run it there:
  sh $0" "esto no es Termux. Abra la aplicación Termux en el teléfono y ejecútelo allí:
  sh $0"
    fi
    case $(uname -m) in
        aarch64 | arm64 | x86_64) ;;
        *) fail 4 "this phone runs 32-bit programs only ($(uname -m)); Termux has no llama.cpp for it" \
            "este teléfono solo ejecuta programas de 32 bits ($(uname -m)); Termux no tiene llama.cpp para él" ;;
    esac
}

check_bundle() {
    [ "$source" = bundle ] || return 0
    step "Checking the files of $here" "Comprobando los archivos de $here"
    [ -f "$here/SHA256SUMS" ] || fail 3 "the file SHA256SUMS is missing in $here: copy the whole folder again" \
        "falta el archivo SHA256SUMS en $here: copie de nuevo la carpeta entera"
    [ -n "$(wheels)" ] || fail 3 "the file SHA256SUMS is damaged in $here: copy the whole folder again" \
        "el archivo SHA256SUMS está dañado en $here: copie de nuevo la carpeta entera"
    bad=$(sums -v | damaged)
    [ -z "$bad" ] || fail 3 "these files are damaged or missing; copy the whole folder again:
$bad" "estos archivos están dañados o faltan; copie de nuevo la carpeta entera:
$bad"
    say "  all right" "  todo bien"
}

python_is_new() {
    have python && python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

missing_packages() {
    python_is_new || printf ' python'
    have llama-server || printf ' llama-cpp'
}

install_packages() {
    step "Termux packages: python, llama-cpp" "Paquetes de Termux: python, llama-cpp"
    missing=$(missing_packages)
    if [ -n "$missing" ]; then
        say "  installing:$missing" "  instalando:$missing"
        if [ -n "$debs" ]; then
            dpkg -i "$debs"/*.deb </dev/null
        else
            # shellcheck disable=SC2086 # one word per package
            DPKG_FORCE=confold DEBIAN_FRONTEND=noninteractive pkg install -y $missing </dev/null
        fi
        hash -r
    fi
    missing=$(missing_packages)
    [ -z "$missing" ] || fail 8 "Termux could not install:$missing
Connect to the internet, run 'pkg upgrade', then run this again.
Without internet: give the packages' .deb files with --debs FOLDER (README.txt says how)." \
        "Termux no pudo instalar:$missing
Conéctese a internet, ejecute 'pkg upgrade' y después esto de nuevo.
Sin internet: indique los archivos .deb con --debs CARPETA (LEEME.txt explica cómo)."
    say "  python $(python -c 'import platform; print(platform.python_version())'), $(command -v llama-server)" \
        "  python $(python -c 'import platform; print(platform.python_version())'), $(command -v llama-server)"
    llama-server --version >/dev/null 2>&1
    case $? in
        0) ;;
        132) fail 9 "llama-server meets an instruction that this processor does not have: run 'pkg upgrade', then this again" \
            "llama-server usa una instrucción que este procesador no tiene: ejecute 'pkg upgrade' y después esto de nuevo" ;;
        *) fail 9 "llama-server does not start; run 'pkg upgrade', then this again. It says:
$(llama-server --version 2>&1 | tail -n 3)" \
            "llama-server no arranca; ejecute 'pkg upgrade' y después esto de nuevo. Dice:
$(llama-server --version 2>&1 | tail -n 3)" ;;
    esac
}

# What identifies the version to install: the digest of the wheels, or of the given wheel.
app_id() {
    case $source in
        bundle) id=$(sums -v | grep 'wheels/' | sort | sha256sum) ;;
        wheel) id=$(sha256sum <"$wheel") ;;
        tree) id=$(date +%s) ;; # a working tree has no version of its own
    esac
    printf '%.12s\n' "$id"
}

# pip without its settings files and variables. A bundle carries its own pip.
run_pip() {
    if [ "$source" = bundle ]; then
        python -I "$(wheels | grep '/pip-[^/]*$' | head -n 1)/pip" "$@"
        return
    fi
    if ! python -m pip --version >/dev/null 2>&1; then
        DEBIAN_FRONTEND=noninteractive pkg install -y python-pip </dev/null || return 1
    fi
    python -m pip "$@"
}

pip_install() {
    set -- --isolated install --quiet --no-input --disable-pip-version-check \
        --no-warn-script-location --root-user-action ignore --target "$1"
    case $source in
        bundle)
            # Exactly the checked wheels: nothing to resolve, to fetch or to build.
            wheels | grep -v '/pip-[^/]*$' >"$home/install.lock/wheels"
            run_pip "$@" --no-index --no-deps --no-cache-dir --only-binary :all: \
                --requirement "$home/install.lock/wheels"
            ;;
        # Without a compiler nothing else can be built here; all others have wheels or are Python.
        wheel) run_pip "$@" --only-binary llama-cpp-python,numpy "$wheel" ;;
        tree) run_pip "$@" --only-binary llama-cpp-python,numpy "$tree" ;;
    esac
}

# Bytes that the program may take: of the wheels, or what a download of them comes to.
app_room() {
    [ "$source" = bundle ] || { echo 104857600 && return; }
    wheels | {
        total=0
        while IFS= read -r file; do total=$((total + $(size_of "$file"))); done
        printf '%s\n' "$((total * UNPACKED + COPY_BLOCK))"
    }
}

install_app() {
    step "The program pedsup" "El programa pedsup"
    apps=$home/app
    mkdir -p "$apps" || fail 6 "cannot make the folder $apps" "no se puede crear la carpeta $apps"
    # What a killed run left.
    rm -rf "$apps"/*.partial
    app=$apps/$(app_id)
    if [ -d "$app" ] && runs "$app"; then
        say "  already installed" "  ya está instalado"
    else
        need_room "$apps" "$(app_room)"
        rm -rf "$app"
        pip_install "$app.partial" || fail 8 "pip could not install pedsup; the lines above say why" \
            "pip no pudo instalar pedsup; las líneas de arriba dicen por qué"
        runs "$app.partial" || fail 9 "the installed program does not start; please report the lines above" \
            "el programa instalado no arranca; comunique las líneas de arriba"
        sync
        mv "$app.partial" "$app" || fail 6 "cannot rename $app.partial" "no se puede renombrar $app.partial"
        say "  installed in $app" "  instalado en $app"
    fi
    write_launcher "$app"
    write_page_launcher
    for old in "$apps"/*; do
        [ "$old" = "$app" ] || rm -rf "$old"
    done
}

# Whether the program in a folder starts.
runs() { PYTHONPATH=$1 python -P -m pedsup --version >/dev/null; }

# Text on standard input becomes an executable file; another one of that name is kept.
write_program() {
    if [ -e "$1" ] && ! grep -qF "$MARK" "$1"; then
        mv "$1" "$1.old"
        say "  another ${1##*/} was there: kept as $1.old" \
            "  ya había otro ${1##*/}: se conserva como $1.old"
    fi
    { printf '#!%s\n%s\n' "$(command -v sh)" "$MARK" && cat; } >"$1.partial" ||
        fail 6 "cannot write $1" "no se puede escribir $1"
    chmod 755 "$1.partial"
    mv "$1.partial" "$1"
}

# pedsup-run, by a relative name of Python: an upgrade of Termux's Python does not break it,
# because everything in the folder is pure Python.
write_launcher() {
    write_program "$PREFIX/bin/pedsup-run" <<LAUNCHER
exec env PYTHONPATH='$1'\${PYTHONPATH:+":\$PYTHONPATH"} python -P -m pedsup "\$@"
LAUNCHER
}

# pedsup: one short command that opens the page; and the same for Termux:Widget's home screen.
write_page_launcher() {
    write_program "$PREFIX/bin/pedsup" <<LAUNCHER
# pedsup [MODEL.gguf] [OPTIONS of pedsup-run]: opens the page; Ctrl-C ends it. A model that is
# given is the one from then on.
chosen='$home/page-model'
case \${1:-} in
    *.gguf)
        [ -f "\$1" ] || exec pedsup-run "\$1"
        printf '%s/%s\n' "\$(cd "\$(dirname "\$1")" && pwd)" "\${1##*/}" >"\$chosen.partial" &&
            mv "\$chosen.partial" "\$chosen"
        shift
        ;;
esac
model='' adapter=''
[ ! -f "\$chosen" ] || { IFS= read -r model && IFS= read -r adapter; } <"\$chosen"
[ -f "\$model" ] || exec pedsup-run
pedsup-run --serve --json \${adapter:+--adapter "\$adapter"} "\$@" "\$model" |
    while IFS= read -r line; do
        url=\$(printf '%s\n' "\$line" | sed -n 's/.*"url": "\([^"]*\)".*/\1/p')
        [ -z "\$url" ] || termux-open-url "\$url"
    done
LAUNCHER
    mkdir -p "$HOME/.shortcuts" && chmod 700 "$HOME/.shortcuts"
    printf 'exec %s\n' "$PREFIX/bin/pedsup" | write_program "$HOME/.shortcuts/pedsup"
}

# Which model the page opens with: the one that was just installed, or the one that was there,
# with the adapter that was just installed.
choose_model() {
    chosen=$model
    [ -n "$chosen" ] || [ -z "$adapter" ] || [ ! -f "$home/page-model" ] || read -r chosen <"$home/page-model"
    [ -n "$chosen" ] || return 0
    printf '%s\n%s\n' "$chosen" "$adapter" >"$home/page-model.partial" &&
        mv "$home/page-model.partial" "$home/page-model"
}

# Messages of pedsup-run in Spanish too: it cannot ask Android.
write_settings() {
    settings=${XDG_CONFIG_HOME:-$HOME/.config}/pedsup/settings.toml
    [ "$language" = es ] && [ ! -e "$settings" ] || return 0
    mkdir -p "${settings%/*}"
    printf 'lang = "es"\n' >"$settings.partial"
    mv "$settings.partial" "$settings"
    say "  messages in Spanish: $settings" "  mensajes en español: $settings"
}

# name, size, sha256 and parts of the bundle's model.
read_model() {
    name='' size='' sha256='' parts=''
    while IFS='=' read -r key value; do
        case $key in
            name) name=$value ;;
            size) size=$value ;;
            sha256) sha256=$value ;;
            parts) parts=$value ;;
        esac
    done <"$here/models/MODEL"
    case $name in '' | */* | .*) fail 3 "models/MODEL is damaged" "models/MODEL está dañado" ;; esac
    for value in "$size" "$parts"; do
        case $value in '' | 0* | *[!0-9]*) fail 3 "models/MODEL is damaged" "models/MODEL está dañado" ;; esac
    done
}

# The files on the card that make up the model, in order.
model_files() {
    if [ "$parts" -eq 1 ]; then
        printf '%s\n' "$here/models/$name"
        return
    fi
    n=1
    while [ "$n" -le "$parts" ]; do
        printf '%s/models/%s.part%02d\n' "$here" "$name" "$n"
        n=$((n + 1))
    done
}

# The model on the card, before minutes of copying: all files there, and of the right size.
check_card() {
    missing=$(model_files | while IFS= read -r file; do [ -f "$file" ] || printf '%s\n' "$file"; done)
    [ -z "$missing" ] || fail 3 "files of the model are missing; copy the whole folder again:
$missing" "faltan archivos del modelo; copie de nuevo la carpeta entera:
$missing"
    total=$(model_files | {
        total=0
        while IFS= read -r file; do total=$((total + $(size_of "$file"))); done
        printf '%s\n' "$total"
    })
    [ "$total" -eq "$size" ] || fail 3 \
        "the model on the card has $total bytes, not $size: it was not copied whole. Copy the folder again.
(A card with the format FAT32 takes no file of 4 GB: let 'make phone-bundle' cut the model in parts.)" \
        "el modelo de la tarjeta tiene $total bytes y no $size: no se copió entero. Copie la carpeta de nuevo.
(Una tarjeta con formato FAT32 no admite archivos de 4 GB: deje que 'make phone-bundle' parta el modelo.)"
}

check_target() {
    [ "$size" -gt 4294967295 ] && [ "$(stat -f -c %T "$model_dir" 2>/dev/null)" = msdos ] && fail 6 \
        "$model_dir is on a FAT32 disk, which takes no file of 4 GB: give another --model-dir, or none" \
        "$model_dir está en un disco FAT32, que no admite archivos de 4 GB: indique otro --model-dir, o ninguno"
    there=0
    [ ! -f "$partial" ] || there=$(size_of "$partial")
    [ "$there" -lt "$size" ] || there=$size
    need_room "$model_dir" "$((size - there + COPY_BLOCK))"
}

# copy_slice FILE FIRST_BLOCK POSITION: append one slice to the partial file.
copy_slice() {
    dd if="$1" of="$partial" bs="$COPY_BLOCK" count="$COPY_SLICE" conv=notrunc \
        skip="$2" seek="$(($3 / COPY_BLOCK))" 2>/dev/null
}

# Copy what the partial file lacks. A copy that was stopped goes on at its last whole block.
copy_model() {
    done_bytes=0
    [ -f "$partial" ] && done_bytes=$(($(size_of "$partial") / COPY_BLOCK * COPY_BLOCK))
    [ "$done_bytes" -le "$size" ] || done_bytes=0
    [ "$done_bytes" -gt 0 ] || rm -f "$partial"
    [ "$done_bytes" -eq 0 ] || say "  going on at $((done_bytes * 100 / size)) %" "  sigue en el $((done_bytes * 100 / size)) %"
    begin=0
    model_files | while IFS= read -r file; do
        end=$((begin + $(size_of "$file")))
        while [ "$done_bytes" -lt "$end" ]; do
            want=$((done_bytes + COPY_SLICE * COPY_BLOCK))
            [ "$want" -le "$end" ] || want=$end
            copy_slice "$file" "$(((done_bytes - begin) / COPY_BLOCK))" "$done_bytes" || return 1
            [ "$(size_of "$partial")" -ge "$want" ] || return 1
            done_bytes=$want
            say "  copied: $((done_bytes * 100 / size)) %" "  copiado: $((done_bytes * 100 / size)) %"
        done
        begin=$end
    done
}

copy_and_check() {
    for attempt in 1 2; do
        copy_model || fail 6 "copying stopped: the card was removed, or the phone's storage is full or broken.
Run this again: it goes on where it was." "la copia se detuvo: se retiró la tarjeta, o el almacenamiento está lleno o averiado.
Ejecute esto de nuevo: sigue donde estaba."
        say "  checking the copy (a minute or two)" "  comprobando la copia (un minuto o dos)"
        [ "$(size_of "$partial")" -eq "$size" ] && [ "$(sha_of "$partial")" = "$sha256" ] && return 0
        # A sudden power cut leaves a copy with holes: once more from the beginning.
        rm -f "$partial"
        [ "$attempt" -eq 2 ] || say "  the copy is damaged: copying again" "  la copia está dañada: se copia de nuevo"
    done
    bad=$(sums -e | damaged)
    fail 3 "the model is damaged and was not installed: its SHA-256 is not the one in models/MODEL.
${bad:-The files on the card read well one by one: the card or the phone may be failing.}
Copy the folder to the card again." "el modelo está dañado y no se instaló: su SHA-256 no es el de models/MODEL.
${bad:-Los archivos de la tarjeta se leen bien uno a uno: quizá fallan la tarjeta o el teléfono.}
Copie de nuevo la carpeta a la tarjeta."
}

install_model() {
    [ "$source" = bundle ] && [ -f "$here/models/MODEL" ] && [ "$with_model" = yes ] || return 0
    read_model
    step "The model: $name, $((size / 1000000)) MB" "El modelo: $name, $((size / 1000000)) MB"
    mkdir -p "$model_dir" || fail 6 "cannot make the folder $model_dir" "no se puede crear la carpeta $model_dir"
    model=$model_dir/$name partial=$model_dir/.$name.partial
    if [ -f "$model" ] && [ "$(size_of "$model")" -eq "$size" ]; then
        say "  there already: checking it (a minute or two)" "  ya está: se comprueba (un minuto o dos)"
        if [ "$(sha_of "$model")" = "$sha256" ]; then
            rm -f "$partial"
            copy_beside
            say "  all right" "  todo bien"
            return 0
        fi
        say "  it is damaged: copying again" "  está dañado: se copia de nuevo"
        rm -f "$model" # of no use, and in the way of its successor
    fi
    check_card
    check_target
    copy_and_check
    copy_beside
    sync
    mv "$partial" "$model" || fail 6 "cannot rename $partial" "no se puede renombrar $partial"
    say "  installed: $model" "  instalado: $model"
}

# The manifest and the signature: small files that were checked with the bundle.
copy_beside() {
    for file in "$here/models/$name".*; do
        case $file in *.part[0-9]* | *'*') continue ;; esac
        if ! cp "$file" "$model_dir/.${file##*/}.partial" ||
            ! mv "$model_dir/.${file##*/}.partial" "$model_dir/${file##*/}"; then
            fail 6 "cannot copy $file" "no se puede copiar $file"
        fi
    done
}

# The projector of the models folder that has these bytes, under whatever name: pedsup-run finds it
# by what the model's manifest says of its content.
projector_here() {
    for file in "$model_dir/$name" "$model_dir"/mmproj-*.gguf; do
        if [ -f "$file" ] && [ "$(size_of "$file")" -eq "$bytes" ] && [ "$(sha_of "$file")" = "$sha256" ]; then
            printf '%s\n' "$file"
            return 0
        fi
    done
    return 1
}

# The projector, with which a model sees, goes beside it under a name that follows the model's.
install_projector() {
    [ "$source" = bundle ] && [ -f "$here/models/MMPROJ" ] && [ "$with_model" = yes ] || return 0
    name=$(sed -n 's/^name=//p' "$here/models/MMPROJ")
    sha256=$(sed -n 's/^sha256=//p' "$here/models/MMPROJ")
    bytes=$(sed -n 's/^size=//p' "$here/models/MMPROJ")
    case $name in '' | */* | .*) fail 3 "models/MMPROJ is damaged" "models/MMPROJ está dañado" ;; esac
    case $bytes in '' | 0* | *[!0-9]*) fail 3 "models/MMPROJ is damaged" "models/MMPROJ está dañado" ;; esac
    [ -f "$here/models/$name" ] || fail 3 "files of the projector are missing; copy the whole folder again: $name" \
        "faltan archivos del proyector; copie de nuevo la carpeta entera: $name"
    step "The projector, for pictures: $name" "El proyector, para imágenes: $name"
    if found=$(projector_here); then
        say "  there already: $found" "  ya está: $found"
        return 0
    fi
    need_room "$model_dir" "$((bytes + COPY_BLOCK))"
    if ! cp "$here/models/$name" "$model_dir/.$name.partial"; then
        fail 6 "cannot copy $name" "no se puede copiar $name"
    fi
    [ "$(sha_of "$model_dir/.$name.partial")" = "$sha256" ] || fail 3 \
        "the projector is damaged: copy the folder again" "el proyector está dañado: copie de nuevo la carpeta"
    sync
    mv "$model_dir/.$name.partial" "$model_dir/$name" || fail 6 "cannot rename $name" "no se puede renombrar $name"
    say "  installed: $model_dir/$name" "  instalado: $model_dir/$name"
}

# An adapter goes beside its base, which may be on the phone already.
install_adapter() {
    [ "$source" = bundle ] && [ -f "$here/models/ADAPTER" ] && [ "$with_model" = yes ] || return 0
    name=$(sed -n 's/^name=//p' "$here/models/ADAPTER")
    sha256=$(sed -n 's/^sha256=//p' "$here/models/ADAPTER")
    case $name in '' | */* | .*) fail 3 "models/ADAPTER is damaged" "models/ADAPTER está dañado" ;; esac
    step "The adapter: $name" "El adaptador: $name"
    mkdir -p "$model_dir" || fail 6 "cannot make the folder $model_dir" "no se puede crear la carpeta $model_dir"
    if ! cp "$here/models/$name" "$model_dir/.$name.partial"; then
        fail 6 "cannot copy $name" "no se puede copiar $name"
    fi
    [ "$(sha_of "$model_dir/.$name.partial")" = "$sha256" ] || fail 3 \
        "the adapter is damaged: copy the folder again" "el adaptador está dañado: copie de nuevo la carpeta"
    copy_beside
    sync
    mv "$model_dir/.$name.partial" "$model_dir/$name" || fail 6 "cannot rename $name" "no se puede renombrar $name"
    adapter=$model_dir/$name
    say "  installed: $adapter" "  instalado: $adapter"
}

# A patch makes the new model of the old one that is here. pedsup-run checks both, and goes on
# where it was stopped. Where there is no room for two models it works in place.
apply_patch() {
    [ "$source" = bundle ] && [ -f "$here/patches/PATCH" ] && [ "$with_model" = yes ] || return 0
    patch=$(sed -n 's/^name=//p' "$here/patches/PATCH")
    old=$(sed -n 's/^old=//p' "$here/patches/PATCH")
    new=$(sed -n 's/^new=//p' "$here/patches/PATCH")
    size=$(sed -n 's/^size=//p' "$here/patches/PATCH")
    for value in "$patch" "$old" "$new"; do
        case $value in '' | */* | .*) fail 3 "patches/PATCH is damaged" "patches/PATCH está dañado" ;; esac
    done
    case $size in '' | 0* | *[!0-9]*) fail 3 "patches/PATCH is damaged" "patches/PATCH está dañado" ;; esac
    step "The new version: $new" "La nueva versión: $new"
    model=$model_dir/$new
    if [ -f "$model" ] && [ "$old" != "$new" ]; then
        say "  there already: $model" "  ya está: $model"
        return 0
    fi
    [ -f "$model_dir/$old" ] || [ -d "$model_dir/.$old.patch" ] || fail 2 \
        "the old model $model_dir/$old is not here; give its folder with --model-dir, or install the whole new one" \
        "el modelo anterior $model_dir/$old no está; indique su carpeta con --model-dir, o instale el nuevo entero"
    room=$(free_bytes "$model_dir") || room=$((size + COPY_BLOCK))
    if [ "$old" = "$new" ] || [ -d "$model_dir/.$old.patch" ] ||
        { [ ! -d "$model_dir/.$new.patch" ] && [ "$room" -lt "$((size + COPY_BLOCK))" ]; }; then
        model=$model_dir/$old
        set -- "$model" "$here/patches/$patch" --in-place
    else
        set -- "$model_dir/$old" "$here/patches/$patch" --out "$model"
    fi
    "$PREFIX/bin/pedsup-run" patch "$@" --lang "$language" || fail 3 \
        "the new version was not made; the lines above say why. Run this again: it goes on where it was." \
        "no se hizo la nueva versión; las líneas de arriba dicen por qué. Ejecute esto de nuevo: sigue donde estaba."
}

uninstall() {
    rm -rf "$home/app"
    for target in "$PREFIX/bin/pedsup-run" "$PREFIX/bin/pedsup" "$HOME/.shortcuts/pedsup"; do
        if [ -e "$target" ] && grep -qF "$MARK" "$target"; then rm -f "$target"; fi
    done
    rm -f "$home/page-model"
    say "pedsup was removed. Models in $model_dir and conversations in $home stay; python and llama-cpp too." \
        "pedsup se ha quitado. Se quedan los modelos en $model_dir y las conversaciones en $home, y también python y llama-cpp."
}

finish() {
    version=$("$PREFIX/bin/pedsup-run" --version)
    if [ -f "$home/page-model" ]; then
        step "Ready. $version. Open the page with:" "Listo. $version. Abra la página con:"
        say "    pedsup" "    pedsup"
        say "or chat here, in the terminal:" "o converse aquí, en la terminal:"
    else
        step "Ready. $version. Start with:" "Listo. $version. Empiece con:"
    fi
    say "    pedsup-run ${model:-MODEL.gguf}${adapter:+ --adapter $adapter}" \
        "    pedsup-run ${model:-MODELO.gguf}${adapter:+ --adapter $adapter}"
    case $here in
        "$HOME"/storage/downloads/* | /storage/emulated/* | /sdcard/*)
            [ ! -f "$here/models/MODEL" ] || [ -z "$model" ] || say "The folder $here is not needed any more; deleting it frees $((size / 1000000)) MB." \
                "La carpeta $here ya no hace falta; si la borra, quedan libres $((size / 1000000)) MB más."
            ;;
    esac
    say "Research only, not a medical device. A professional reviews every output." \
        "Solo para investigación, no es un dispositivo médico. Un profesional revisa cada respuesta."
}

# ---- main -------------------------------------------------------------------------------------

# Where the pedsup to install is: the bundle beside this script, a given wheel, or this repository.
find_source() {
    here=$(cd "$(dirname "$0")" && pwd)
    tree=$(cd "$here/../.." 2>/dev/null && pwd)
    if [ -n "$wheel" ]; then
        source=wheel
        [ -f "$wheel" ] || fail 2 "there is no file $wheel" "no existe el archivo $wheel"
    elif [ -d "$here/wheels" ] || [ -f "$here/SHA256SUMS" ]; then
        source=bundle
        [ -n "$debs" ] || [ ! -d "$here/debs" ] || debs=$here/debs
    elif [ -f "$tree/pyproject.toml" ]; then
        source=tree
    else
        fail 2 "the folder $here is not the one that 'make phone-bundle' makes: copy all of it, or give --wheel FILE" \
            "la carpeta $here no es la que hace 'make phone-bundle': cópiela entera, o indique --wheel ARCHIVO"
    fi
    if [ -n "$debs" ]; then
        for file in "$debs"/*.deb; do
            [ -f "$file" ] || fail 2 "there are no .deb files in $debs" "no hay archivos .deb en $debs"
            break
        done
    fi
}

main() {
    find_language
    action=install with_model=yes model_dir=$HOME/pedsup debs='' wheel='' model='' adapter=''
    while [ $# -gt 0 ]; do
        case $1 in
            --no-model) with_model=no ;;
            --uninstall) action=uninstall ;;
            --help | -h) usage && exit 0 ;;
            --model-dir | --debs | --wheel | --lang)
                [ $# -ge 2 ] || fail 2 "$1 needs a value" "$1 necesita un valor"
                case $1 in
                    --model-dir) model_dir=$2 ;;
                    --debs) debs=$2 ;;
                    --wheel) wheel=$2 ;;
                    --lang) case $2 in en | es) language=$2 ;; *) fail 2 "--lang takes en or es" "--lang admite en o es" ;; esac ;;
                esac
                shift
                ;;
            *) usage >&2 && fail 2 "unknown option $1" "opción desconocida $1" ;;
        esac
        shift
    done
    home=${XDG_DATA_HOME:-$HOME/.local/share}/pedsup
    check_place
    if [ "$action" = uninstall ]; then
        uninstall
        exit 0
    fi
    find_source
    take_lock
    check_bundle
    install_packages
    install_app
    write_settings
    install_model
    install_projector
    install_adapter
    apply_patch
    choose_model
    finish
}

main "$@"
