import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

/** Where one libvirtd of ours keeps its things; everything lies below `stateDir`, save the cache. */
export function libvirtdLayout(stateDir: string, system: boolean) {
  const run = join(stateDir, 'run');
  return {
    config: join(stateDir, 'etc', 'libvirtd.conf'),
    qemuConfig: system
      ? join(stateDir, 'etc', 'qemu.conf')
      : join(stateDir, 'home', '.config', 'libvirt', 'qemu.conf'),
    script: join(stateDir, 'etc', 'start.sh'),
    log: join(stateDir, 'libvirtd.log'),
    output: join(stateDir, 'libvirtd.out'),
    pidFile: join(stateDir, 'libvirtd.pid'),
    record: join(stateDir, 'libvirtd.json'),
    socket: system ? join(run, 'libvirt-sock') : join(run, 'libvirt', 'libvirt-sock'),
    /** Pid files of a session's guests */
    guests: join(run, 'libvirt', 'qemu', 'run'),
    run,
  };
}

/**
 * Runs as the first process of its own mount, pid and network namespaces: hides the host's
 * libvirt folders and the cgroup v2 part of a hybrid layout (the container driver cannot start
 * anything with both), then becomes libvirtd. `$1` state, `$2` cache folder, then flags of libvirtd.
 */
const namespaceScript = `set -e
ip link set lo up
mkdir -p "$1/cgroup" /run/libvirt /run/lock
if mountpoint -q /sys/fs/cgroup; then
  mount --rbind /sys/fs/cgroup "$1/cgroup"
  umount -R /sys/fs/cgroup
  mount -t sysfs sysfs /sys
  mount --rbind "$1/cgroup" /sys/fs/cgroup
  umount -R "$1/cgroup"
  if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
fi
# systemd, asked over D-Bus, would take our pids for its own
if [ -d /run/dbus ]; then mount -t tmpfs tmpfs /run/dbus; fi
hide() { mkdir -p "$1" "$2"; mount --bind "$1" "$2"; }
hide "$1/etc" /etc/libvirt
hide "$1/lib" /var/lib/libvirt
hide "$1/log" /var/log/libvirt
hide "$2" /var/cache/libvirt
mount -t tmpfs -o mode=0755 tmpfs /run/libvirt
# locks of consoles carry a pid of this namespace: what another libvirtd left would look alive
mount -t tmpfs -o mode=1777 tmpfs /run/lock
state="$1"
shift 2
# guests outlive a libvirtd that is killed, and the next one finds them; one that cannot start is not tried again
while began=$(date +%s); do
  libvirtd --config "$state/etc/libvirtd.conf" --pid-file "$state/libvirtd.pid" "$@" && exit
  [ $(($(date +%s) - began)) -gt 1 ] || exit 1
done
`;

/**
 * Writes libvirtd.conf, qemu.conf and the start script.
 * @param extraConfig whole lines, which win: of two for the same thing libvirtd takes the first
 */
export async function writeConfig(
  stateDir: string,
  system: boolean,
  extraConfig: readonly string[],
): Promise<void> {
  const layout = libvirtdLayout(stateDir, system);
  for (const folder of ['etc', 'lib', 'log', 'run', 'home'])
    await mkdir(join(stateDir, folder), { recursive: true, mode: 0o700 });
  // DHCP servers of networks are nobody, and look up there who gets which address
  await chmod(join(stateDir, 'lib'), 0o711);
  const lines = [
    ...extraConfig,
    'listen_tls = 0',
    'auth_unix_ro = "none"',
    'auth_unix_rw = "none"',
    'unix_sock_rw_perms = "0700"',
    // a session's daemon takes its folder from XDG_RUNTIME_DIR
    ...(system ? [`unix_sock_dir = "${layout.run}"`] : []),
    // one connection may have this many calls in flight; 5 would let slow ones block the others
    'max_client_requests = 64',
    'max_workers = 40',
    `log_outputs = "3:file:${layout.log}"`,
  ];
  await writeFile(layout.config, `${lines.join('\n')}\n`);
  await writeFile(layout.script, namespaceScript);
  // a guest's console goes to its file without virtlogd between
  const qemu = ['stdio_handler = "file"', ...(system ? ['user = "root"', 'group = "root"'] : [])];
  await mkdir(dirname(layout.qemuConfig), { recursive: true });
  await writeFile(layout.qemuConfig, `${qemu.join('\n')}\n`);
}
