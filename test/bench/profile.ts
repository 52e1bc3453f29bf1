import { Session, type Profiler } from 'node:inspector/promises';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';

export type Cost = { readonly where: string; readonly share: number };

/**
 * Profiles this process while `work` runs.
 * @returns what it spent its time on without waiting, by module, the largest first
 */
export async function profile(work: () => Promise<unknown>): Promise<Cost[]> {
  const session = new Session();
  session.connect();
  try {
    await session.post('Profiler.enable');
    await session.post('Profiler.setSamplingInterval', { interval: 500 });
    await session.post('Profiler.start');
    await work();
    const { profile: found } = await session.post('Profiler.stop');
    return costsOf(found);
  } finally {
    session.disconnect();
  }
}

function costsOf({ nodes, samples = [], timeDeltas = [] }: Profiler.Profile): Cost[] {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const callers = new Map(
    nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, byId.get(id)])),
  );
  /** Native code is on its caller's account. */
  const placeOf = (node: Node | undefined): string => {
    if (!node) return 'native code';
    const { functionName, url } = node.callFrame;
    if (url !== '') return placeOfUrl(url);
    return functionName.startsWith('(') ? functionName : placeOf(callers.get(node.id));
  };
  const spent = new Map<string, number>();
  let total = 0;
  for (const [at, id] of samples.entries()) {
    const where = placeOf(byId.get(id));
    if (where === '(idle)' || where.startsWith('node:inspector')) continue; // the latter is this profiler
    const us = timeDeltas[at] ?? 0;
    total += us;
    spent.set(where, (spent.get(where) ?? 0) + us);
  }
  return [...spent]
    .map(([where, us]) => ({ where, share: us / total }))
    .sort((a, b) => b.share - a.share);
}

type Node = Profiler.Profile['nodes'][number];

/** A library is one cost, a file of ours another, and so is each module of node. */
function placeOfUrl(url: string): string {
  if (!url.startsWith('file:')) return url;
  const path = fileURLToPath(url);
  const library = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1];
  return library ?? relative(process.cwd(), path);
}
