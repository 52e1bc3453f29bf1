import type { Evidence, TargetSystem } from './target-system.js';

/** What one source says of a machine, and since when. */
export type View<W extends string> = {
  readonly says: W;
  readonly fact: string;
  /** ms since the epoch */
  readonly sinceMs: number;
};

/**
 * Of the hypervisor. `stalled`: halted by an error, not by an order; `hung`: the machine's process does not
 * answer it; `silent`: it does not answer us.
 */
export type DomainWord = 'running' | 'paused' | 'stalled' | 'hung' | 'silent';
export type AgentWord = 'up' | 'down';
/** What the guest says of itself, which we do not judge but show. */
export type GuestWord = 'well' | 'troubled';

/** All that is known of a machine that is there. An absent agent has never answered yet. */
export type Views = {
  readonly hypervisor?: View<DomainWord>;
  readonly agent?: View<AgentWord>;
  readonly guest?: View<GuestWord>;
};

export type AliveState = 'INITIALIZING' | 'READY' | 'DEGRADED' | 'UNREACHABLE' | 'PAUSED';

/** A row is the hypervisor's word, a column the agent's. Silence of either, or of both, is no death. */
export const aliveStates = {
  running: { never: 'INITIALIZING', up: 'READY', down: 'UNREACHABLE' },
  paused: { never: 'PAUSED', up: 'PAUSED', down: 'PAUSED' },
  stalled: { never: 'DEGRADED', up: 'DEGRADED', down: 'DEGRADED' },
  hung: { never: 'INITIALIZING', up: 'DEGRADED', down: 'UNREACHABLE' },
  silent: { never: 'INITIALIZING', up: 'DEGRADED', down: 'UNREACHABLE' },
} as const satisfies Record<DomainWord, Record<AgentWord | 'never', AliveState>>;

/** What is to be believed of a machine that is there, and why; without a reason, as before. */
export function believe({ hypervisor, agent, guest }: Views): {
  readonly state: AliveState;
  readonly evidence?: Evidence;
} {
  const state = aliveStates[hypervisor?.says ?? 'running'][agent?.says ?? 'never'];
  const of = (source: Evidence['source'], view: View<string> | undefined) =>
    view && { evidence: { source, fact: view.fact, atMs: view.sinceMs } };
  switch (state) {
    case 'INITIALIZING':
      return { state, ...(hypervisor?.says !== 'running' && of('hypervisor', hypervisor)) };
    case 'READY':
      return guest?.says === 'troubled'
        ? { state: 'DEGRADED', ...of('guest', guest) }
        : { state, ...of('agent', agent) };
    case 'UNREACHABLE': {
      const facts = [agent?.fact, hypervisor?.fact].filter((fact) => fact !== undefined);
      return { state, ...of('agent', agent && { ...agent, fact: facts.join('; ') }) };
    }
    case 'DEGRADED':
    case 'PAUSED':
      return { state, ...of('hypervisor', hypervisor) };
  }
}

/** Records of earlier versions have a state only. */
export function viewsOf({ views, state, evidence }: TargetSystem): Views {
  if (views) return views;
  const says = state === 'READY' ? 'up' : state === 'UNREACHABLE' ? 'down' : undefined;
  return says ? { agent: { says, fact: evidence.fact, sinceMs: evidence.atMs } } : {};
}

/** @returns the same object where nothing is new */
export function look<S extends keyof Views>(
  views: Views,
  source: S,
  says: NonNullable<Views[S]>['says'],
  { fact, atMs }: Evidence,
): Views {
  const before = views[source];
  if (before?.says === says && before.fact === fact) return views;
  const sinceMs = before?.says === says ? before.sinceMs : atMs;
  return { ...views, [source]: { says, fact, sinceMs } };
}

const aliveNames: ReadonlySet<string> = new Set([
  'INITIALIZING',
  'READY',
  'DEGRADED',
  'UNREACHABLE',
  'PAUSED',
] satisfies AliveState[]);

/** There is a machine, as far as we know. */
export function isAlive({ state }: Pick<TargetSystem, 'state'>): boolean {
  return aliveNames.has(state);
}
