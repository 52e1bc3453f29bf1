import type { Hypervisor } from '#xnjs/vm/hypervisor.js';
import { LibvirtHypervisor, type LibvirtHypervisorOptions } from '#xnjs/vm/libvirt-hypervisor.js';
import type { TargetStore } from '#xnjs/vm/target-store.js';
import type { SpareStore } from '#xnjs/vm/tiers/spare.js';

/** Steps on the way of a machine, each of which is held where the target system's tag ends with its name. */
export class Gates {
  /** Those that are where they are to be when the server dies: their tags, or names. */
  readonly held = new Set<string>();
  readonly #isHolding: boolean;
  readonly #tags = new Map<string, string>();
  /** Those whose memory was put on disk by order: what is restored of others is saved memory of their image. */
  readonly #parked = new Set<string>();

  constructor(isHolding: boolean) {
    this.#isHolding = isHolding;
  }

  /** For good. */
  async hold(name: string): Promise<void> {
    this.held.add(name);
    await new Promise(() => undefined);
  }

  /** Never returns where the target system of this id is to be held. */
  async pass(id: string, step: string): Promise<void> {
    const tag = this.#tags.get(id);
    if (step.startsWith('thaw') && !this.#parked.has(id)) return;
    if (this.#isHolding && tag?.endsWith(step)) await this.hold(tag);
  }

  targets(store: TargetStore): TargetStore {
    const pass = this.pass.bind(this);
    const tags = this.#tags;
    const parked = this.#parked;
    return {
      ...store,
      async save(system, ...rest) {
        const { id, state, desired, boot } = system;
        if (desired === 'suspended') parked.add(id);
        if (system.tags[0] !== undefined) tags.set(id, system.tags[0]);
        await store.save(system, ...rest);
        const isNew = boot.startedMs === undefined && boot.restoredMs === undefined;
        if (state === 'INITIALIZING' && isNew) await pass(id, 'create: stored');
        if (desired === 'suspended')
          await pass(id, state === 'PAUSED' ? 'freeze: stored' : 'freeze: done');
        if (state === 'UNREACHABLE') await pass(id, 'thaw: stored');
        if (state === 'DESTROYING') await pass(id, 'destroy: stored');
      },
      async remove(system, change) {
        await pass(system.id, 'destroy: files removed');
        await store.remove(system, change);
      },
    };
  }

  spares(store: SpareStore): SpareStore {
    const pass = this.pass.bind(this);
    const tags = this.#tags;
    return {
      ...store,
      async claim(system, ...rest) {
        if (system.tags[0] !== undefined) tags.set(system.id, system.tags[0]);
        await store.claim(system, ...rest);
        await pass(system.id, 'claim: stored');
      },
    };
  }

  hypervisor(options: LibvirtHypervisorOptions): LibvirtHypervisor {
    return new GatedHypervisor(options, (id, step) => this.pass(id, step));
  }
}

class GatedHypervisor extends LibvirtHypervisor {
  readonly #pass: (id: string, step: string) => Promise<void>;

  constructor(
    options: LibvirtHypervisorOptions,
    pass: (id: string, step: string) => Promise<void>,
  ) {
    super(options);
    this.#pass = pass;
  }

  override async start(...args: Parameters<Hypervisor['start']>) {
    const started = await super.start(...args);
    await this.#pass(args[1], 'create: started');
    return started;
  }

  override async restoreMemory(...args: Parameters<Hypervisor['restoreMemory']>) {
    const restored = await super.restoreMemory(...args);
    await this.#pass(args[1], 'create: restored');
    await this.#pass(args[1], 'thaw: restored');
    return restored;
  }

  override async save(...args: Parameters<Hypervisor['save']>) {
    const saving = super.save(...args);
    saving.catch(() => undefined);
    await this.#pass(args[1], 'freeze: saving');
    const isSaved = await saving;
    await this.#pass(args[1], 'freeze: saved');
    return isSaved;
  }

  /** To a file of ours. */
  override async saveMemory(...args: Parameters<Hypervisor['saveMemory']>) {
    const saving = super.saveMemory(...args);
    saving.catch(() => undefined);
    await this.#pass(args[1], 'freeze: saving');
    await saving;
    await this.#pass(args[1], 'freeze: saved');
  }

  override async restore(...args: Parameters<Hypervisor['restore']>) {
    const restored = await super.restore(...args);
    await this.#pass(args[1], 'thaw: restored');
    return restored;
  }

  override async remove(...args: Parameters<Hypervisor['remove']>) {
    await super.remove(...args);
    await this.#pass(args[1], 'destroy: domain removed');
  }
}
