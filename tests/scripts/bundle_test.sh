#!/usr/bin/env bash
# scripts/bundle from outside: the folder works in another place, with another root and nothing in its environment.
source "$(dirname "${BASH_SOURCE[0]}")/../support/tap.sh"

build=$(dirname "$WEFT")
check 'a bundle of this build' scripts/bundle --build "$build" --out "$TMP/weft-bundle"
check 'it refuses to replace what is no bundle' exits 2 scripts/bundle --build "$build" --out configs
check 'it says what it needs' grep -qE '^ +needs +GLIBC 2\.[0-9]+ or newer' "$TMP/weft-bundle/VERSION"

# A root that has libc, bash and coreutils, and neither Weft's libraries nor an MPI.
root=$TMP/root
tools=(bash env cat ls mkdir rm id dirname readlink grep sed awk head tail tr sort uname timeout mktemp sleep)
make_root() {
  local tool path
  mkdir -p "$root"/{bin,tmp,proc,dev,sys,opt,usr} && ln -s ../bin "$root/usr/bin"
  for tool in "${tools[@]}"; do
    path=$(readlink -f "$(command -v "$tool")")
    cp "$path" "$root/bin/$tool"
    ldd "$path" | grep -oE '/[^ ]+\.so[^ ]*' | while read -r path; do
      mkdir -p "$root$(dirname "$path")" && cp -nL "$path" "$root$path"
    done
  done
  # what libc opens by name, and its parts that programs link
  for tool in libm.so.6 libdl.so.2 libpthread.so.0 librt.so.1 libresolv.so.2 libutil.so.1 libnss_files.so.2; do
    [[ ! -e /lib/x86_64-linux-gnu/$tool ]] || cp -nL "/lib/x86_64-linux-gnu/$tool" "$root/lib/x86_64-linux-gnu/"
  done
  mkdir -p "$root/etc" && printf 'root:x:0:0:root:/:/bin/bash\n' > "$root/etc/passwd" && printf '127.0.0.1 localhost\n' > "$root/etc/hosts"
  tar -C "$root/opt" -xzf "$TMP/weft-bundle.tar.gz"
}
# inside COMMAND...: in a mount namespace of its own, in that root, in the unpacked bundle, with an empty environment.
inside() {
  env -i unshare --mount --pid --fork bash -c '
    root=$1 && shift
    mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && mount --rbind /sys "$root/sys" &&
      exec chroot "$root" /bin/env -i PATH=/bin HOME=/tmp bash -c "cd /opt/weft-bundle && exec \"\$@\"" bash "$@"' bash "$root" "$@"
}
if ((EUID != 0)) || ! unshare --mount --pid --fork true 2> /dev/null; then
  skip 'the bundle in an empty root' 'only root may change it'
else
  check 'an empty root' make_root
  # shellcheck disable=SC2016  # for the shell inside
  check 'nothing of Weft or MPI is in it' inside bash -c '! command -v mpirun && ! ls /usr/lib /lib/x86_64-linux-gnu | grep -E "mpi|openblas|protobuf|spdlog"'
  check 'weft version' inside bin/weft version
  check 'one rank of an expert-parallel model on four, by its own mpirun' inside bin/mpirun -n 4 bin/weft train \
    configs/train/tiny.textproto --set parallel.expert=4 --set train.steps=3 --run_dir /tmp/run --progress never
  check 'it leaves metrics of three steps' same 4 "$(wc -l < "$root/tmp/run/metrics.jsonl")"
  check 'two ranks without MPI' inside bash -c 'export WORLD_SIZE=2 WEFT_MASTER_ADDR=localhost:29777
    for r in 0 1; do RANK=$r bin/weft train configs/train/tiny.textproto --set train.steps=2 --run_dir /tmp/tcp --progress never & pids+=" $!"; done
    for p in $pids; do wait $p || exit 1; done'
  check 'they were one job' grep -q '"ranks": 2' "$root/tmp/tcp/env.json"
  check 'the kernel tests' inside bin/weft_test_kernels '[gemm],[norm]'
  check 'weft doctor' inside bin/weft doctor --no_probe
  check 'gpu_check says that there is no GPU' exits 3 inside scripts/gpu_check --out /tmp/gpu_check.json
  check 'on standard output, and in its file' grep -q '"gpu": false' "$root/tmp/gpu_check.json"
fi
finish
