import { element, toXml, type XmlNode } from '#kernel/xml/build.js';
import { diskTarget, iotuneXml, sizeXml, volumeTarget, type SharedCores } from './controls-xml.js';
import { markElement } from './domain-mark.js';
import { isLocal } from './hosts/host.js';
import { cardXml } from './network-card.js';
import { interfaceXml, type MachineNetwork } from './network.js';
import type { MachineSpec } from './target-system.js';

/** The name under which the agent finds its virtio port in the guest. */
export const agentPort = 'org.vsite.tsi.0';
/** Where a container finds the directory that holds its agent's socket. */
export const containerRunDirectory = '/run/vsite';
/**
 * Of a container on another host, whose sockets are not here: a second console, and nobody else's. The agent finds it
 * by the environment of the container's first process.
 */
export const agentConsole = {
  alias: 'console1',
  device: '/dev/tty2',
  variable: 'VSITE_LINK',
} as const;
/** A container's ids 0…65535 are these on the host: its root is nobody here. */
export const containerIds = { first: 100_000, count: 65_536 } as const;

/** Of the kernel's start-up, what a guest that lives for some jobs can do without. */
const commandLine =
  'console=ttyS0 quiet panic=-1 nokaslr mitigations=off cryptomgr.notests tsc=reliable ' +
  'no_timer_check random.trust_cpu=on audit=0';

/** Absolute paths on the host, made by the workspace before the domain is defined. */
export type DomainPaths = {
  readonly console: string;
  readonly kernel?: string;
  readonly initrd?: string;
  readonly disk?: string;
  /** Raw disks of its own, in the order of its record. */
  readonly volumes?: readonly { readonly name: string; readonly file: string }[];
  /** Read-only disks: what tells the machine who it is, and what holds our agent. */
  readonly seed?: string;
  readonly agentDisk?: string;
  /** Root of a container, shared between target systems and read-only. */
  readonly root?: string;
  /** Directories of this container alone, mounted over the root: guest path to host path. */
  readonly mounts?: Readonly<Record<string, string>>;
  /** Absent: where libvirt there likes. */
  readonly agentSocket?: string;
  /** Where VNC listens, of a machine with a display; `libvirt`: where libvirt there likes. */
  readonly screenSocket?: string;
};

/** The libvirt domain of a machine. Its name and UUID follow from the target system's id. */
export function domainXml(
  system: MachineSpec & SharedCores,
  paths: DomainPaths,
  installationId: string,
  network?: MachineNetwork,
  epoch = 0,
  /** Further words of the kernel's command line. */
  words: readonly string[] = [],
): string {
  const common = [
    element('name', {}, `vsite-${system.id}`),
    element('uuid', {}, system.id),
    element('metadata', {}, markElement(system, installationId, epoch)),
    ...sizeXml(system),
  ];
  const body =
    system.driver === 'lxc'
      ? container(system, paths)
      : machine(system, paths, cardOf(system, installationId, network), words);
  const isEmulated = system.driver === 'qemu';
  const attributes = { type: system.driver, ...(isEmulated && { 'xmlns:qemu': qemuNamespace }) };
  return toXml(
    element('domain', attributes, ...common, ...body, isEmulated && fewQuestionsAboutCpu),
  );
}

const qemuNamespace = 'http://libvirt.org/schemas/domain/qemu/1.0';
/**
 * libvirt asks QEMU for each of some 370 properties of its processor at every start, one after the other, and QEMU
 * reads these questions byte by byte: 220 ms of processor time. Told that this QEMU does not know the one list that
 * goes with them, it asks for the words that hold all of them at once, as it did before there were these properties.
 */
const fewQuestionsAboutCpu = element(
  'qemu:capabilities',
  {},
  element('qemu:del', { capability: 'cpu-unavailable-features' }),
);

/** That of the network that its TSI is reached by, or one of its own. */
function cardOf(
  system: MachineSpec,
  installationId: string,
  network: MachineNetwork | undefined,
): XmlNode | undefined {
  const { card, image } = system;
  if (card) return cardXml({ ...system, card }, installationId);
  return network && image.metadata.tsi.transport === 'tcp'
    ? interfaceXml(system, network)
    : undefined;
}

function machine(
  system: MachineSpec,
  paths: DomainPaths,
  card: XmlNode | undefined,
  words: readonly string[],
): XmlNode[] {
  const { metadata } = system.image;
  const boot = [commandLine, `vsite.name=${hostName(system)}`, ...words, metadata.boot.commandLine];
  return [
    element(
      'os',
      {},
      element('type', { arch: metadata.os.architecture, machine: 'q35' }, 'hvm'),
      paths.kernel !== undefined && element('kernel', {}, paths.kernel),
      paths.initrd !== undefined && element('initrd', {}, paths.initrd),
      paths.kernel !== undefined && element('cmdline', {}, boot.filter(Boolean).join(' ')),
    ),
    element('features', {}, element('acpi')),
    system.driver === 'kvm' && element('cpu', { mode: 'host-passthrough' }),
    element('clock', { offset: 'utc' }),
    element('on_poweroff', {}, 'destroy'),
    // A guest that panics asks for a reboot (panic=-1): its processes are gone, so the domain is too.
    element('on_reboot', {}, 'destroy'),
    element('on_crash', {}, 'destroy'),
    element(
      'devices',
      {},
      element('controller', { type: 'usb', model: 'none' }),
      element('controller', { type: 'virtio-serial', index: 0 }, onRootBus('channel')),
      paths.disk !== undefined && disk(system, paths.disk),
      ...(paths.volumes ?? []).map((volume, at) => volumeDisk(system, volume, volumeTarget(at))),
      ...[paths.seed, paths.agentDisk].map(
        (path, at) => path !== undefined && readOnlyDisk(path, extraTargets[at] ?? ''),
      ),
      card,
      element(
        'serial',
        { type: 'pty' },
        // written by QEMU whether or not somebody is connected
        element('log', { file: paths.console, append: 'on' }),
        element('target', { port: 0 }),
      ),
      element(
        'channel',
        { type: 'unix' },
        element('source', { mode: 'bind', path: paths.agentSocket }),
        element('target', { type: 'virtio', name: agentPort }),
      ),
      element(
        'rng',
        { model: 'virtio' },
        element('backend', { model: 'random' }, '/dev/urandom'),
        onRootBus('rng'),
      ),
      ...(paths.screenSocket === undefined ? [] : display(paths.screenSocket)),
      // by which a guest with its driver tells that its kernel has crashed
      element('panic', { model: 'isa' }),
      // by which a guest with its driver gives memory back while it runs
      element('memballoon', { model: 'virtio' }, onRootBus('balloon')),
    ),
  ].filter((node) => node !== false);
}

