import type { LibvirtClient } from '#kernel/libvirt/client.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childrenOf, textOf } from '#kernel/xml/read.js';
import type { Driver } from '../target-system.js';

/** Of one processor architecture. */
export type ArchitectureAbilities = {
  /** Short names of the boards that there are; none: it has no such thing (containers). */
  readonly machines: readonly string[];
  /** Of one machine. */
  readonly maxCpus?: number;
  /** A machine can have a display that we can show. */
  readonly display: boolean;
  /** libvirt says that the host can run it by hardware; whether that works, a guest that booted has to prove. */
  readonly kvm: boolean;
};

/** What libvirt tells that a driver of a host can run, by architecture. */
export type DriverCapabilities = Readonly<Record<string, ArchitectureAbilities>>;

/** What a machine needs of them. */
export type MachineNeeds = {
  readonly architecture: string;
  readonly cpus: number;
  readonly display: boolean;
};

/** That our machines are made with (`domain-xml.ts`). */
const board = 'q35';
/** Those that images can have. */
const known = ['x86_64', 'aarch64'];
const options = { timeoutMs: 30_000 }; // it may try QEMU first

/** @throws as the hypervisor does */
export async function readCapabilities(
  client: Pick<LibvirtClient, 'call'>,
  driver: Driver,
): Promise<DriverCapabilities> {
  const { capabilities } = await client.call('connect_get_capabilities', {}, options);
  const found: Record<string, ArchitectureAbilities> = {};
  for (const [name, abilities] of Object.entries(parseCapabilities(capabilities, driver))) {
    if (driver === 'lxc' || !known.includes(name) || !abilities.machines.includes(board)) {
      found[name] = abilities;
      continue;
    }
    const about = { emulatorbin: null, arch: name, machine: board, virttype: driver, flags: 0 };
    const answer = await client.call('connect_get_domain_capabilities', about, options);
    found[name] = { ...abilities, ...parseDomainCapabilities(answer.capabilities) };
  }
  return found;
}

/** Why it cannot run such a machine; `undefined`: it can, as far as is known. */
export function whyUnable(
  driver: Driver,
  capabilities: DriverCapabilities,
  { architecture, cpus, display }: MachineNeeds,
): string | undefined {
  const found = Object.hasOwn(capabilities, architecture) ? capabilities[architecture] : undefined;
  if (!found) {
    const others = Object.keys(capabilities).filter((name) => known.includes(name));
    return `architecture: ${driver} has no ${architecture} there, it has ${others.join(', ') || 'none'}`;
  }
  if (driver === 'lxc') return undefined;
  if (!found.machines.includes(board))
    return `architecture: ${driver} has no ${board} for ${architecture} there, which machines are made with`;
  if (found.maxCpus !== undefined && cpus > found.maxCpus)
    return `cores: ${cpus} asked for, a machine of ${driver} has ${found.maxCpus} there at most`;
  return display && !found.display ? `display: ${driver} there has none` : undefined;
}

/** Of `<capabilities>`: what a driver's guests can be. */
export function parseCapabilities(xml: string, driver: Driver): DriverCapabilities {
  const found: Record<string, ArchitectureAbilities> = {};
  const guests = childrenOf(parseXml(xml).documentElement).filter(isNamed('guest'));
  for (const arch of guests.flatMap((guest) => childrenOf(guest).filter(isNamed('arch')))) {
    const name = attributeOf(arch, 'name');
    const types = childrenOf(arch)
      .filter(isNamed('domain'))
      .map((each) => attributeOf(each, 'type'));
    if (name === undefined || !types.includes(driver)) continue;
    const machines = childrenOf(arch).filter(isNamed('machine'));
    const most = Math.max(0, ...machines.map((each) => Number(attributeOf(each, 'maxCpus') ?? 0)));
    found[name] = {
      machines: machines.filter((each) => attributeOf(each, 'canonical') !== undefined).map(textOf),
      ...(most > 0 && { maxCpus: most }),
      display: false,
      kvm: types.includes('kvm'),
    };
  }
  return found;
}

/** Of `<domainCapabilities>`: what a machine on our board can have. */
export function parseDomainCapabilities(
  xml: string,
): Pick<ArchitectureAbilities, 'maxCpus' | 'display'> {
  const root = parseXml(xml).documentElement;
  const vcpu = find(root, 'vcpu');
  const most = Number((vcpu && attributeOf(vcpu, 'max')) ?? 0);
  const has = (device: string, kind: string, value: string): boolean => {
    const found = find(find(root, 'devices'), device);
    if (!found || attributeOf(found, 'supported') !== 'yes') return false;
    const values = childrenOf(found)
      .filter((each) => isNamed('enum')(each) && attributeOf(each, 'name') === kind)
      .flatMap((each) => childrenOf(each).map(textOf));
    return values.includes(value);
  };
  const display = has('graphics', 'type', 'vnc') && has('video', 'modelType', 'vga');
  return { ...(most > 0 && { maxCpus: most }), display };
}

function isNamed(name: string): (element: Element) => boolean {
  return ({ localName }) => localName === name;
}

function find(parent: Element | undefined, name: string): Element | undefined {
  return parent && childrenOf(parent).find(isNamed(name));
}
