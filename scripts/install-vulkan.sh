#!/usr/bin/env bash
# Makes sure that some Vulkan device answers, for the tests on wgpu: where there is none, Mesa's software
# device (lavapipe) is installed on Debian and Ubuntu. Quick and without effect when a device is there.
#
# usage: scripts/install-vulkan.sh
set -euo pipefail

packages=(mesa-vulkan-drivers libvulkan1)

# A device answers if a driver is registered and the loader that finds it can be loaded. vulkaninfo would
# ask the driver itself, but is not installed everywhere and takes a window system for granted.
answers() {
  [ "$(uname -s)" = Linux ] || return 1
  loader || return 1
  if [ -n "${VK_DRIVER_FILES:-${VK_ICD_FILENAMES:-}}" ]; then return 0; fi
  local folder manifest library
  for folder in /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d "$HOME/.local/share/vulkan/icd.d"; do
    for manifest in "$folder"/*.json; do
      [ -f "$manifest" ] || continue
      # Drivers for hardware answer only where the hardware is: a render node, or the software device.
      library=$(sed -n 's/.*"library_path"[^"]*"\([^"]*\)".*/\1/p' "$manifest")
      case $library in
        *lvp* | *swiftshader*) return 0 ;;
        *) if compgen -G '/dev/dri/renderD*' >/dev/null || [ -e /dev/nvidiactl ]; then return 0; fi ;;
      esac
    done
  done
  return 1
}

loader() {
  { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -q 'libvulkan\.so\.1'
}

if answers; then exit 0; fi

if [ "$(uname -s)" = Darwin ]; then
  echo "wgpu runs on Metal here; nothing to install" >&2
elif command -v apt-get >/dev/null; then
  echo "no Vulkan device answers; installing ${packages[*]}" >&2
  "$(dirname "$0")/apt-install.sh" "${packages[@]}"
  answers || { echo "error: no Vulkan device answers, even after installing ${packages[*]}" >&2; exit 1; }
else
  echo "error: no Vulkan device answers. Install the Vulkan loader and Mesa's software device:" >&2
  echo "  Fedora:     dnf install vulkan-loader mesa-vulkan-drivers" >&2
  echo "  Arch:       pacman -S vulkan-icd-loader vulkan-swrast" >&2
  echo "  openSUSE:   zypper install libvulkan1 libvulkan_lvp" >&2
  echo "  Alpine:     apk add vulkan-loader mesa-vulkan-swrast" >&2
  exit 1
fi
