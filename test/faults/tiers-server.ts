/**
 * Target systems in a process of its own, to be killed, whose machines are copies of saved memory or were spares.
 * Arguments: directory, URI of libvirt, and the phase: each begins with what the one before has left.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Scope } from '#kernel/scope.js';
import { createRecordStores } from '#xnjs/persistence/sql-record-store.js';
import type { TargetSystem } from '#xnjs/vm/target-system.js';
import type { Template } from '#xnjs/vm/tiers/template.js';
import { until } from '../xnjs/job/rig.js';
import { openTables } from '../xnjs/persistence/databases.js';
import { Gates } from './machine-gates.js';
import { startMachines } from './machine-rig.js';

const [directory, uri, phase] = process.argv.slice(2) as [string, string, Phase];
type Phase = 'clones' | 'claims' | 'spare started' | 'end';

/** A clone or a claimed spare is held at each, which its tag says. */
const clones = [
  'clone, create: stored',
  'clone, create: restored',
  'clone, freeze: saving',
  'clone, thaw: restored',
  'clone, destroy: domain removed',
];
const claims = ['claim: stored', 'claimed, freeze: saving', 'claimed, destroy: stored'];

const gates = new Gates(phase !== 'end');
const scope = new Scope();
const database = await openTables(scope, `sqlite:${join(directory, 'db.sqlite')}`);
const templates = createRecordStores(database)<Template>('template');
/** Ids of spares whose records this process has stored. */
const spares = new Set<string>();
const systems = await startMachines(scope, {
  ...{ database, uri, directory, format: 'kernel' },
  part: () => join(directory, 'kernel'),
  socketOf: () => join(directory, 'agents.sock'),
  hypervisor: (options) => {
    const hypervisor = gates.hypervisor(options);
    const start = hypervisor.start.bind(hypervisor);
    hypervisor.start = async (driver, id, xml) => {
      const result = await start(driver, id, xml);
      if (spares.has(id) && phase === 'spare started') await gates.hold('spare started');
      return result;
    };
    return hypervisor;
  },
  stores: (plain) => ({
    targets: gates.targets(plain.targets),
    spares: {
      ...gates.spares(plain.spares),
      async save(spare) {
        await plain.spares.save(spare);
        spares.add(spare.id);
        if (phase === 'claims' && spares.size > claims.length) await gates.hold('spare stored');
      },
    },
  }),
  spares: phase === 'claims' || phase === 'spare started' ? { kernel: claims.length + 1 } : {},
  warm: { store: templates, maxImages: phase === 'end' ? 0 : 1 },
});

const becomes = (id: string, state: TargetSystem['state']): Promise<void> =>
  until(`${systems.get(id).tags[0]} is ${state}`, () => systems.get(id).state === state, 120_000);
const find = (tag: string): TargetSystem | undefined =>
  systems.list().find(({ tags }) => tags[0] === tag);
const create = (tag: string): Promise<TargetSystem> =>
  systems.create({ ownerDn: 'CN=User,O=VSite', image: 'kernel', parameters: {}, tags: [tag] });

/** What was begun is finished by the next server; then it is taken down. */
async function settle(tags: readonly string[]): Promise<void> {
  await Promise.all(
    systems.list().map(async ({ id, tags: [tag = ''] }) => {
      if (!tags.includes(tag)) throw new Error(`${tag} should not be there`);
      if (tag.includes('destroy')) return;
      await becomes(id, tag.includes('freeze') ? 'SUSPENDED' : 'READY');
      if (tag.includes('freeze')) {
        await systems.parking.thaw(id);
        await becomes(id, 'READY');
      }
      await systems.destroy(id);
    }),
  );
  await until('all are gone', () => systems.list().length === 0, 120_000);
}

/** Brings one to where it is held. What is waited for on the way there may never come. */
async function lead(tag: string, tier: 'warm' | 'spare'): Promise<void> {
  void create(tag);
  await until('it is there', () => gates.held.has(tag) || find(tag) !== undefined, 120_000);
  const { id, start } = find(tag) ?? {};
  if (start && start.tier !== tier) throw new Error(`${tag} is ${start.tier}: ${start.reason}`);
  if (id === undefined || /create|claim: /.test(tag)) return;
  await becomes(id, 'READY');
  if (tag.includes('destroy')) void systems.destroy(id);
  else void systems.parking.freeze(id);
  if (!tag.includes('thaw')) return;
  await becomes(id, 'SUSPENDED');
  void systems.parking.thaw(id);
}

const toHold: Record<Phase, () => Promise<readonly string[]>> = {
  async clones() {
    const { id } = await create('seed');
    await becomes(id, 'READY');
    await systems.destroy(id);
    const isSaved = async (): Promise<boolean> =>
      (await templates.all()).some(({ patches }) => patches !== undefined);
    await until('its memory is saved', isSaved, 120_000);
    await Promise.all(clones.map((tag) => lead(tag, 'warm')));
    return clones;
  },
  async claims() {
    await settle(clones);
    // the one that is held is the last: all before it are ready
    await until('spares are there', () => gates.held.has('spare stored'), 120_000);
    await Promise.all(claims.map((tag) => lead(tag, 'spare')));
    return [...claims, 'spare stored'];
  },
  async 'spare started'() {
    await settle(claims);
    return ['spare started'];
  },
  async end() {
    await settle([]);
    const files = join(directory, 'vms');
    await until('no spare and no saved memory is left', () => readdirSync(files).length === 0);
    return [];
  },
};
const wanted = await toHold[phase]();
await until('all are held', () => wanted.every((name) => gates.held.has(name)), 120_000);
if (phase === 'end') await scope.close();
process.send?.(wanted.length);
if (phase === 'end') process.disconnect();
