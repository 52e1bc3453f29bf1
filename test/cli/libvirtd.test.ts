import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { findLibvirtd, startLibvirtd, stopLibvirtd } from '#cli/host/libvirtd.js';
import { findProcess, isRunning, waitFor } from '#cli/host/process.js';
import { silentLog } from '#kernel/log.js';
import { nodeFlags } from '../program.js';

const run = promisify(execFile);
const log = silentLog;
const skip = process.getuid?.() === 0 ? false : 'containers and namespaces need root';

/** Command lines of processes that mention the folder. */
async function processesOf(folder: string): Promise<string[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const lines = await Promise.all(
    pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return lines.filter((line) => line.includes(folder));
}

const machineXml = (folder: string) => `<domain type='qemu'><name>vsite-test-vm</name>
  <memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator><controller type='usb' model='none'/>
    <channel type='unix'><source mode='bind' path='${folder}/vm.sock'/>
      <target type='virtio' name='org.vsite.tsi.0'/></channel>
    <memballoon model='none'/></devices></domain>`;

const containerXml = (folder: string) => `<domain type='lxc'><name>vsite-test-container</name>
  <memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type>exe</type><init>/bin/busybox</init><initarg>sleep</initarg><initarg>1000</initarg></os>
  <devices><filesystem type='mount'><source dir='${folder}/root'/><target dir='/'/></filesystem>
    <console type='pty'/></devices></domain>`;

describe('a libvirtd of our own', { skip, concurrency: false }, () => {
  let folder: string;
  let stateDir: string;
  let cacheDir: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'vsite-libvirtd-'));
    [stateDir, cacheDir] = [join(folder, 'state'), join(folder, 'cache')];
    for (const name of ['bin', 'dev', 'proc', 'sys', 'tmp'])
      await mkdir(join(folder, 'root', name), { recursive: true });
    await run('cp', ['/bin/busybox', join(folder, 'root/bin/busybox')]);
  });
  after(async () => {
    await stopLibvirtd(stateDir);
    await rm(folder, { recursive: true, force: true });
  });

  const virsh = async (uri: string, ...args: string[]) =>
    (await run('virsh', ['-q', '-c', uri, ...args])).stdout;

  const startGuests = async (uri: (driver: 'qemu' | 'lxc') => string) => {
    await writeFile(join(folder, 'vm.xml'), machineXml(folder));
    await writeFile(join(folder, 'container.xml'), containerXml(folder));
    await virsh(uri('qemu'), 'create', join(folder, 'vm.xml'));
    await virsh(uri('lxc'), 'create', join(folder, 'container.xml'));
  };

  it('runs machines and containers, and takes them with it when it stops', async () => {
    const mounts = await readFile('/proc/self/mounts', 'utf8');
    const daemon = await startLibvirtd({ stateDir, cacheDir, log });
    await startGuests((driver) => daemon.uri(driver));
    await access(join(folder, 'vm.sock')); // seen from outside the namespace
    assert.match(await virsh(daemon.uri('lxc'), 'list', '--name'), /vsite-test-container/);
    await daemon.stop();
    await daemon.stop();
    assert.deepEqual(await processesOf(folder), []);
    assert.equal(await readFile('/proc/self/mounts', 'utf8'), mounts);
    const { stdout } = await run('find', ['/sys/fs/cgroup', '-name', '*-vsite-test-*.libvirt-*']);
    assert.equal(stdout, '');
    assert.equal(await findLibvirtd(stateDir), undefined);
  });

  it('keeps what it learnt of QEMU for its next start', async () => {
    const learnt = await readdir(join(cacheDir, 'qemu', 'capabilities'));
    assert(learnt.length > 0);
    await using daemon = disposable(await startLibvirtd({ stateDir, cacheDir, log }));
    const started = performance.now();
    await virsh(daemon.uri('qemu'), 'domcapabilities', '--virttype', 'qemu');
    assert(performance.now() - started < 1_500, 'QEMU was asked again');
    assert.deepEqual(await readdir(join(cacheDir, 'qemu', 'capabilities')), learnt);
  });

  it('is found by others and started once only', async () => {
    await using daemon = disposable(await startLibvirtd({ stateDir, cacheDir, log }));
    const again = await startLibvirtd({ stateDir, cacheDir, log });
    assert.deepEqual([again.pid, (await findLibvirtd(stateDir))?.pid], [daemon.pid, daemon.pid]);
  });

  it('outlives the kill of the process that started it', async () => {
    const script = `
      import { startLibvirtd } from '#cli/host/libvirtd.js';
      import { silentLog as log } from '#kernel/log.js';
      const [stateDir, cacheDir] = process.argv.slice(-2);
      await startLibvirtd({ stateDir, cacheDir, log });
      process.kill(process.pid, 'SIGKILL');`;
    const flags = [...nodeFlags, '--input-type=module'];
    const starter = run(process.execPath, [...flags, '-e', script, '--', stateDir, cacheDir]);
    await assert.rejects(starter, { signal: 'SIGKILL' });
    const found = await findLibvirtd(stateDir);
    assert(found);
    await found.stop();
    assert.deepEqual(await processesOf(folder), []);
  });

  it('takes a pid that now belongs to another process for a stopped daemon', async () => {
    const record = { ...(await findProcess(process.pid)), startTicks: '1' };
    await writeFile(join(stateDir, 'libvirtd.json'), JSON.stringify(record));
    assert.equal(await findLibvirtd(stateDir), undefined);
    await stopLibvirtd(stateDir); // and this process is still here
  });

  it('says why the daemon did not start, and leaves nothing running', async () => {
    const extraConfig = ['max_workers = "many"'];
    await assert.rejects(startLibvirtd({ stateDir, cacheDir, log, extraConfig }), {
      code: 'HYPERVISOR_UNAVAILABLE',
      message: /max_workers/,
    });
    assert.deepEqual(await processesOf(folder), []);
  });

  it('refuses a folder whose sockets would have too long names', async () => {
    const long = join(folder, 'x'.repeat(100));
    await assert.rejects(startLibvirtd({ stateDir: long, cacheDir, log }), {
      code: 'HYPERVISOR_UNAVAILABLE',
    });
  });
});

