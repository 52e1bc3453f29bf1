import { execFile } from 'node:child_process';
import { readFile, stat, statfs } from 'node:fs/promises';
import { promisify } from 'node:util';
import { loadConfig } from '#kernel/config.js';
import { errorText } from '#kernel/errors.js';
import { silentLog } from '#kernel/log.js';
import { UsersFile } from '#kernel/security/users.js';
import { probeKvm } from '../host/kvm.js';
import { checkCertificates } from './certificates.js';
import { checkClock } from './clock.js';
import { readConfiguration, type Configuration } from './configuration.js';
import { checkDatabases } from './databases.js';
import { bad, doubtful, good, unseen, type Finding } from './finding.js';
import { findKernel } from './kernel.js';
import { checkHosts, checkNetwork } from './libvirt.js';
import { networkFaults } from './networks.js';
import { nearest } from './paths.js';
import { checkGateway, checkPorts } from './ports.js';
import { checkLibvirt } from './versions.js';

export type Checked = { readonly name: string } & Finding;

export type CheckContext = { readonly configDirectory: string; readonly cacheDirectory: string };

type Check = {
  readonly look: (configuration: Configuration, context: CheckContext) => Promise<Finding>;
  /** What to do where looking itself fails. */
  readonly remedy: string;
};

/** The server's connection to an agent, and channels of workers while jobs run. */
const filesPerMachine = 2;
const otherFiles = 1_000;
/** Where no quota says how many there may be. */
const expectedMachines = 100;
const callMs = 10_000;
const run = promisify(execFile);

/** Whoever looks at the gateway believes its certificate. */
const gatewayCertificate = 'put the certificate of gateway.yaml: tls.certFile there';

/** In the order in which trouble should be mended. */
const checks: Readonly<Record<string, Check>> = {
  programs: { look: checkPrograms, remedy: 'install the packages qemu-system-x86 qemu-utils' },
  'libvirt for machines': {
    look: ({ targetsystem: { xnjs } }) => checkLibvirt(xnjs.hypervisor.machines),
    remedy: 'correct xnjs.hypervisor.machines',
  },
  'libvirt for containers': {
    look: ({ targetsystem: { xnjs } }) => checkLibvirt(xnjs.hypervisor.containers),
    remedy: 'correct xnjs.hypervisor.containers',
  },
  'libvirt of other hosts': {
    look: ({ targetsystem: { xnjs } }) => checkHosts(xnjs.hypervisor.hosts),
    remedy: 'correct xnjs.hypervisor.hosts',
  },
  'network for machines': {
    look: ({ targetsystem: { xnjs } }) => checkNetwork(xnjs.hypervisor),
    remedy: 'correct xnjs.hypervisor.network',
  },
  "networks of users' machines": {
    look: checkNetworks,
    remedy: 'correct xnjs.hypervisor.networks, or do not offer them',
  },
  KVM: { look: checkKvm, remedy: 'set xnjs.hypervisor.acceleration to qemu' },
  certificates: { look: checkCertificates, remedy: 'issue certificates and keys anew' },
  secrets: { look: checkSecrets, remedy: 'let vsite init write keys and users' },
  users: {
    look: checkUsers,
    remedy: 'mend the file (config: usersFile), or let vsite init write one',
  },
  databases: { look: checkDatabases, remedy: 'correct database.url' },
  'open files': { look: checkOpenFiles, remedy: 'mount /proc' },
  disk: { look: checkDisk, remedy: 'correct stateDirectory and storeDirectory' },
  clock: { look: checkClock, remedy: 'set the clock, and keep it in time by NTP' },
  ports: { look: checkPorts, remedy: gatewayCertificate },
  gateway: { look: checkGateway, remedy: gatewayCertificate },
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
  const configuration = await readConfiguration(context.configDirectory).catch((error: unknown) => {
    const remedy = 'mend the file, or let vsite init write one';
    findings.push({ name: 'configuration', ...bad(errorText(error), remedy) });
  });
  if (!configuration) return findings;
  findings.push({ name: 'configuration', ...good(context.configDirectory) });
  for (const [name, { look, remedy }] of Object.entries(checks)) {
    const finding = await look(configuration, context).catch((error: unknown) =>
      unseen(error, remedy),
    );
    findings.push({ name, ...finding });
  }
  return findings;
}

async function checkPrograms(): Promise<Finding> {
  const wanted = ['qemu-system-x86_64', 'qemu-img', 'tar', 'cp'];
  const missing: string[] = [];
  for (const program of wanted)
    await run(program, ['--version'], { timeout: callMs }).catch(() => missing.push(program));
  if (missing.length === 0) return good(`${wanted.join(', ')} are there`);
  return bad(`missing: ${missing.join(', ')}`, 'install the packages qemu-system-x86 qemu-utils');
}

async function checkNetworks({ targetsystem: { xnjs } }: Configuration): Promise<Finding> {
  const { hypervisor } = xnjs;
  const kinds = Object.keys(hypervisor.networks);
  if (kinds.length === 0) return good('none is offered (xnjs.hypervisor.networks)');
  const faults = await networkFaults(hypervisor);
  if (faults.length === 0) return good(`${kinds.join(', ')} can be made, as far as can be seen`);
  return bad(faults.join('; '), 'install what is missing, or do not offer the kind');
}

async function checkKvm(
  { targetsystem: { xnjs } }: Configuration,
  { cacheDirectory }: CheckContext,
): Promise<Finding> {
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
}

async function checkSecrets({ gateway, targetsystem, imagerepo }: Configuration): Promise<Finding> {
  const used = [
    gateway.tls.keyFile,
    gateway.signingKeyFile,
    targetsystem.credential.keyFile,
    targetsystem.usersFile,
    imagerepo.usersFile,
    ...(gateway.apiTokens ? [gateway.apiTokens.clientSecretFile] : []),
  ];
  const files = [...new Set(used)];
  const modes = await Promise.all(files.map(async (path) => (await stat(path)).mode & 0o077));
  const open = files.filter((_, at) => modes[at] !== 0);
  if (open.length === 0) return good('keys, secrets and users are readable by their owner only');
  return bad(`others may read ${open.join(', ')}`, `run: chmod go= ${open.join(' ')}`);
}

async function checkUsers({ targetsystem: { usersFile } }: Configuration): Promise<Finding> {
  const { users } = await loadConfig(usersFile, UsersFile);
  if (users.length > 0) return good(`${users.length} may come in`);
  return doubtful('nobody may come in', `run: vsite user add NAME --users ${usersFile} --dn DN`);
}

async function checkOpenFiles({ targetsystem: { xnjs } }: Configuration): Promise<Finding> {
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
}

async function checkDisk({ targetsystem: { xnjs }, imagerepo }: Configuration): Promise<Finding> {
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
}
