#!/usr/bin/env bash
# Installs the Debian packages that the lab and the bench drive. Never fails: what cannot be installed is named,
# and the tests that need it are skipped with the same reason.
set -uo pipefail

declare -A package_of=(
  [sipp]=sip-tester
  [baresip]=baresip-core
  [kamailio]=kamailio
  [rtpengine]=rtpengine-daemon
  [tshark]=tshark
  [tcpdump]=tcpdump
  [ip]=iproute2
  [nft]=nftables
  [turnserver]=coturn
  [systemd-analyze]=systemd
  [cc]=build-essential
  [clang]=clang
)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

wanted=()
for command in "${!package_of[@]}"; do
  command -v "$command" >/dev/null || wanted+=("${package_of[$command]}")
done
[ ${#wanted[@]} = 0 ] && exit 0

skipping="tests that need them are skipped"
if ! command -v apt-get >/dev/null; then
  echo "packages: not found: ${wanted[*]} (Debian's names); install them by hand; $skipping" >&2
  exit 0
fi
if [ "$(id -u)" != 0 ]; then
  echo "packages: to run everything: sudo apt-get install --no-install-recommends ${wanted[*]}; $skipping" >&2
  exit 0
fi

# Debian starts a daemon when it is installed, unless this file says 101: nothing of ours wants them as services.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
echo "packages: installing ${wanted[*]}"
if ! apt-get update -qq </dev/null; then
  echo "packages: apt-get update failed" >&2
fi
for package in "${wanted[@]}"; do
  # One by one: a package that this release does not have must not keep the others away.
  if ! apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "$package" </dev/null >/dev/null; then
    echo "packages: $package cannot be installed; $skipping" >&2
  fi
done
exit 0
