import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, normalize } from 'node:path';

/** The keys of `tsi.properties` that matter to this agent (docs/protocols/tsi.md), typed. */
export type Settings = {
  /** Commands run as the user they name. Always so for root, never otherwise. */
  readonly switchUid: boolean;
  /** A character device, or `unix:<path>` to listen on; speaks HTTP/2 (ADR 004). The host may want another (ADR 043). */
  readonly link?: string;
  /** The classic main. */
  readonly main?: MainSettings;
  readonly version: string;
  readonly safeDir: string;
  readonly stateDir: string;
  readonly loginShell: boolean;
  /** Whether it makes the machine another one when the host says so (ADR 035). */
  readonly identity: boolean;
  /** Whether it proves to the host which machine this is, and where the token for that may lie (ADR 039). */
  readonly enrolment: boolean;
  readonly enrolmentFiles: readonly string[];
  /** Whether it gives the machine what its owner has asked for, and where it tells programs of that (ADR 040). */
  readonly setup: boolean;
  readonly setupFile: string;
  readonly path: string;
  readonly enforceOsGids: boolean;
  readonly failOnInvalidGids: boolean;
  readonly useIdCommand: boolean;
  readonly keyFiles: readonly string[];
  /** Shell text, run as the user, that prints further keys, or attributes `name=value`. */
  readonly userKeysCommand?: string;
  readonly userInfoCommand?: string;
  readonly acl: AclSettings;
  /** Bytes per second and direction of a forwarded connection; 0 is without limit. */
  readonly forwardingRate: number;
  /** Name of the batch system, and all keys for what it wants to know. */
  readonly bss: string;
  readonly properties: Properties;
  readonly debug: boolean;
};

export type AclKind = 'POSIX' | 'NFS' | 'NONE';
export type AclSettings = {
  readonly getfacl: string;
  readonly setfacl: string;
  /** By path: what is configured for a directory holds for all below it. */
  readonly rules: readonly (readonly [path: string, kind: AclKind])[];
};

export type MainSettings = {
  readonly host: string | undefined;
  readonly port: number;
  /** Hosts that may connect, by name or address. */
  readonly clients: readonly string[];
  /** Called back at this port, whatever the request says. */
  readonly replyPort?: number;
  readonly localPorts?: readonly [lowest: number, highest: number];
  readonly tls?: {
    readonly keyFile: string;
    readonly passphrase?: string;
    readonly certFile: string;
    readonly caFile?: string;
    readonly allowedDns: readonly string[];
  };
};

export type Properties = ReadonlyMap<string, string>;

export function readSettings(file: string, link = hostsLink()): Settings {
  const settings = toSettings(parseProperties(readFileSync(file, 'utf8')));
  return link !== undefined && settings.link !== undefined ? { ...settings, link } : settings;
}

/** How a container's host wants to be reached, where it cannot get at the socket: told to its first process. */
export function hostsLink(environ = '/proc/1/environ'): string | undefined {
  const name = 'VSITE_LINK=';
  try {
    const words = readFileSync(environ, 'utf8').split('\0');
    return words.find((word) => word.startsWith(name))?.slice(name.length);
  } catch {
    return undefined; // it is another's, of whoever is not root
  }
}

/** For who is called without a file. */
export function defaultSettings(): Settings {
  return toSettings(new Map());
}

function toSettings(keys: Properties): Settings {
  const flag = (name: string, missing: boolean): boolean =>
    keys.has(name) ? /^(1|true)$/i.test(keys.get(name) ?? '') : missing;
  const root = process.geteuid?.() === 0;
  const link = keys.get('tsi.link');
  const main = link === undefined || keys.has('tsi.my_port') ? mainSettings(keys, flag) : undefined;
  return {
    switchUid: root,
    ...(link !== undefined && { link }),
    ...(main && { main }),
    version: keys.get('tsi.version') ?? '11.2.1',
    safeDir: keys.get('tsi.safe_dir') ?? '/tmp',
    stateDir:
      keys.get('tsi.state_dir') ??
      (root ? '/var/lib/unicore-tsi' : join(homedir(), '.unicore-tsi')),
    loginShell: flag('tsi.use_login_shell', false),
    identity: flag('tsi.identity', true),
    enrolment: flag('tsi.enrolment', true),
    enrolmentFiles: (keys.get('tsi.enrolment_file') ?? '/run/vsite/enrolment:/etc/vsite/enrolment')
      .split(':')
      .filter(Boolean),
    setup: flag('tsi.setup', true),
    setupFile: keys.get('tsi.setup_file') ?? '/run/vsite-parameters',
    path: keys.get('tsi.path') ?? '/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin',
    enforceOsGids: flag('tsi.enforce_os_gids', true),
    failOnInvalidGids: flag('tsi.fail_on_invalid_gids', false),
    useIdCommand: flag('tsi.use_id_to_resolve_gids', false),
    keyFiles: (keys.get('tsi.keyfiles') ?? '.ssh/authorized_keys').split(':').filter(Boolean),
    ...userCommands(keys),
    acl: aclSettings(keys),
    forwardingRate: rate('tsi.port_forwarding.rate_limit', keys),
    bss: keys.get('tsi.bss') ?? 'nobatch',
    properties: keys,
    debug: flag('tsi.debug', false),
  };
}