describe('a session libvirtd', { skip }, () => {
  const nobody = 65_534;
  it('runs machines of an ordinary user and ends with them', async (t) => {
    const readable = run('test', ['-r', import.meta.filename], { uid: nobody, gid: nobody });
    if (!(await readable.then(Boolean, () => false))) {
      t.skip('other users cannot read this folder');
      return;
    }
    const folder = await mkdtemp(join(tmpdir(), 'vsite-session-'));
    const script = `
      import { startLibvirtd, stopLibvirtd } from '#cli/host/libvirtd.js';
      import { silentLog as log } from '#kernel/log.js';
      const [action, stateDir] = process.argv.slice(-2);
      if (action === 'stop') await stopLibvirtd(stateDir);
      else console.log((await startLibvirtd({ stateDir, log })).uri(action));`;
    const ids = { uid: nobody, gid: nobody };
    const flags = [...nodeFlags, '--input-type=module'];
    const act = async (action: string) => {
      const args = [...flags, '-e', script, '--', action, join(folder, 's')];
      return (await run(process.execPath, args, ids)).stdout.trim();
    };
    try {
      await writeFile(join(folder, 'vm.xml'), machineXml(folder), { mode: 0o644 });
      await run('chown', ['-R', String(nobody), folder]);
      const uri = await act('qemu');
      await run('virsh', ['-q', '-c', uri, 'create', join(folder, 'vm.xml')], ids);
      await assert.rejects(act('lxc'), /HYPERVISOR_UNAVAILABLE/);
      await act('stop');
      assert(await waitFor(async () => (await processesOf(folder)).length === 0, 2_000));
    } finally {
      await act('stop');
      await rm(folder, { recursive: true });
    }
  });
});

describe('a process record', () => {
  it('matches the process it was made of and no other', async () => {
    const record = await findProcess(process.pid);
    assert(record);
    assert.equal(await isRunning(record), true);
    assert.equal(await isRunning({ ...record, startTicks: '1' }), false);
    assert.equal(await isRunning({ ...record, bootId: 'another' }), false);
    assert.equal(await findProcess(4_194_305), undefined);
  });
});

function disposable<T extends { stop(): Promise<void> }>(value: T): T & AsyncDisposable {
  return { ...value, [Symbol.asyncDispose]: () => value.stop() };
}
