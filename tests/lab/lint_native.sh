#!/usr/bin/env bash
# The linters of what is written in C: the kernel program by clang, the load tool of the bench by gcc.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror)

if command -v clang >/dev/null; then
  "$python" -m media.fastpath.build
  include=/usr/include/$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH") or "")')
  report=$(clang -target bpf -O2 -std=gnu11 -Wall -Wextra -Wshadow --analyze -Xclang -analyzer-output=text -idirafter "$include" \
    -o /dev/null media/fastpath/rtp.bpf.c 2>&1)
  if [ -n "$report" ]; then
    echo "$report" >&2
    exit 1
  fi
else
  echo "clang is not installed: the kernel program was not looked at" >&2
fi
while read -r file; do
  cc -std=c11 -O2 "${warnings[@]}" -c -o /dev/null "$file"
done < <(find tests -name '*.c' -not -path '*/build/*')
