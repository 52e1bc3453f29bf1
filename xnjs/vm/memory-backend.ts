import { element, toXml } from '#kernel/xml/build.js';
import { parseXml } from '#kernel/xml/parse.js';
import { attributeOf, childrenOf } from '#kernel/xml/read.js';

/**
 * A machine's memory in a file, which QEMU maps instead of reading it. Nothing is written to the file: what the machine
 * changes is its own.
 */
export type MappedMemory = {
  /** On its host. */
  readonly path: string;
  /** All of the machine's memory. */
  readonly sizeBytes: number;
};

/** What such memory is called in the machine; libvirt calls its own otherwise. */
export const mappedName = 'vsite.ram';

const qemuNamespace = 'http://libvirt.org/schemas/domain/qemu/1.0';

/** The definition of a machine that begins with that memory. libvirt has no words of its own for it. */
export function withMappedMemory(xml: string, { path, sizeBytes }: MappedMemory): string {
  return withBackend(xml, {
    ...{ 'qom-type': 'memory-backend-file', 'mem-path': path, share: false },
    ...{ size: sizeBytes },
  });
}

/**
 * A machine that began so, and was saved since, is all in what was saved, under the name that its memory had.
 * @param saved the definition that it was saved with
 * @param own that it is to have; absent: the same
 * @returns the definition by which it is restored
 */
export function toRestore(saved: string, own = saved): string {
  const sizeBytes = backendSize(saved);
  if (sizeBytes === undefined) return own;
  return withBackend(withoutMapped(own), { 'qom-type': 'memory-backend-ram', size: sizeBytes });
}

/** What such a machine is defined as, and booted from later: memory is libvirt's again. */
export function withoutMapped(xml: string): string {
  return backendSize(xml) === undefined
    ? xml
    : xml.replace(/<qemu:commandline\b[\s\S]*?<\/qemu:commandline>/, '');
}

/** `undefined`: its memory is libvirt's. */
function backendSize(xml: string): number | undefined {
  const root = parseXml(xml).documentElement;
  const lines = childrenOf(root, qemuNamespace, 'commandline');
  const values = lines.flatMap((line) => childrenOf(line).map((arg) => attributeOf(arg, 'value')));
  const object = values.find((value) => value?.startsWith('{') === true);
  if (object === undefined) return undefined;
  const { id, size } = JSON.parse(object) as { readonly id?: unknown; readonly size?: unknown };
  return id === mappedName && typeof size === 'number' ? size : undefined;
}

function withBackend(xml: string, backend: object): string {
  // else its name would have the path of the object in it
  const name = { id: mappedName, 'x-use-canonical-path-for-ramblock-id': false };
  const words = [
    ...['-object', JSON.stringify({ ...backend, ...name })],
    ...['-machine', `memory-backend=${mappedName}`],
  ];
  const commandLine = element(
    'qemu:commandline',
    { 'xmlns:qemu': qemuNamespace },
    ...words.map((value) => element('qemu:arg', { value })),
  );
  return xml.replace(/<\/domain>\s*$/, `${toXml(commandLine)}</domain>`);
}
