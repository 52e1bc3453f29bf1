/** A bare QEMU guest of a `kernel` image: what libvirt would start, without libvirt. */
export type BareGuest = {
  kernel: string;
  initrd: string;
  memoryMiB: number;
  accel: 'tcg' | 'kvm';
  /** QEMU listens here; the other end is the agent's port in the guest. */
  channelSocket?: string;
  cpus?: number;
  /** Appended to the kernel command line */
  commandLine?: string;
};

const commandLine =
  'console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests tsc=reliable ' +
  'no_timer_check random.trust_cpu=on audit=0';

/** Arguments of qemu-system-x86_64; the guest's console is its standard output. */
export function qemuArguments(guest: BareGuest): string[] {
  const channel = guest.channelSocket !== undefined && [
    ...['-chardev', `socket,id=agent,path=${guest.channelSocket},server=on,wait=off`],
    ...['-device', 'virtio-serial-pci'],
    ...['-device', 'virtserialport,chardev=agent,name=org.vsite.tsi.0'],
  ];
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...[
      '-M',
      'q35,usb=off',
      '-accel',
      guest.accel,
      '-cpu',
      guest.accel === 'kvm' ? 'host' : 'qemu64',
    ],
    ...['-m', String(guest.memoryMiB), '-smp', String(guest.cpus ?? 1)],
    ...['-kernel', guest.kernel, '-initrd', guest.initrd],
    ...['-append', [commandLine, guest.commandLine].filter(Boolean).join(' ')],
    ...['-serial', 'stdio', '-monitor', 'none'],
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng'],
    ...(channel || []),
  ];
}
