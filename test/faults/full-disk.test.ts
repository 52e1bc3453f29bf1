import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Scope } from '#kernel/scope.js';
import { createRecordStores } from '#xnjs/persistence/sql-record-store.js';
import { LibvirtHypervisor } from '#xnjs/vm/libvirt-hypervisor.js';
import type { VmState } from '#xnjs/vm/state.js';
import type { TargetSystems } from '#xnjs/vm/target-systems.js';
import type { Template, TemplateStore } from '#xnjs/vm/tiers/template.js';
import { mountTinyDisk } from '../kernel/persistence/tiny-disk.js';
import { aDaemon, withoutLibvirtd } from '../kernel/libvirt/daemon.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { bootKernel } from './boot-sectors.js';
import { startAgents, startMachines } from './machine-rig.js';

const skip = withoutLibvirtd || (process.getuid?.() === 0 ? false : 'needs root, to mount');
const bytesPerMiB = 1_048_576;

describe(
  'a host whose disk is full when the memory of a machine is written',
  { skip, timeout: 240_000 },
  () => {
    const scope = new Scope();
    let daemon: Awaited<ReturnType<typeof aDaemon>>;
    let systems: TargetSystems;
    let templates: TemplateStore;
    /** The files of all machines. */
    let small: string;
    /** What is done before libvirt writes memory, once. */
    let beforeSaving: (() => void) | undefined;
    /** What is done when saved memory is complete, once. */
    let whenSaved: (() => void) | undefined;

    class Watched extends LibvirtHypervisor {
      override saveMemory(...args: Parameters<LibvirtHypervisor['saveMemory']>) {
        struck();
        return super.saveMemory(...args);
      }
      override saveMemoryTo(...args: Parameters<LibvirtHypervisor['saveMemoryTo']>) {
        struck();
        return super.saveMemoryTo(...args);
      }
    }
    const struck = (): void => {
      beforeSaving?.();
      beforeSaving = undefined;
    };

    before(async () => {
      const disk = await mountTinyDisk(scope, '160m');
      if ('skip' in disk) throw new Error(disk.skip);
      small = disk.path;
      daemon = scope.use(await aDaemon());
      const state = join(daemon.stateDir, 's');
      mkdirSync(state);
      await startAgents(scope, join(state, 'agents.sock'));
      const kernel = bootKernel(join(state, 'kernel'));
      const database = await openTables(scope, `sqlite:${join(state, 'db.sqlite')}`);
      const plain = createRecordStores(database)<Template>('template');
      templates = {
        ...plain,
        async save(template) {
          await plain.save(template);
          if (template.patches === undefined) return;
          whenSaved?.();
          whenSaved = undefined;
        },
      };
      systems = await startMachines(scope, {
        ...{ database, uri: daemon.options('qemu').uri, directory: small, format: 'kernel' },
        part: () => kernel,
        socketOf: () => join(state, 'agents.sock'),
        hypervisor: (options) => new Watched(options),
        warm: { store: templates, maxImages: 2 },
      });
    });
    after(() => scope.close());

    const domains = (): string =>
      execFileSync('virsh', ['-q', '-c', daemon.options('qemu').uri, 'list', '--all', '--name'], {
        encoding: 'utf8',
      }).trim();
    const make = async (image: string): Promise<string> => {
      const wish = { ownerDn: 'CN=User', image, parameters: {}, tags: [] };
      const { id } = await systems.create(wish);
      await becomes(id, 'READY');
      return id;
    };
    const becomes = (id: string, state: VmState): Promise<void> =>
      until(`${id} is ${state}`, () => systems.get(id).state === state, 60_000);
    const gone = async (id: string): Promise<void> => {
      await systems.destroy(id);
      await until('it is gone', () => systems.list().every((each) => each.id !== id));
    };
    const filler = () => join(small, 'filler');
    /** Until no more fits, but as much as that. */
    const fill = (leftKiB = 0): void => {
      const piece = Buffer.alloc(bytesPerMiB);
      for (;;)
        try {
          appendFileSync(filler(), piece);
        } catch (error) {
          assert.equal((error as NodeJS.ErrnoException).code, 'ENOSPC');
          break;
        }
      truncateSync(filler(), statSync(filler()).size - leftKiB * 1_024);
    };
    const filesOf = (): string[] => readdirSync(join(small, 'vms'));

    it('a snapshot: refused where it may not fit, given up where it does not; the machine runs on', async () => {
      const id = await make('kept');
      const taken = async (name: string) => {
        const { id: snapshotId } = await systems.snapshots.take(id, name);
        const find = () => systems.get(id).snapshots?.find((each) => each.id === snapshotId);
        await until('it is over', () => find()?.state !== 'TAKING', 60_000);
        await becomes(id, 'READY');
        return find()!;
      };
      const process = execFileSync('pgrep', ['-o', '-f', `guest=vsite-${id}`], {
        encoding: 'utf8',
      });
      fill();
      const message = /no room for it on the disk of the host: \d+ MiB may be needed/;
      await assert.rejects(systems.snapshots.take(id, 'no room'), {
        code: 'STORAGE_FULL',
        message,
      });
      assert.equal(systems.get(id).state, 'READY');
      rmSync(filler());
      beforeSaving = () => fill();
      const failed = await taken('full meanwhile');
      assert.equal(failed.state, 'FAILED');
      assert.match(failed.message ?? '', /space|write/i);
      assert.equal(
        execFileSync('pgrep', ['-o', '-f', `guest=vsite-${id}`], { encoding: 'utf8' }),
        process,
        'it is the same machine',
      );
      assert.deepEqual(readdirSync(join(small, 'vms', id, 'snapshots')), []);
      rmSync(filler());
      assert.equal((await taken('at last')).state, 'READY');
      await gone(id);
    });

    it('memory for warm starts: nothing of it is left, and users’ machines do not notice', async () => {
      beforeSaving = () => fill();
      const id = await make('one');
      await until('the disk is full', () => existsSync(filler()), 60_000);
      await until('it is given up', async () => (await templates.all()).length === 0, 60_000);
      await until('its machine is gone', () => domains() === `vsite-${id}`);
      assert.deepEqual(filesOf(), [id]);
      assert.equal(systems.get(id).state, 'READY');
      rmSync(filler());
      await gone(id);
    });

    it('a copy of saved memory: its machine is booted instead, and told why', async () => {
      whenSaved = () => fill(256);
      const seed = await make('two');
      await until('it is saved, and the disk full', () => existsSync(filler()), 60_000);
      const id = await make('two');
      const { tier, reason } = systems.get(id).start ?? {};
      assert.equal(tier, 'cold');
      assert.match(reason ?? '', /^warm failed: .*no room for it on the disk/);
      rmSync(filler());
      for (const each of [seed, id]) await gone(each);
    });
  },
);
