// The entry of `npm run quickstart` and `npm test` on a machine that has Node and nothing else.
// It makes the machine ready, then hands over to the program proper. Plain JavaScript without
// dependencies: there is no node_modules yet. Old Nodes must get far enough to be told so, hence
// no `node:` imports.
import { spawn } from 'child_process';
import { chmodSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'fs';
import { tmpdir } from 'os';
import { dirname, join, relative, sep } from 'path';
import { fileURLToPath } from 'url';
import { compile, compileTests } from './compile.mjs';
import { writeTestEntries } from './test-entries.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const withSourceMaps = ['--enable-source-maps'];
const commandLine = join('dist', 'cli', 'main.js');

const packages = {
  hypervisor: [
    ...['libvirt-daemon', 'libvirt-daemon-driver-qemu', 'libvirt-daemon-driver-lxc'],
    ...['libvirt-clients', 'qemu-system-x86', 'qemu-utils', 'dnsmasq-base', 'iptables'],
    ...['iproute2', 'tini'],
  ],
  image: ['busybox-static', 'binutils', 'lz4', 'xz-utils', 'ca-certificates'],
  tests: [
    ...['python3-venv', 'openssl', 'curl', 'libxml2-utils', 'procps'],
    ...['syslinux', 'syslinux-common', 'mtools', 'dosfstools', 'postgresql', 'acl'],
    ...['slurmctld', 'slurmd', 'slurm-client', 'munge'],
  ],
  compiler: ['python3', 'make', 'g++'],
};

/** What went wrong and what to do, for people: no stack is shown. */
export class BootstrapError extends Error {}

/**
 * @typedef {{ code: number, output: string }} Outcome
 * @typedef {(command: string, args: string[]) => Promise<Outcome>} Run
 */

/** Runs a command quietly; 127 when there is no such command. @type {Run} */
function runQuietly(command, args) {
  return new Promise((resolve) => {
    const env = { ...process.env, LC_ALL: 'C' };
    const child = spawn(command, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk) => (output = (output + chunk).slice(-100_000));
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', (error) => resolve({ code: 127, output: error.message }));
    child.on('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

/** The packages of `wanted` that are not installed. @param {Run} run */
export async function missingPackages(wanted, run = runQuietly) {
  const { code, output } = await run('dpkg-query', [
    '-W',
    '-f',
    '${Package} ${Status}\n',
    ...wanted,
  ]);
  if (code === 127)
    throw new BootstrapError(
      `this is no Debian system. It needs what Debian calls ${wanted.join(' ')}`,
    );
  const installed = new Set();
  for (const line of output.split('\n'))
    if (line.endsWith(' install ok installed')) installed.add(line.split(' ')[0]);
  return wanted.filter((name) => !installed.has(name));
}

/**
 * Installs what is missing, as root or by sudo without a password.
 * @returns what was done
 * @throws {BootstrapError} with the one line to run where neither is possible
 */
export async function ensurePackages(wanted, { run = runQuietly, uid = process.getuid() } = {}) {
  const missing = await missingPackages(wanted, run);
  if (missing.length === 0) return 'all there';
  const install = ['apt-get', 'install', '-y', '--no-install-recommends', ...missing];
  const asRoot = await findRootPrefix(run, uid);
  if (!asRoot)
    throw new BootstrapError(
      `${missing.join(', ')}: not installed, and only root can do that. Please run\n` +
        `  sudo apt-get update && sudo ${install.join(' ')}\nand start again`,
    );
  const apt = (args) => {
    const [command, ...rest] = [...asRoot, 'env', 'DEBIAN_FRONTEND=noninteractive', ...args];
    return run(command, rest);
  };
  let outcome = await apt(install);
  if (outcome.code !== 0) {
    // no package lists yet, or outdated ones
    await apt(['apt-get', 'update']);
    outcome = await apt(install);
  }
  if (outcome.code !== 0)
    throw new BootstrapError(`${install.join(' ')} failed:\n${lastLines(outcome.output)}`);
  return `installed ${missing.join(' ')}`;
}

/** Debian's PostgreSQL makes a database cluster and starts it as it is installed; the tests start their own. */
async function keepPostgresQuiet({ run = runQuietly, uid = process.getuid() } = {}) {
  if ((await missingPackages(['postgresql-common'], run)).length === 0) return 'there already';
  const asRoot = await findRootPrefix(run, uid);
  if (!asRoot) return 'left to whoever installs it';
  const folder = '/etc/postgresql-common/createcluster.d';
  const line = `mkdir -p ${folder} && echo 'create_main_cluster = false' > ${folder}/vsite.conf`;
  const [command, ...args] = [...asRoot, 'sh', '-c', line];
  const { code, output } = await run(command, args);
  if (code !== 0) throw new BootstrapError(`${line} failed: ${lastLines(output)}`);
  return 'no cluster of its own';
}

/** How to run something as root: `[]` as root, `undefined` if there is no way. */
async function findRootPrefix(run, uid) {
  if (uid === 0) return [];
  return (await run('sudo', ['-n', 'true'])).code === 0 ? ['sudo', '-n'] : undefined;
}

/** libvirtd ends at once without this user, even where no guest runs as it. */
async function ensureUser({ run = runQuietly, uid = process.getuid() } = {}) {
  const exists = async (kind) => (await run('getent', [kind, 'libvirt-qemu'])).code === 0;
  const [group, user] = [await exists('group'), await exists('passwd')];
  if (group && user) return 'there';
  const asRoot = await findRootPrefix(run, uid);
  if (!asRoot) return 'missing, which matters to root only';
  const act = async (...line) => {
    const [command, ...args] = [...asRoot, ...line];
    const { code, output } = await run(command, args);
    if (code !== 0) throw new BootstrapError(`${line.join(' ')} failed: ${lastLines(output)}`);
  };
  if (!group) await act('groupadd', '--system', 'libvirt-qemu');
  const options = ['--system', '-g', 'libvirt-qemu', '-s', '/usr/sbin/nologin'];
  if (!user) await act('useradd', ...options, 'libvirt-qemu');
  return 'made';
}

/** Whether node_modules holds what package-lock.json asks for. */
export function modulesMatch(folder = root) {
  const read = (path) => JSON.parse(readFileSync(join(folder, path), 'utf8')).packages;
  try {
    const wanted = read('package-lock.json');
    const installed = read('node_modules/.package-lock.json');
    return Object.entries(wanted).every(
      ([path, { version, integrity, optional }]) =>
        path === '' ||
        (installed[path]
          ? installed[path].version === version && installed[path].integrity === integrity
          : optional),
    );
  } catch {
    return false;
  }
}

async function ensureModules() {
  if (modulesMatch() && (await sqliteLoads())) return 'all there';
  let outcome = modulesMatch() ? undefined : await npm('ci', '--no-audit', '--no-fund');
  if (outcome && outcome.code !== 0 && (await missingPackages(packages.compiler)).length > 0) {
    // sqlite3 has no binary for every system and is compiled then
    await ensurePackages(packages.compiler);
    outcome = await npm('ci', '--no-audit', '--no-fund');
  }
  if (outcome && outcome.code !== 0)
    throw new BootstrapError(`npm ci failed:\n${lastLines(outcome.output)}`);
  if (await sqliteLoads()) return 'installed';
  // the downloaded binary wants another libc than this system's
  await ensurePackages(packages.compiler);
  const rebuilt = await npm('rebuild', 'sqlite3', '--build-from-source');
  if (await sqliteLoads()) return 'installed, sqlite3 compiled';
  throw new BootstrapError(`sqlite3 does not load:\n${lastLines(rebuilt.output)}`);
}

async function sqliteLoads() {
  return (await runQuietly(process.execPath, ['-e', 'require("sqlite3")'])).code === 0;
}

function npm(...args) {
  const script = process.env.npm_execpath;
  return script?.endsWith('.js')
    ? runQuietly(process.execPath, [script, ...args])
    : runQuietly('npm', args);
}

function lastLines(output) {
  return output.trim().split('\n').slice(-15).join('\n');
}

/** Says what is done, then how it went and how long it took. */
async function step(title, action) {
  const started = Date.now();
  process.stdout.write(`${title} … `);
  try {
    const result = await action();
    console.log(`${result} (${((Date.now() - started) / 1000).toFixed(1)} s)`);
  } catch (error) {
    console.log('failed');
    throw error;
  }
}

/** Runs the program proper with our terminal. @returns its exit code */
function handOver(args) {
  const PATH = `${process.env.PATH}:/usr/sbin:/sbin`; // libvirtd, for users without them
  const env = { ...process.env, PATH };
  const child = spawn(process.execPath, args, { cwd: root, env, stdio: 'inherit' });
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  // the terminal sends it to both of us; others may send it to us only
  process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'));
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code, signal) => resolve(code ?? (signal === 'SIGINT' ? 130 : 143)));
  });
}

/** All test files, or those whose paths contain one of `parts`. */
export function testFiles(parts, folder = join(root, 'test')) {
  const found = [];
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) found.push(...testFiles([], path));
    else if (entry.name.endsWith('.test.ts')) found.push(path);
  }
  const name = (path) => relative(root, path).split(sep).join('/');
  return found
    .sort()
    .filter((path) => !parts.length || parts.some((part) => name(path).includes(part)));
}

