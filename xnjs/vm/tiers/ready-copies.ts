import { randomUUID } from 'node:crypto';
import type { Clock } from '#kernel/clock.js';
import type { SavedMachine } from '../hypervisor.js';
import { isPassing } from '../passing.js';
import { giveIdentity } from './memory-file.js';
import type { MemoryFiles } from './memory-files.js';
import type { Template } from './template.js';

/** Memory that has been saved whole. */
export type SavedTemplate = Template & Required<Pick<Template, 'patches' | 'bootId'>>;
type Copy = {
  /** Of the machine that it is to be. */
  readonly id: string;
  readonly template: SavedTemplate;
  takenMs?: number;
};
export type ReadyCopiesOptions = {
  readonly filesOf: (template: Template) => MemoryFiles;
  readonly clock: Clock;
};

/** Whose target system was refused, or fell back, is removed after so long. */
const unusedMs = 60_000;

/**
 * Of each saved memory one copy that is complete and waits for its machine, whose id it has already: copying
 * takes a good part of a warm start. They are only files beside the memory: none outlives this server.
 */
export class ReadyCopies {
  readonly #options: ReadyCopiesOptions;
  readonly #copies = new Map<string, Copy>();
  /** Ids of those that are being made, or that a machine is started from. */
  readonly #inUse = new Set<string>();
  /** Templates that nothing of an earlier server lies beside. */
  readonly #swept = new Set<string>();

  constructor(options: ReadyCopiesOptions) {
    this.#options = options;
  }

  has(templateId: string): boolean {
    return this.#ofTemplate(templateId).some(({ takenMs }) => takenMs === undefined);
  }

  /** @returns the id that the machine has to have; nobody else gets it */
  take(templateId: string): string | undefined {
    const copy = this.#ofTemplate(templateId).find(({ takenMs }) => takenMs === undefined);
    if (copy) copy.takenMs = this.#options.clock.now();
    return copy?.id;
  }

  /** Has files with the memory for this machine until it has them open. */
  async use<T>(
    template: SavedTemplate,
    id: string,
    work: (from: SavedMachine) => Promise<T>,
  ): Promise<T> {
    const files = this.#options.filesOf(template);
    return await this.#using(id, async () => {
      try {
        if (!this.#copies.delete(id)) await this.#make(files, template, id);
        const done = await work(await this.#filesFor(files, template, id));
        await this.#drop(files, template, id);
        return done;
      } catch (error) {
        // whether a machine comes from them is not known yet
        if (isPassing(error)) this.#swept.delete(template.id);
        else await this.#drop(files, template, id);
        throw error;
      }
    });
  }

  async prepare(template: SavedTemplate): Promise<void> {
    const copy = { id: randomUUID(), template };
    const files = this.#options.filesOf(template);
    await this.#using(copy.id, async () => {
      try {
        await this.#make(files, template, copy.id);
      } catch (error) {
        await this.#drop(files, template, copy.id);
        throw error;
      }
      this.#copies.set(copy.id, copy);
    });
  }

  /** Removes what was made for nobody. */
  async dropUnused(template: Template): Promise<void> {
    const now = this.#options.clock.now();
    for (const copy of this.#ofTemplate(template.id)) {
      if (copy.takenMs === undefined || now - copy.takenMs < unusedMs) continue;
      // first: else its machine, come in between, would be started from a file that is gone
      this.#copies.delete(copy.id);
      this.#swept.delete(template.id);
    }
    if (!this.#swept.has(template.id)) await this.#sweep(template);
  }

  /** Its files go with it. */
  forget(templateId: string): void {
    for (const { id } of this.#ofTemplate(templateId)) this.#copies.delete(id);
    this.#swept.delete(templateId);
  }

  /** What is left is found by a later sweep, or by the next server. */
  async #drop(files: MemoryFiles, template: SavedTemplate, id: string): Promise<void> {
    await files.drop(template, id).catch(() => this.#swept.delete(template.id));
  }

  /** What was given up, here or by an earlier server: nobody knows which of that are complete. */
  async #sweep(template: Template): Promise<void> {
    const files = this.#options.filesOf(template);
    const ids = await files.copies(template);
    for (const id of ids)
      if (!this.#copies.has(id) && !this.#inUse.has(id)) await files.drop(template, id);
    this.#swept.add(template.id);
  }

  async #using<T>(id: string, work: () => Promise<T>): Promise<T> {
    this.#inUse.add(id);
    try {
      return await work();
    } finally {
      this.#inUse.delete(id);
    }
  }

  async #make(files: MemoryFiles, template: SavedTemplate, id: string): Promise<void> {
    const { patches, bootId, mapped } = template;
    const [from, to] = [
      { id: template.id, bootId },
      { id, bootId: randomUUID() },
    ];
    await files.copy(template, id);
    await using file = await files.open(template, { copyId: id });
    await giveIdentity(file, { patches, from, to });
    if (!mapped) return;
    await using ram = await files.open(template, { copyId: id, part: 'ram' });
    await giveIdentity(ram, { patches: mapped.patches, from, to });
  }

  async #filesFor(files: MemoryFiles, template: SavedTemplate, id: string): Promise<SavedMachine> {
    const memory = await files.pathOf(template, id);
    if (!template.mapped) return { memory };
    const path = await files.pathOf(template, id, 'ram');
    return { memory, mapped: { path, sizeBytes: template.mapped.sizeBytes } };
  }

  #ofTemplate(templateId: string): Copy[] {
    return [...this.#copies.values()].filter(({ template }) => template.id === templateId);
  }
}
