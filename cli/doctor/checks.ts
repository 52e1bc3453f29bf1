import { createPrivateKey, X509Certificate } from 'node:crypto';
import { execFile } from 'node:child_process';
import { readdir, readFile, stat, statfs } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { connect } from 'node:tls';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { GatewayConfig } from '#gateway/config.js';
import { ImagerepoConfig } from '#imagerepo/main.js';
import { loadConfig } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { LibvirtClient } from '#kernel/libvirt/client.js';
import { libvirtCode } from '#kernel/libvirt/errors.js';
import { PoolVolumes } from '#kernel/libvirt/pool-volumes.js';
import { silentLog } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { UsersFile } from '#kernel/security/users.js';
import { TargetsystemConfig } from '#targetsystem/main.js';
import { probeKvm } from '../host/kvm.js';
import { findKernel } from './kernel.js';
import { networkFaults } from './networks.js';

/** `remedy` says what to do, in words that can be followed. */
export type Finding =
  | { readonly state: 'good'; readonly text: string }
  | { readonly state: 'doubtful' | 'bad'; readonly text: string; readonly remedy: string };

export type Checked = { readonly name: string } & Finding;

export type CheckContext = { readonly configDirectory: string; readonly cacheDirectory: string };

type Check = (context: CheckContext, configuration: Configuration) => Promise<Finding>;

type Configuration = {
  readonly gateway: GatewayConfig;
  readonly imagerepo: ImagerepoConfig;
  readonly targetsystem: TargetsystemConfig;
};

const day = 86_400_000;
const callMs = 10_000;
/** libvirt's code for it. */
const noSuchNetwork = 43;
/** The server's connection to an agent, and channels of workers while jobs run. */
const filesPerMachine = 2;
const otherFiles = 1_000;
/** Where no quota says how many there may be. */
const expectedMachines = 100;
const run = promisify(execFile);

const good = (text: string): Finding => ({ state: 'good', text });
const bad = (text: string, remedy: string): Finding => ({ state: 'bad', text, remedy });
const doubtful = (text: string, remedy: string): Finding => ({ state: 'doubtful', text, remedy });

