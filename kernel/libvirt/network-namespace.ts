import { readdir, readFile, readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { parseUri } from './uri.js';

/** The kernel's flag for it, in hexadecimal. */
const listening = '00010000';

/**
 * QEMU's user networking opens a guest's connections as if QEMU wanted them, from the network namespace that
 * libvirtd is in; the guest's gateway is the loopback of that namespace. So it is proven that this is neither
 * ours nor the host's first process's. Where that one may not be looked at (in a container), a namespace with a
 * way out may be the host's.
 * @param uri of the libvirt for machines
 * @returns why it cannot be offered; `undefined`: it can
 */
export async function whyNoUserNetwork(
  uri: string | undefined,
  proc = '/proc',
): Promise<string | undefined> {
  const socket = socketOf(uri);
  if (socket === undefined) return 'libvirtd is on another host, whose loopback it might reach';
  const [ours, first] = await Promise.all(
    ['self', '1'].map((pid) => readlink(join(proc, pid, 'ns', 'net')).catch(() => undefined)),
  );
  const seen = new Set<string>();
  for (const pid of await readdir(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    const namespace = await readlink(join(proc, pid, 'ns', 'net')).catch(() => '');
    if (namespace === '' || seen.has(namespace)) continue;
    seen.add(namespace);
    const sockets = await readFile(join(proc, pid, 'net', 'unix'), 'utf8').catch(() => '');
    if (!sockets.split('\n').some((line) => isListening(line, socket))) continue;
    if (namespace === ours || namespace === first)
      return "libvirtd is in the host's network, whose loopback it would reach";
    if (first === undefined && (await leadsOut(join(proc, pid))))
      return "libvirtd's network leads out: it may be the host's, which cannot be seen";
    return undefined;
  }
  return 'it cannot be seen which network namespace libvirtd is in';
}

/** proc(5), net/route: a route whose destination is everything; what cannot be read may have one. */
async function leadsOut(process: string): Promise<boolean> {
  const routes = await readFile(join(process, 'net', 'route'), 'utf8').catch(() => undefined);
  return routes === undefined || /^\S+\t00000000\t/m.test(routes);
}

/** Ends of connections to it have its name too, and are those of whoever connected. */
function isListening(line: string, path: string): boolean {
  const [, , , flags] = line.split(' ');
  return flags === listening && line.endsWith(` ${path}`);
}

function socketOf(uri: string | undefined): string | undefined {
  const address = uri === undefined ? undefined : parseUri(uri).address;
  return address?.kind === 'unix' ? address.path : undefined;
}