/** Where libvirt puts nothing of its own. */
const slots = { channel: '0x10', rng: '0x11', balloon: '0x12' } as const;

/**
 * What each machine has, and nobody unplugs, goes without a port of its own: three ports that firmware and kernel look
 * behind cost an emulated boot some 80 ms.
 */
function onRootBus(device: keyof typeof slots): XmlNode {
  const place = { domain: '0x0000', bus: '0x00', slot: slots[device], function: '0x0' };
  return element('address', { type: 'pci', ...place });
}

/** Without a password: whoever reaches the socket's directory is root or QEMU, and the server asks who is there. */
function display(socket: string): XmlNode[] {
  return [
    element('input', { type: 'tablet', bus: 'virtio' }),
    element(
      'graphics',
      { type: 'vnc', sharePolicy: 'force-shared' },
      element('listen', { type: 'socket', ...(socket !== 'libvirt' && { socket }) }),
    ),
    element('video', {}, element('model', { type: 'vga', vram: 16_384, heads: 1 })),
  ];
}

function disk(system: MachineSpec, path: string): XmlNode {
  return element(
    'disk',
    { type: 'file', device: 'disk' },
    element('driver', { name: 'qemu', type: 'qcow2', discard: 'unmap' }),
    element('source', { file: path }),
    element('target', { dev: diskTarget, bus: 'virtio' }),
    iotuneXml(system),
  );
}

/** The machine finds it by its serial: the names of targets are not what a guest calls its disks. */
function volumeDisk(
  system: MachineSpec,
  { name, file }: { readonly name: string; readonly file: string },
  target: string,
): XmlNode {
  return element(
    'disk',
    { type: 'file', device: 'disk' },
    element('driver', { name: 'qemu', type: 'raw', discard: 'unmap' }),
    element('source', { file }),
    element('target', { dev: target, bus: 'virtio' }),
    iotuneXml(system),
    element('serial', {}, name),
  );
}

/** Behind the machine's own disks, whether or not it has one. */
const extraTargets = ['vdy', 'vdz'];

function readOnlyDisk(path: string, target: string): XmlNode {
  return element(
    'disk',
    { type: 'file', device: 'disk' },
    element('driver', { name: 'qemu', type: 'raw' }),
    element('source', { file: path }),
    element('target', { dev: target, bus: 'virtio' }),
    element('readonly'),
  );
}

function container(system: MachineSpec, paths: DomainPaths): XmlNode[] {
  const isElsewhere = !isLocal(system);
  const filesystem = (source: string, target: string, readonly = false): XmlNode =>
    element(
      'filesystem',
      { type: 'mount' },
      element('source', { dir: source }),
      element('target', { dir: target }),
      readonly && element('readonly'),
    );
  const scratch = (target: string): XmlNode =>
    element(
      'filesystem',
      { type: 'ram' },
      element('source', { usage: 256, units: 'MiB' }),
      element('target', { dir: target }),
    );
  return [
    element(
      'os',
      {},
      element('type', {}, 'exe'),
      element('init', {}, system.image.metadata.boot.init ?? '/init'),
      element('initenv', { name: 'VSITE_NAME' }, hostName(system)),
      isElsewhere && element('initenv', { name: agentConsole.variable }, agentConsole.device),
    ),
    element(
      'idmap',
      {},
      ...['uid', 'gid'].map((kind) =>
        element(kind, { start: 0, target: containerIds.first, count: containerIds.count }),
      ),
    ),
    // An own, empty network: without it a container shares the host's.
    element('features', {}, element('privnet')),
    element('on_poweroff', {}, 'destroy'),
    element('on_reboot', {}, 'destroy'),
    element('on_crash', {}, 'destroy'),
    element(
      'devices',
      {},
      filesystem(paths.root ?? '', '/', true),
      scratch('/tmp'),
      scratch('/run'),
      ...Object.entries(paths.mounts ?? {}).map(([target, source]) => filesystem(source, target)),
      element('console', { type: 'pty' }),
      isElsewhere &&
        element('console', { type: 'pty' }, element('target', { type: 'lxc', port: 1 })),
    ),
  ];
}

/** Also what the guest calls itself. */
export function hostName(system: Pick<MachineSpec, 'id'>): string {
  return `vsite-${system.id.slice(0, 8)}`;
}
