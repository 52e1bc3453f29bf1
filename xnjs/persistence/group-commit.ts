import { GridError } from '#kernel/errors.js';
import { withResolvers } from '../job/with-resolvers.js';

type Waiting<Item, Result> = {
  readonly item: Item;
  readonly resolve: (result: Result) => void;
  readonly reject: (reason: unknown) => void;
};
export type Outcome<Result> = { readonly value: Result } | { readonly error: unknown };

const largestGroup = 200;

/**
 * Lets many small writes share one durable commit: whatever comes while one is under way goes into the
 * next, in the order of the calls. There is never a second one, whatever the database could do at once: so
 * answers come in that order, too.
 */
export class GroupCommit<Item, Result> {
  readonly #commit: (items: readonly Item[]) => Promise<Outcome<Result>[]>;
  readonly #waiting: Waiting<Item, Result>[] = [];
  #running = false;

  /** @param commit writes all items or, if it throws, none; answers for each */
  constructor(commit: (items: readonly Item[]) => Promise<Outcome<Result>[]>) {
    this.#commit = commit;
  }

  add(item: Item): Promise<Result> {
    const { promise, resolve, reject } = withResolvers<Result>();
    this.#waiting.push({ item, resolve, reject });
    if (!this.#running) {
      this.#running = true;
      setImmediate(() => void this.#run());
    }
    return promise;
  }

  async #run(): Promise<void> {
    while (this.#waiting.length > 0) await this.#write(this.#waiting.splice(0, largestGroup));
    this.#running = false;
  }

  async #write(group: readonly Waiting<Item, Result>[]): Promise<void> {
    try {
      const outcomes = await this.#commit(group.map(({ item }) => item));
      for (const [at, { resolve, reject }] of group.entries()) {
        const outcome = outcomes[at];
        if (outcome && 'value' in outcome) resolve(outcome.value);
        else reject(outcome?.error);
      }
    } catch (error) {
      // One item that the database refuses must not take the others with it; an outage takes all.
      if (group.length > 1 && !(error instanceof GridError))
        for (const one of group) await this.#write([one]);
      else for (const { reject } of group) reject(error);
    }
  }
}