/** In the order in which trouble should be mended. */
const checks: Readonly<Record<string, Check>> = {
  programs: async () => {
    const wanted = ['qemu-system-x86_64', 'qemu-img', 'tar', 'cp'];
    const missing: string[] = [];
    for (const program of wanted)
      await run(program, ['--version'], { timeout: callMs }).catch(() => missing.push(program));
    if (missing.length === 0) return good(`${wanted.join(', ')} are there`);
    return bad(`missing: ${missing.join(', ')}`, 'install the packages qemu-system-x86 qemu-utils');
  },
  'libvirt for machines': (_context, { targetsystem: { xnjs } }) =>
    checkLibvirt(xnjs.hypervisor.machines),
  'libvirt for containers': (_context, { targetsystem: { xnjs } }) =>
    checkLibvirt(xnjs.hypervisor.containers),
  'libvirt of other hosts': (_context, { targetsystem: { xnjs } }) =>
    checkHosts(xnjs.hypervisor.hosts),
  'network for machines': (_context, { targetsystem: { xnjs } }) => checkNetwork(xnjs.hypervisor),
  "networks of users' machines": async (_context, { targetsystem: { xnjs } }) => {
    const { hypervisor } = xnjs;
    const kinds = Object.keys(hypervisor.networks);
    if (kinds.length === 0) return good('none is offered (xnjs.hypervisor.networks)');
    const faults = await networkFaults(hypervisor);
    if (faults.length === 0) return good(`${kinds.join(', ')} can be made, as far as can be seen`);
    return bad(faults.join('; '), 'install what is missing, or do not offer the kind');
  },
  KVM: async ({ cacheDirectory }, { targetsystem: { xnjs } }) => {
    const kernel = await findKernel(cacheDirectory);
    if (kernel === undefined)
      return doubtful('not tried: there is no kernel to boot', 'run: vsite image build-demo');
    const { usable, reason } = await probeKvm({
      kernel,
      stateDir: cacheDirectory,
      log: silentLog,
    });
    const configured = xnjs.hypervisor.acceleration === 'kvm';
    if (usable === configured) return good(reason);
    return usable
      ? doubtful(`${reason}, but is not used`, 'set xnjs.hypervisor.acceleration to kvm')
      : bad(`configured, but: ${reason}`, 'set xnjs.hypervisor.acceleration to qemu');
  },
  certificates: async (_context, { gateway, targetsystem }) => {
    const pairs = [gateway.tls, targetsystem.credential];
    const ends = await Promise.all(pairs.map(checkPair));
    const first = Math.min(...ends.map((until) => until.getTime()));
    const days = Math.floor((first - Date.now()) / day);
    if (days > 14) return good(`valid, the first ends in ${days} days`);
    return doubtful(
      `the first ends in ${days} days`,
      'issue new ones; a quickstart renews its own',
    );
  },
  secrets: async (_context, { gateway, targetsystem, imagerepo }) => {
    const files = [
      gateway.tls.keyFile,
      gateway.signingKeyFile,
      targetsystem.credential.keyFile,
      targetsystem.usersFile,
      imagerepo.usersFile,
    ];
    const modes = await Promise.all(files.map(async (path) => (await stat(path)).mode & 0o077));
    const open = files.filter((_, at) => modes[at] !== 0);
    if (open.length === 0) return good('keys and users are readable by their owner only');
    return bad(`others may read ${open.join(', ')}`, `run: chmod go= ${open.join(' ')}`);
  },
  users: async (_context, { targetsystem: { usersFile } }) => {
    const { users } = await loadConfig(usersFile, UsersFile);
    if (users.length > 0) return good(`${users.length} may come in`);
    return doubtful('nobody may come in', `run: vsite user add NAME --users ${usersFile} --dn DN`);
  },
  database: async (_context, { targetsystem: { xnjs } }) => {
    const { url, passwordFile } = xnjs.database;
    const password = passwordFile && (await readFile(passwordFile, 'utf8')).trim();
    await using database = await openDatabase({ url, password, log: silentLog });
    return good(`${database.sequelize.getDialect()} answers`);
  },
  'open files': async (_context, { targetsystem: { xnjs } }) => {
    const limits = await readFile('/proc/self/limits', 'utf8');
    const [, text = ''] = /^Max open files\s+(\d+|unlimited)/m.exec(limits) ?? [];
    const most = text === 'unlimited' ? Infinity : Number(text);
    const { targetSystems } = xnjs.targetSystems.quota.site;
    const machines = targetSystems ?? expectedMachines;
    const needed = filesPerMachine * machines + otherFiles;
    if (most >= needed) return good(`${text} may be open, enough for ${machines} target systems`);
    return doubtful(
      `${text} may be open, ${machines} target systems take up to ${needed}`,
      `allow more: LimitNOFILE=${needed} in the unit, or ulimit -n ${needed}`,
    );
  },
  disk: async (_context, { targetsystem: { xnjs }, imagerepo }) => {
    const spaces = await Promise.all(
      [xnjs.stateDirectory, imagerepo.storeDirectory].map(async (path) => {
        const { bavail, blocks, bsize } = await statfs(await nearest(path));
        return { path, free: bavail * bsize, share: bavail / blocks };
      }),
    );
    const low = spaces.find(({ free, share }) => free < 10e9 || share < 0.05);
    const least = Math.min(...spaces.map(({ free }) => free));
    if (!low) return good(`${Math.floor(least / 1e9)} GB free`);
    return doubtful(
      `${(low.free / 1e9).toFixed(1)} GB free at ${low.path}`,
      'make room, or put stateDirectory and storeDirectory elsewhere',
    );
  },
  clock: async (_context, { gateway }) => {
    const { validFrom } = new X509Certificate(await readFile(gateway.tls.certFile));
    if (Date.now() >= Date.parse(validFrom)) return good(new Date().toISOString());
    return bad(
      `it is ${new Date().toISOString()} here`,
      'set the clock: certificates are from later',
    );
  },
  gateway: async (_context, { gateway: { listen, tls } }) => {
    const host = listen.host === '::' || listen.host === '0.0.0.0' ? 'localhost' : listen.host;
    const expected = new X509Certificate(await readFile(tls.certFile)).fingerprint256;
    const found = await peerFingerprint(host, listen.port);
    if (found === expected) return good(`answers at port ${listen.port}`);
    return found === undefined
      ? doubtful(`nothing listens at port ${listen.port}`, 'run: vsite serve --config …')
      : bad(`another program has port ${listen.port}`, 'end it, or set listen.port');
  },
};

/** Looks at everything an installation needs. Changes nothing. */
export async function checkAll(context: CheckContext): Promise<Checked[]> {
  const node = process.versions.node;
  const findings: Checked[] = [
    {
      name: 'Node',
      ...(Number.parseInt(node, 10) >= 20 ? good(node) : bad(node, 'install Node 20 or newer')),
    },
  ];
  const configuration = await readConfiguration(context).catch((error: unknown) => {
    const remedy = 'mend the file, or let vsite init write one';
    findings.push({ name: 'configuration', ...bad(errorText(error), remedy) });
  });
  if (!configuration) return findings;
  findings.push({ name: 'configuration', ...good(context.configDirectory) });
  for (const [name, check] of Object.entries(checks)) {
    const finding = await check(context, configuration).catch((error: unknown) =>
      bad(errorText(error), 'see the reason'),
    );
    findings.push({ name, ...finding });
  }
  return findings;
}

async function readConfiguration({ configDirectory }: CheckContext): Promise<Configuration> {
  const at = (name: string): string => join(configDirectory, `${name}.yaml`);
  await readdir(configDirectory);
  return {
    gateway: await loadConfig(at('gateway'), GatewayConfig),
    imagerepo: await loadConfig(at('imagerepo'), ImagerepoConfig),
    targetsystem: await loadConfig(at('targetsystem'), TargetsystemConfig),
  };
}

