/**
 * An engine in a process of its own, to be killed: its store stops at the points that it is told.
 * Arguments: directory, address of the TSI (`engine-at.ts`), points to die at (`before QUEUED,after DONE`).
 */
import { Scope } from '#kernel/scope.js';
import type { RawDescription } from '#xnjs/index.js';
import type { Job } from '#xnjs/job/job.js';
import type { JobStore } from '#xnjs/job/store.js';
import { until } from '../xnjs/job/rig.js';
import { startEngineAt } from './engine-at.js';
import { gated, type Gate } from './gate.js';

export type Order =
  | { readonly do: 'submit'; readonly description: RawDescription; readonly holdAt?: string }
  | { readonly do: 'abort' | 'destroy' | 'pause'; readonly id: string }
  | { readonly do: 'release' };
export type News =
  | { readonly news: 'ready' }
  | { readonly news: 'accepted'; readonly id: string }
  | { readonly news: 'held'; readonly id: string; readonly state: string }
  | { readonly news: 'done'; readonly id: string }
  | { readonly news: 'link up' | 'link down' }
  | { readonly news: 'not stored' };

const [directory = '', address = '', deadly = ''] = process.argv.slice(2);
const deadlyPoints = new Set(deadly.split(','));
/** The state at which the next job that is accepted is held. */
let holdNextAt: string | undefined;
const holdAt = new Map<string, string>();
const held: (() => void)[] = [];
/** Jobs of former servers die of nothing here. */
const mine = new Set<string>();

const gate: Gate = {
  before: (state, id) => {
    if (state === 'CREATED') mine.add(id);
    if (mine.has(id) && deadlyPoints.has(`before ${state}`)) process.kill(process.pid, 'SIGKILL');
  },
  after: async (state, id) => {
    if (mine.has(id) && deadlyPoints.has(`after ${state}`)) process.kill(process.pid, 'SIGKILL');
    if (state === 'CREATED' && holdNextAt !== undefined && !holdAt.has(id)) {
      holdAt.set(id, holdNextAt);
      holdNextAt = undefined;
    }
    if (holdAt.get(id) !== state) return;
    tell({ news: 'held', id, state });
    await new Promise<void>((resolve) => held.push(resolve));
  },
};

/** The original starts a shell and `ps` for each, and has few workers. */
const listings = address.startsWith('tcp:')
  ? { statusIntervalMs: 500, statusMaxIntervalMs: 1_000 }
  : { statusIntervalMs: 50, statusMaxIntervalMs: 200 };
const { engine, link, submit } = await startEngineAt(new Scope(), directory, address, {
  around: (store) => gated(telling(store), gate),
  dialsMany: true,
  config: { ...listings, retryMaxMs: 300, refusedDelayMs: 100 },
});
engine.onChange(({ id, state }) => {
  if (state === 'DONE') tell({ news: 'done', id });
});
link?.onChange((state) => tell({ news: state === 'up' ? 'link up' : 'link down' }));
process.on('message', (order: Order) => void obey(order));
tell({ news: 'ready' });

async function obey(order: Order): Promise<void> {
  switch (order.do) {
    case 'submit':
      holdNextAt = order.holdAt;
      tell({ news: 'accepted', id: await submit(order.description) });
      break;
    case 'release':
      held.splice(0).forEach((release) => release());
      for (const [id, state] of holdAt) {
        if (state === 'READY') void insist(id, state, 'start');
        if (state === 'PAUSED') void insist(id, state, 'resume');
      }
      holdAt.clear();
      break;
    default:
      // it runs already, which a slow answer may not have told yet
      await until('it is submitted', async () => (await engine.get(order.id)).state !== 'PENDING');
      await engine[order.do](order.id);
  }
}

/** A client whose order is refused, because the disk is full or the agent is away, gives it again. */
async function insist(id: string, held: Job['state'], order: 'start' | 'resume'): Promise<void> {
  const obeyed = (): Promise<boolean> =>
    engine[order](id).then(
      () => true,
      () => false,
    );
  const isOver = async (): Promise<boolean> => (await engine.get(id)).state !== held;
  await until(`the order to ${order}`, async () => (await obeyed()) || (await isOver()), 100_000);
}

/** Says when something could not be stored. */
function telling(store: JobStore): JobStore {
  const told = (error: unknown): never => {
    tell({ news: 'not stored' });
    throw error;
  };
  return {
    ...store,
    change: (id, change) => store.change(id, change).catch(told),
  };
}

function tell(news: News): void {
  process.send?.(news);
}
