# Installs what vigie needs, for ./run and ./test to source. Debian 12; only package registries.
# Everything fetched by hand lands in .vigie/, and nothing that is there already is fetched again.

ONNXRUNTIME_VERSION=1.31.1
RUST_MINIMUM=1.92

BUILD_PACKAGES="build-essential pkg-config cmake clang libclang-dev libavcodec-dev libavformat-dev
  libavutil-dev libswscale-dev libopencv-core-dev libopencv-imgproc-dev python3 python3-pip"
TEST_PACKAGES="ffmpeg chromium firefox-esr coturn nats-server openssl curl jq iproute2 libfaketime python3-venv"
DEPLOY_PACKAGES="podman buildah runc debootstrap netavark aardvark-dns iptables prometheus python3-yaml"

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
fail() {
  printf '\nvigie: %s\n' "$1" >&2
  shift
  for hint in "$@"; do printf '  %s\n' "$hint" >&2; done
  exit 1
}

install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  # Node may come from elsewhere than Debian's packages.
  command -v npm >/dev/null || missing+=(nodejs npm)
  [ ${#missing[@]} -eq 0 ] && return
  say "Installing Debian packages: ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "these Debian packages are missing: ${missing[*]}" \
      "install them as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null || fail "this is not Debian, and these packages are missing: ${missing[*]}" \
    "install what they are called on your system, then run this again"
  "${as_root[@]}" apt-get update -q >/dev/null || fail "apt-get update failed" "is there a network?"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    "${missing[@]}" >/dev/null || fail "apt-get could not install: ${missing[*]}"
}

check_rust() {
  command -v cargo >/dev/null || { [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"; }
  command -v cargo >/dev/null || fail "Rust is missing" \
    "install Rust $RUST_MINIMUM or newer with rustup: https://rustup.rs"
  local have
  have=$(rustc --version | awk '{ print $2 }')
  [ "$(printf '%s\n%s\n' "$RUST_MINIMUM" "$have" | sort -V | head -n 1)" = "$RUST_MINIMUM" ] ||
    fail "Rust $have is too old: $RUST_MINIMUM or newer is needed" "update it: rustup update stable"
}

# The shared library out of the Python wheel; no Python is needed to run it.
install_onnxruntime() {
  local folder=.vigie/onnxruntime
  [ -f "$folder/libonnxruntime.so.$ONNXRUNTIME_VERSION" ] && return
  say "Fetching ONNX Runtime $ONNXRUNTIME_VERSION"
  local download
  download=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$download" \
    "onnxruntime==$ONNXRUNTIME_VERSION" || fail "ONNX Runtime $ONNXRUNTIME_VERSION could not be fetched" \
    "pip needs its package index; or put libonnxruntime.so.$ONNXRUNTIME_VERSION into $folder yourself"
  mkdir -p "$folder"
  python3 - "$download"/onnxruntime-*.whl "$folder" <<'PYTHON'
import os, sys, zipfile
wheel, folder = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        base = os.path.basename(name)
        if base.startswith("libonnxruntime") or name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
            part = os.path.join(folder, base + ".part")
            with open(part, "wb") as out:
                out.write(archive.read(name))
            os.rename(part, os.path.join(folder, base))
PYTHON
  rm -r "$download"
  [ -f "$folder/libonnxruntime.so.$ONNXRUNTIME_VERSION" ] ||
    fail "the ONNX Runtime package holds no libonnxruntime.so.$ONNXRUNTIME_VERSION"
}
