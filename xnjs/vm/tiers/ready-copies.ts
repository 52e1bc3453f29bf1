import { randomUUID } from 'node:crypto';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock } from '#kernel/clock.js';
import type { Workspace } from '../workspace.js';
import { copyMemory } from './memory-file.js';
import type { Template } from './template.js';

/** Memory that has been saved whole. */
export type SavedTemplate = Template & Required<Pick<Template, 'patches' | 'bootId'>>;
type Copy = {
  /** Of the machine that it is to be. */
  readonly id: string;
  readonly templateId: string;
  takenMs?: number;
};

/** Whose target system was refused, or fell back, is removed after so long. */
const unusedMs = 60_000;
const prefix = 'copy-';

/**
 * Of each saved memory one copy that is complete and waits for its machine, whose id it has already: copying
 * takes a good part of a warm start. They are only files beside the memory: none outlives this server.
 */
export class ReadyCopies {
  readonly #workspace: Workspace;
  readonly #clock: Clock;
  readonly #copies = new Map<string, Copy>();

  constructor({ workspace, clock }: { readonly workspace: Workspace; readonly clock: Clock }) {
    this.#workspace = workspace;
    this.#clock = clock;
  }

  has(templateId: string): boolean {
    return this.#ofTemplate(templateId).some(({ takenMs }) => takenMs === undefined);
  }

  /** @returns the id that the machine has to have; nobody else gets it */
  take(templateId: string): string | undefined {
    const copy = this.#ofTemplate(templateId).find(({ takenMs }) => takenMs === undefined);
    if (copy) copy.takenMs = this.#clock.now();
    return copy?.id;
  }

  /** A file with the memory for this machine, to be removed by whoever has used it. */
  async fileFor(id: string, template: SavedTemplate, memory: string): Promise<string> {
    const path = this.#pathOf({ id, templateId: template.id });
    if (this.#copies.delete(id)) return path;
    await this.#copy(template, memory, id, path);
    return path;
  }

  async prepare(template: SavedTemplate, memory: string): Promise<void> {
    const copy = { id: randomUUID(), templateId: template.id };
    await this.#copy(template, memory, copy.id, this.#pathOf(copy));
    this.#copies.set(copy.id, copy);
  }

  /** Removes what was made for nobody. */
  async dropUnused(): Promise<void> {
    const now = this.#clock.now();
    for (const copy of this.#copies.values()) {
      if (copy.takenMs === undefined || now - copy.takenMs < unusedMs) continue;
      // first: else its machine, come in between, would be started from a file that is gone
      this.#copies.delete(copy.id);
      await rm(this.#pathOf(copy), { force: true });
    }
  }

  /** Those of an earlier server, too: nobody knows which of them are complete. */
  async dropAll(templateId: string): Promise<void> {
    for (const { id } of this.#ofTemplate(templateId)) this.#copies.delete(id);
    const directory = this.#workspace.directoryOf(templateId);
    const names = await readdir(directory).catch(() => []);
    for (const name of names)
      if (name.startsWith(prefix)) await rm(join(directory, name), { force: true });
  }

  async #copy(template: SavedTemplate, memory: string, id: string, path: string): Promise<void> {
    const { patches, bootId } = template;
    const [from, to] = [
      { id: template.id, bootId },
      { id, bootId: randomUUID() },
    ];
    try {
      await copyMemory(memory, path, { patches, from, to });
    } catch (error) {
      await rm(path, { force: true });
      throw error;
    }
  }

  #ofTemplate(templateId: string): Copy[] {
    return [...this.#copies.values()].filter((copy) => copy.templateId === templateId);
  }

  #pathOf({ id, templateId }: Pick<Copy, 'id' | 'templateId'>): string {
    return join(this.#workspace.directoryOf(templateId), `${prefix}${id}.save`);
  }
}