async function checkLibvirt(uri: string | undefined): Promise<Finding> {
  if (uri === undefined)
    return doubtful('not configured', 'set xnjs.hypervisor in targetsystem.yaml');
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    const { lib_ver } = await client.call('connect_get_lib_version', {});
    const version = [lib_ver / 1_000_000n, (lib_ver / 1_000n) % 1_000n, lib_ver % 1_000n];
    return good(`libvirt ${version.join('.')} answers at ${uri}`);
  } catch (error) {
    return bad(errorText(error), 'start libvirtd, or set the address in xnjs.hypervisor');
  }
}

/** One that does not answer has machines of which nothing is known. */
async function checkHosts(
  hosts: TargetsystemConfig['xnjs']['hypervisor']['hosts'],
): Promise<Finding> {
  const others = hosts.flatMap(({ name, uri, containers, storage }) => [
    ...(uri === undefined ? [] : [{ name, uri, pool: storage?.pool }]),
    ...(containers === undefined
      ? []
      : [{ name: `${name} (containers)`, uri: containers, pool: undefined }]),
  ]);
  const found = await Promise.all(
    others.map(async ({ name, uri, pool }) => {
      const finding = await checkLibvirt(uri);
      const isFit = finding.state !== 'good' || pool === undefined;
      return { name, finding: isFit ? finding : await checkPool(uri, pool) };
    }),
  );
  const faults = found.filter(({ finding }) => finding.state !== 'good');
  if (faults.length === 0)
    return good(others.length === 0 ? 'there are none' : `all ${others.length} answer`);
  return bad(
    faults.map(({ name, finding }) => `${name}: ${finding.text}`).join('; '),
    'start their libvirtd, mend the way there, or correct xnjs.hypervisor.hosts',
  );
}

/** Of a host that images are copied to. */
async function checkPool(uri: string, pool: string): Promise<Finding> {
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    const bytes = await new PoolVolumes(client, pool).availableBytes();
    return good(`storage pool ${pool}: ${Math.floor(bytes / 1024 ** 2)} MiB free`);
  } catch (error) {
    return bad(errorText(error), 'define the pool there, or correct xnjs.hypervisor.hosts');
  }
}

/** @returns the path, or what it will be made in: the first start makes directories */
async function nearest(path: string): Promise<string> {
  try {
    await stat(path);
    return path;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return await nearest(dirname(path));
  }
}

/** For images whose TSI is reached over TCP; most need none. */
async function checkNetwork({
  machines: uri,
  network,
}: TargetsystemConfig['xnjs']['hypervisor']): Promise<Finding> {
  if (!network)
    return doubtful(
      'none: images with tsi.transport tcp are refused',
      "set xnjs.hypervisor.network, with a libvirtd in this host's own network; a quickstart's is not",
    );
  if (uri === undefined) return bad('no libvirt for machines', 'set xnjs.hypervisor.machines');
  try {
    await using client = await LibvirtClient.connect({ uri, log: silentLog });
    await client.call('network_lookup_by_name', { name: network.name });
  } catch (error) {
    // it is made with the first machine that wants it
    if (libvirtCode(error) !== noSuchNetwork)
      return bad(
        errorText(error),
        'install libvirt-daemon with its network and nwfilter drivers, and dnsmasq-base',
      );
    return good(`${network.name} is made when a machine needs it`);
  }
  const [address = ''] = network.server.split('/');
  const own = Object.values(networkInterfaces()).flatMap((each) => each ?? []);
  if (own.some((each) => each.address === address)) return good(`${network.name}, ${address}`);
  return bad(
    `libvirt has ${network.name}, and this host has no address ${address}`,
    "libvirtd has a network namespace of its own: use the system's",
  );
}

/** @returns when the certificate ends @throws where key and certificate do not fit, or it is not valid now */
async function checkPair({
  keyFile,
  certFile,
}: {
  keyFile: string;
  certFile: string;
}): Promise<Date> {
  const certificate = new X509Certificate(await readFile(certFile));
  if (!certificate.checkPrivateKey(createPrivateKey(await readFile(keyFile))))
    throw new Error(`${keyFile} is not the key of ${certFile}`);
  const until = new Date(certificate.validTo);
  if (until.getTime() < Date.now()) throw new Error(`${certFile} ended on ${certificate.validTo}`);
  return until;
}

/** The certificate of whatever listens there. */
async function peerFingerprint(host: string, port: number): Promise<string | undefined> {
  // it is the identity that is asked for, not whether we trust it
  const socket = connect({ host, port, rejectUnauthorized: false, timeout: callMs });
  return await new Promise((resolve) => {
    socket.once('secureConnect', () => resolve(socket.getPeerCertificate().fingerprint256));
    socket.once('timeout', () => resolve(''));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      resolve(error.code === 'ECONNREFUSED' ? undefined : ''),
    );
  }).then((found) => {
    socket.destroy();
    return found as string | undefined;
  });
}
