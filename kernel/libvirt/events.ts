import { domain, typedParams, type Domain } from './procedures.js';
import { decode, int, string, struct, type Codec, type Fields, type Infer } from './xdr.js';

const row = <const F extends Fields>(id: number, procedure: number, fields: F) => ({
  id,
  procedure,
  message: struct({ callbackID: int, dom: domain, ...fields }),
});

/** `id` registers an event, `procedure` is the number under which its messages come. */
export const events = {
  lifecycle: row(0, 318, { event: int, detail: int }),
  reboot: row(1, 319, {}),
  ioError: row(4, 322, { srcPath: string(), devAlias: string(), action: int }),
  controlError: row(7, 325, {}),
  blockJob: row(8, 326, { path: string(), type: int, status: int }),
  agentLifecycle: row(18, 348, { state: int, reason: int }),
  jobCompleted: row(21, 363, { params: typedParams }),
} as const;

export type EventName = keyof typeof events;
/** An event of one of the domains; `name` says which fields `message` has. */
export type DomainEvent = {
  [N in EventName]: { readonly name: N; readonly message: Infer<(typeof events)[N]['message']> };
}[EventName];

const byProcedure = new Map(
  Object.entries(events).map(([name, { procedure, message }]) => [
    procedure,
    { name, message: message as Codec<unknown> },
  ]),
);

/** @returns `undefined` for an event that is not in the table */
export function decodeEvent(procedure: number, payload: Buffer): DomainEvent | undefined {
  const found = byProcedure.get(procedure);
  // as: name and message come from one row
  return found && ({ name: found.name, message: decode(found.message, payload) } as DomainEvent);
}

/** What happened to a domain, and by what: the place in the list is the number on the wire. */
const lifecycleDetails = {
  defined: ['added', 'updated', 'renamed', 'from snapshot'],
  undefined: ['removed', 'renamed'],
  started: ['booted', 'migrated', 'restored', 'from snapshot', 'woken up', 'recovered'],
  suspended: [
    'paused',
    'migrated',
    'I/O error',
    'watchdog',
    'restored',
    'from snapshot',
    'API error',
    'post-copy',
    'post-copy failed',
  ],
  resumed: ['unpaused', 'migrated', 'from snapshot', 'post-copy', 'post-copy failed'],
  stopped: ['shutdown', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from snapshot'],
  shutdown: ['finished', 'by guest', 'by host'],
  'pm-suspended': ['memory', 'disk'],
  crashed: ['panicked', 'crash loaded'],
} as const;

export type LifecycleName = keyof typeof lifecycleDetails;
export type Lifecycle = {
  readonly dom: Domain;
  /** `unknown`: newer than this table. */
  readonly event: LifecycleName | 'unknown';
  readonly detail: string;
};

const lifecycleRows = Object.entries(lifecycleDetails) as [LifecycleName, readonly string[]][];

export function toLifecycle({
  dom,
  event,
  detail,
}: Infer<typeof events.lifecycle.message>): Lifecycle {
  const [name, details] = lifecycleRows[event] ?? (['unknown', []] as const);
  return { dom, event: name, detail: details[detail] ?? `${event}/${detail}` };
}

/** Why a domain is paused, as `domain_get_state` says it: the place in the list is the number. */
export const pausedReasons = [
  'unknown',
  'by order',
  'migration',
  'save',
  'dump',
  'I/O error',
  'watchdog',
  'from snapshot',
  'shutting down',
  'snapshot',
  'crashed',
  'starting up',
  'post-copy',
  'post-copy failed',
] as const;

/** `domain_get_state`: the place in the list is the number. */
export const domainStates = [
  'none',
  'running',
  'blocked',
  'paused',
  'shutdown',
  'shutoff',
  'crashed',
  'pm-suspended',
] as const;