function userCommands(keys: Properties): Pick<Settings, 'userKeysCommand' | 'userInfoCommand'> {
  const userKeysCommand = keys.get('tsi.get_userkeys_cmd');
  const userInfoCommand = keys.get('tsi.get_userinfo_cmd');
  return {
    ...(userKeysCommand !== undefined && { userKeysCommand }),
    ...(userInfoCommand !== undefined && { userInfoCommand }),
  };
}

const aclKey = 'tsi.acl.';

function aclSettings(keys: Properties): AclSettings {
  const rules = [...keys]
    .filter(([name]) => name.startsWith(aclKey))
    .map(([name, kind]) => {
      if (kind === 'POSIX' || kind === 'NFS' || kind === 'NONE')
        return [normalize(`/${name.slice(aclKey.length)}`), kind] as const;
      throw new TypeError(`${name} must be POSIX, NFS or NONE: ${kind}`);
    });
  return {
    getfacl: keys.get('tsi.getfacl') ?? '/bin/false',
    setfacl: keys.get('tsi.setfacl') ?? '/bin/false',
    rules,
  };
}

function rate(name: string, keys: Properties): number {
  const value = Number(keys.get(name) ?? 0);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  throw new TypeError(`${name} is not a number of bytes: ${keys.get(name) ?? ''}`);
}

/** Lines `key = value`; `#` and `!` begin comments; the last value of a key counts. */
export function parseProperties(text: string): Properties {
  const keys = new Map<string, string>();
  for (const entry of text.split(/\r?\n/)) {
    const match = /^\s*([A-Za-z0-9._/-]+)\s*=\s*(.*?)\s*$/.exec(entry);
    if (match?.[1] && match[2] !== undefined && match[2] !== '') keys.set(match[1], match[2]);
  }
  return keys;
}

function mainSettings(
  keys: Properties,
  flag: (name: string, missing: boolean) => boolean,
): MainSettings {
  const address = keys.get('tsi.my_addr') ?? '*';
  const anywhere = flag('tsi.disable_ipv6', false) ? '0.0.0.0' : undefined;
  const replyPort = keys.get('tsi.unicorex_port') ?? keys.get('tsi.njs_port');
  const keyFile = keys.get('tsi.keystore');
  const range = /^(\d+):(\d+)$/.exec(keys.get('tsi.local_portrange') ?? '');
  const passphrase = keys.get('tsi.keypass');
  const caFile = keys.get('tsi.truststore');
  return {
    host: address === '*' ? anywhere : address,
    port: portNumber('tsi.my_port', keys.get('tsi.my_port') ?? '4433'),
    clients: (keys.get('tsi.unicorex_machine') ?? keys.get('tsi.njs_machine') ?? 'localhost')
      .split(/[\s,]+/)
      .filter(Boolean),
    ...(replyPort !== undefined && { replyPort: portNumber('tsi.unicorex_port', replyPort) }),
    ...(range && {
      localPorts: [
        portNumber('tsi.local_portrange', range[1]),
        portNumber('tsi.local_portrange', range[2]),
      ],
    }),
    ...(keyFile !== undefined && {
      tls: {
        keyFile,
        certFile: keys.get('tsi.certificate') ?? keyFile,
        ...(passphrase !== undefined && { passphrase }),
        ...(caFile !== undefined && { caFile }),
        allowedDns: [...keys]
          .filter(([name]) => name.startsWith('tsi.allowed_dn.'))
          .map(([, value]) => value),
      },
    }),
  };
}

function portNumber(name: string, text = ''): number {
  const port = Number(text);
  if (Number.isInteger(port) && port >= 0 && port <= 65_535) return port;
  throw new TypeError(`${name} is not a port: ${text}`);
}
