import { LibvirtError } from './errors.js';

export type UnixAddress = { readonly kind: 'unix'; readonly path: string };
export type TcpAddress = { readonly kind: 'tcp'; readonly host: string; readonly port: number };
export type TlsAddress = {
  readonly kind: 'tls';
  readonly host: string;
  readonly port: number;
  /** Paths of PEM files, read at each connection. */
  readonly pki: { readonly ca: string; readonly cert: string; readonly key: string };
};
export type SshAddress = {
  readonly kind: 'ssh';
  readonly host: string;
  readonly port?: number;
  readonly user?: string;
  readonly keyFile?: string;
  /** Of the keys of hosts; absent: the user's own, and the system's. */
  readonly knownHostsFile?: string;
  /** Of the daemon on that host; without it, the host's `virt-ssh-helper` knows. */
  readonly socket?: string;
};
export type Address = UnixAddress | TcpAddress | TlsAddress | SshAddress;

/** `driverUri` is what the daemon is asked to open: `qemu:///system`. */
export type LibvirtUri = { readonly driverUri: string; readonly address: Address };

/** What each transport takes in the URI's query. Everything else is refused, not overlooked. */
const queryKeys = {
  unix: ['socket'],
  tcp: [],
  tls: ['pkipath'],
  ssh: ['socket', 'keyfile', 'known_hosts'],
} as const satisfies Record<Address['kind'], readonly string[]>;

export const systemSocket = '/run/libvirt/libvirt-sock';
const ports = { tcp: 16_509, tls: 16_514 };
const systemPki = {
  ca: '/etc/pki/CA/cacert.pem',
  cert: '/etc/pki/libvirt/clientcert.pem',
  key: '/etc/pki/libvirt/private/clientkey.pem',
};

const syntax =
  /^(?<driver>[a-z]+)(?:\+(?<kind>[a-z0-9]+))?:\/\/(?:(?<user>[^@/?#:]+)@)?(?<host>\[[0-9a-f:.]+\]|[^@/?#:[\]]*)(?::(?<port>\d{1,5}))?(?<path>\/[^?#]*)(?:\?(?<query>[^#]*))?$/i;

/**
 * Reads `driver[+transport]://[user@][host][:port]/path[?key=value]`, as libvirt does: no transport means
 * `unix`, or `tls` where a host is named. @throws {@link LibvirtError} `CONFIG_INVALID`
 */
export function parseUri(uri: string): LibvirtUri {
  const parts = syntax.exec(uri)?.groups;
  if (!parts) throw invalid(uri, 'is not a libvirt URI');
  const { driver = '', path = '', user, port } = parts;
  const host = (parts['host'] ?? '').replace(/^\[|\]$/g, '');
  const kind = parts['kind'] ?? (host === '' ? 'unix' : 'tls');
  if (!isKind(kind)) throw invalid(uri, `names an unknown transport: ${kind}`);
  if ((kind === 'unix') !== (host === '')) throw invalid(uri, `and ${kind} do not agree on a host`);
  if (user !== undefined && kind !== 'ssh') throw invalid(uri, `takes no user over ${kind}`);
  // ssh would take it for an option
  if (host.startsWith('-') || user?.startsWith('-')) throw invalid(uri, 'names an impossible host');
  const query = parseQuery(uri, parts['query'] ?? '', queryKeys[kind]);
  const driverUri = `${driver}://${path}`;
  const where = { uri, host, path, user, port: parsePort(uri, port), query };
  return { driverUri, address: builders[kind](where) };
}

type Where = {
  readonly uri: string;
  readonly host: string;
  readonly path: string;
  readonly user: string | undefined;
  readonly port: number | undefined;
  readonly query: ReadonlyMap<string, string>;
};

const builders: Record<Address['kind'], (where: Where) => Address> = {
  unix({ uri, path, query }) {
    const socket = query.get('socket');
    if (socket !== undefined) return { kind: 'unix', path: socket };
    // A session's socket lies where its user's environment says: that is for the caller to know
    if (path === '/session') throw invalid(uri, 'needs ?socket=, the path of the session daemon');
    return { kind: 'unix', path: systemSocket };
  },
  tcp: ({ host, port = ports.tcp }) => ({ kind: 'tcp', host, port }),
  tls({ host, port = ports.tls, query }) {
    const folder = query.get('pkipath');
    const at = (name: string): string => `${folder}/${name}.pem`;
    const pki =
      folder === undefined
        ? systemPki
        : { ca: at('cacert'), cert: at('clientcert'), key: at('clientkey') };
    return { kind: 'tls', host, port, pki };
  },
  ssh({ host, user, port, query }) {
    const socket = query.get('socket');
    const keyFile = query.get('keyfile');
    const knownHostsFile = query.get('known_hosts');
    return {
      kind: 'ssh',
      host,
      ...(user !== undefined && { user }),
      ...(port !== undefined && { port }),
      ...(socket !== undefined && { socket }),
      ...(keyFile !== undefined && { keyFile }),
      ...(knownHostsFile !== undefined && { knownHostsFile }),
    };
  },
};

function parsePort(uri: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const port = Number(text);
  if (port < 1 || port > 65_535) throw invalid(uri, 'names an impossible port');
  return port;
}

function parseQuery(uri: string, text: string, known: readonly string[]): Map<string, string> {
  const query = new Map<string, string>();
  for (const pair of text.split('&').filter(Boolean)) {
    const at = pair.indexOf('=');
    const key = at < 0 ? pair : pair.slice(0, at);
    if (!known.includes(key)) throw invalid(uri, `has a parameter that is not known: ${key}`);
    // Not URLSearchParams: to libvirt a `+` is a plus sign
    query.set(key, decodePercent(uri, at < 0 ? '' : pair.slice(at + 1)));
  }
  return query;
}

function decodePercent(uri: string, text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw invalid(uri, 'has a broken %-sequence');
  }
}

function isKind(kind: string): kind is Address['kind'] {
  return Object.hasOwn(queryKeys, kind);
}

function invalid(uri: string, why: string): LibvirtError {
  return new LibvirtError('CONFIG_INVALID', `${uri} ${why}`, { uri });
}