/** Below `test/`. */
function nameOf(path) {
  return relative(join(root, 'test'), path).split(sep).join('/');
}

async function runTests(args) {
  const flags = args.filter((arg) => arg.startsWith('-'));
  const files = testFiles(args.filter((arg) => !arg.startsWith('-')));
  if (files.length === 0) throw new BootstrapError(`no test file matches ${args.join(' ')}`);
  const compiled = await compileTests();
  const built = await handOver([...withSourceMaps, commandLine, 'image', 'build-demo']);
  if (built !== 0) return built;
  const reporter = flags.some((flag) => flag.startsWith('--test-reporter'))
    ? []
    : ['--test-reporter=spec'];
  // a file that something keeps from its end has failed; nobody waits for it for ever
  const limits = ['--test-concurrency=3', '--test-timeout=900000'];
  const runner = ['--test', ...limits, ...reporter, ...flags];
  const shared = mkdtempSync(join(tmpdir(), 'vsite-tests-'));
  chmodSync(shared, 0o711); // agents run by other users find their program there
  process.env.VSITE_TEST_SHARED = shared; // see test/shared-files.ts
  try {
    return await handOver([
      ...withSourceMaps,
      ...runner,
      ...writeTestEntries(files.map(nameOf), compiled, join(shared, 'entries')),
    ]);
  } finally {
    rmSync(shared, { recursive: true, force: true });
  }
}

async function main([command, ...args]) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 11))
    throw new BootstrapError(`Node 20.11 or newer is needed, this is ${process.version}`);
  if (command !== 'quickstart' && command !== 'test')
    throw new BootstrapError('usage: node cli/bootstrap.mjs quickstart|test [argument…]');
  const wanted = [...packages.hypervisor, ...packages.image];
  if (command === 'test') wanted.push(...packages.tests);
  if (command === 'test') await step('PostgreSQL', () => keepPostgresQuiet());
  await step('Debian packages', () => ensurePackages(wanted));
  await step('user libvirt-qemu', () => ensureUser());
  await step('npm packages', ensureModules);
  if (command === 'quickstart')
    await step('server', async () => ((await compile()) ? 'compiled' : 'compiled already'));
  return command === 'test'
    ? runTests(args)
    : handOver([...withSourceMaps, commandLine, 'quickstart', ...args]);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url))
  main(process.argv.slice(2)).then(
    (code) => (process.exitCode = code),
    (error) => {
      console.error(error instanceof BootstrapError ? error.message : error);
      process.exitCode = 1;
    },
  );
