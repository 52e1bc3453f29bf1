import assert from 'node:assert/strict';
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { probeKvm } from '#cli/host/kvm.js';
import { buildDemoVm } from '#cli/image/build.js';
import { defaultCacheDirectory } from '#cli/quickstart/layout.js';
import { silentLog as log } from '#kernel/log.js';

describe('the KVM probe', { concurrency: false }, () => {
  let folder: string;
  let kernel: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'vsite-kvm-'));
    const cacheDir = join(defaultCacheDirectory(), 'images');
    kernel = (await buildDemoVm({ cacheDir, log })).kernel;
  });
  after(() => rm(folder, { recursive: true, force: true }));

  /** A QEMU whose guests do what `script` says; `"$@"` are its arguments. */
  async function qemu(name: string, script: string): Promise<string> {
    const path = join(folder, name);
    await writeFile(path, `#!/bin/bash\n[ "$1" != --version ] || exec echo 'QEMU 1'\n${script}\n`);
    await chmod(path, 0o755);
    return path;
  }
  // any device will do that can be opened: the stand-ins do not use it
  const probe = (options: { qemu: string; timeoutMs?: number }) =>
    probeKvm({ kernel, stateDir: join(folder, 'state'), log, device: '/dev/null', ...options });

  it('says yes where a guest really boots', async () => {
    const emulated = await qemu(
      'works',
      'a=("${@/#kvm/tcg}"); exec qemu-system-x86_64 "${a[@]/#host/max}"',
    );
    const verdict = await probe({ qemu: emulated, timeoutMs: 60_000 });
    assert.equal(verdict.usable, true, verdict.reason);
  });

  it('says no in time where guests hang, and ends the guest', async () => {
    const hangs = await qemu('hangs', `echo $$ > ${join(folder, 'pid')}; exec sleep 1000`);
    const verdict = await probe({ qemu: hangs, timeoutMs: 200 });
    assert.equal(verdict.usable, false);
    assert.match(verdict.reason, /nothing within 0\.2 s/);
    const pid = Number(await readFile(join(folder, 'pid'), 'utf8'));
    assert.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
  });

  it('passes on what QEMU said when it failed', async () => {
    const fails = await qemu('fails', 'echo "no such luck" >&2; exit 1');
    assert.match((await probe({ qemu: fails })).reason, /no such luck/);
  });

  it('asks once for each start of the host and version of QEMU', async () => {
    const counted = await qemu('counted', `echo x >> ${join(folder, 'count')}; exit 1`);
    const first = await probe({ qemu: counted });
    assert.deepEqual(await probe({ qemu: counted }), first);
    assert.equal(await readFile(join(folder, 'count'), 'utf8'), 'x\n');
    assert.deepEqual(await readdir(join(folder, 'state')), ['kvm.json']);
  });

  it('says no at once where there is no device', async () => {
    const stateDir = join(folder, 'none');
    const verdict = await probeKvm({ kernel, stateDir, log, device: join(folder, 'no-device') });
    assert.equal(verdict.usable, false);
  });
});
