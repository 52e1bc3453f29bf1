import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { events } from '#kernel/libvirt/events.js';
import {
  encodeHeader,
  FrameReader,
  messageTypes,
  programs,
  statuses,
  type Message,
} from '#kernel/libvirt/frame.js';
import {
  errorMessage,
  procedureRow,
  procedures,
  type Args,
  type Domain,
  type ProcedureName,
  type Result,
  type TypedParams,
} from '#kernel/libvirt/procedures.js';
import { decode, encode } from '#kernel/libvirt/xdr.js';

/** What is behind a domain that runs. */
export type Guests = {
  start(id: string, socket: string): Promise<void>;
  stop(id: string): Promise<void>;
};

type Machine = {
  dom: Domain;
  xml: string;
  mark: string;
  startedMs: number;
  /** Its process hangs; `held`: a call waits for it, and others pass it by. */
  hang?: { readonly sinceMs: number; isHeld: boolean; readonly over: PromiseWithResolvers };
};
type PromiseWithResolvers = { readonly promise: Promise<void>; readonly resolve: () => void };
type Answers = { [N in ProcedureName]?: (args: Args<N>) => Result<N> | Promise<Result<N>> };

/** Of which nothing is known without asking a machine's process, as with libvirt 9. */
const monitorGroups = 2 | 8 | 32 | 512;
const noDomain = 42;
const noMetadata = 80;
const operationInvalid = 55;
const running = 1;
const shutOff = 5;
class Refusal extends Error {
  readonly code: number;
  constructor(code: number, text: string) {
    super(text);
    this.code = code;
  }
}

/**
 * A fake of libvirtd that speaks its protocol and keeps as many domains as there is memory for: no QEMU is
 * started, its figures are made up. What a domain's guest does is another's business.
 */
const capabilities = `<capabilities><guest><arch name='x86_64'>
<machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine><domain type='qemu'/></arch></guest></capabilities>`;

export class FakeLibvirtd implements AsyncDisposable {
  readonly #guests: Guests;
  readonly #machines = new Map<string, Machine>();
  readonly #sockets = new Set<Socket>();
  readonly #watchers = new Map<Socket, number>();
  readonly #server = createServer((socket) => this.#serve(socket));
  #lastId = 0;
  /** How often each procedure was called. */
  readonly calls = new Map<string, number>();
  /** Calls that wait for machines that hang: each has one of the daemon's workers. */
  stuck = 0;
  /** What the figures of machines go by. */
  now: () => number = Date.now;

  private constructor(guests: Guests) {
    this.#guests = guests;
  }

  static async listen(path: string, guests: Guests): Promise<FakeLibvirtd> {
    const daemon = new FakeLibvirtd(guests);
    daemon.#server.listen(path);
    await once(daemon.#server, 'listening');
    return daemon;
  }

  /** Another that runs, like one that is there. */
  async copy(id: string, copy: string): Promise<void> {
    this.#define(this.#find({ uuid: id }).xml.replaceAll(id, copy));
    await this.#start(this.#find({ uuid: copy }));
  }

  /** Their processes do not answer any more, until that is over. */
  hang(ids: readonly string[]): void {
    for (const uuid of ids) {
      let resolve = (): void => undefined;
      const promise = new Promise<void>((done) => (resolve = done));
      const over = { promise, resolve };
      this.#find({ uuid }).hang = { sinceMs: this.now(), isHeld: false, over };
    }
  }

  goOn(ids: readonly string[]): void {
    for (const uuid of ids) {
      const machine = this.#find({ uuid });
      machine.hang?.over.resolve();
      delete machine.hang;
    }
  }

  get ids(): string[] {
    return [...this.#machines.keys()];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #serve(socket: Socket): void {
    const frames = new FrameReader();
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#watchers.delete(socket);
    });
    socket.on('data', (chunk: Buffer) => {
      for (const message of frames.push(chunk)) void this.#answer(message, socket);
    });
  }

  async #answer(message: Message, socket: Socket): Promise<void> {
    const { program, procedure, payload } = message;
    if (program === programs.keepAlive) {
      if (procedure === 1) send(socket, { ...message, procedure: 2 }, Buffer.alloc(0));
      return;
    }
    const name = namesByNumber.get(procedure);
    const header = { ...message, type: messageTypes.reply, status: statuses.ok };
    try {
      const answer =
        name &&
        (this.#answers(socket)[name] as ((args: object) => object | Promise<object>) | undefined);
      if (!answer) throw new Refusal(3, `not known here: ${name ?? procedure}`);
      this.calls.set(name, (this.calls.get(name) ?? 0) + 1);
      const row = procedureRow(name);
      const result = await answer(decode(row.args, payload));
      send(socket, header, encode(row.result, result));
    } catch (error) {
      const code = error instanceof Refusal ? error.code : 1;
      send(socket, { ...header, status: statuses.error }, failure(code, (error as Error).message));
    }
  }

  #answers(socket: Socket): Answers {
    return {
      auth_list: () => ({ types: [0] }),
      connect_open: () => ({}),
      connect_close: () => ({}),
      connect_supports_feature: () => ({ supported: 1 }),
      connect_get_version: () => ({ hv_ver: 9_000_000n }),
      connect_get_lib_version: () => ({ lib_ver: 9_000_000n }),
      connect_get_capabilities: () => ({ capabilities }),
      connect_get_domain_capabilities: () => ({ capabilities: '<domainCapabilities/>' }),
      connect_domain_event_callback_register_any: () => {
        this.#watchers.set(socket, 0);
        return { callbackID: 0 };
      },
      connect_list_all_domains: ({ flags }) => {
        const all = [...this.#machines.values()].map(({ dom }) => dom);
        const domains = (flags & 1) === 0 ? all : all.filter(({ id }) => id >= 0);
        return { domains, ret: domains.length };
      },
      connect_get_all_domain_stats: async ({ doms, stats, flags }) => {
        const asked =
          doms.length > 0
            ? doms.flatMap(({ uuid }) => this.#machines.get(uuid) ?? [])
            : [...this.#machines.values()];
        const retStats = [];
        for (const machine of asked.filter(({ dom }) => (flags & 1) === 0 || dom.id >= 0)) {
          const groups =
            (stats & monitorGroups) === 0 ? stats : await this.#askMonitor(machine, stats);
          retStats.push({ dom: machine.dom, params: figures(machine, groups, this.now()) });
        }
        return { retStats };
      },
      domain_lookup_by_uuid: ({ uuid }) => ({ dom: this.#find({ uuid }).dom }),
      domain_define_xml_flags: ({ xml }) => ({ dom: this.#define(xml) }),
      domain_create_with_flags: async ({ dom }) => ({ dom: await this.#start(this.#find(dom)) }),
      domain_get_state: ({ dom }) => ({
        state: this.#find(dom).dom.id >= 0 ? running : shutOff,
        reason: 1,
      }),
      domain_get_info: ({ dom }) => {
        const { startedMs, hang } = this.#find(dom);
        const cpuTime = BigInt((hang?.sinceMs ?? this.now()) - startedMs) * 12_000n;
        return { state: running, maxMem: 65_536n, memory: 65_536n, nrVirtCpu: 1, cpuTime };
      },
      domain_destroy_flags: async ({ dom }) => {
        const machine = this.#find(dom);
        if (machine.dom.id < 0) throw new Refusal(operationInvalid, 'domain is not running');
        machine.hang?.over.resolve(); // there is no process any more that could
        delete machine.hang;
        await this.#end(machine, 1);
        return {};
      },
      domain_undefine_flags: ({ dom }) => {
        this.#machines.delete(this.#find(dom).dom.uuid);
        return {};
      },
      domain_has_managed_save_image: () => ({ result: 0 }),
      domain_set_metadata: ({ dom, metadata }) => {
        this.#find(dom).mark = metadata ?? '';
        return {};
      },
      domain_get_metadata: ({ dom }) => {
        const { mark } = this.#find(dom);
        if (mark === '') throw new Refusal(noMetadata, 'metadata not found');
        return { metadata: mark };
      },
    };
  }

  /** As QEMU's driver does that is not to wait for others: the first who asks one that hangs waits for it. */
  async #askMonitor({ hang }: Machine, groups: number): Promise<number> {
    if (!hang) return groups;
    if (hang.isHeld) return groups & ~monitorGroups;
    hang.isHeld = true;
    this.stuck += 1;
    await hang.over.promise;
    this.stuck -= 1;
    return groups;
  }

  #find({ uuid }: Pick<Domain, 'uuid'>): Machine {
    const found = this.#machines.get(uuid);
    if (found) return found;
    throw new Refusal(noDomain, `Domain not found: no domain with matching uuid '${uuid}'`);
  }

  #define(xml: string): Domain {
    const [, name = ''] = /<name>([^<]*)</.exec(xml) ?? [];
    const [, uuid = ''] = /<uuid>([^<]*)</.exec(xml) ?? [];
    const [mark = ''] = /<vsite:domain [\s\S]*?<\/vsite:domain>/.exec(xml) ?? [];
    const dom = { name, uuid, id: -1 };
    this.#machines.set(uuid, { dom, xml, mark, startedMs: 0 });
    return dom;
  }

  async #start(machine: Machine): Promise<Domain> {
    if (machine.dom.id >= 0) throw new Refusal(operationInvalid, 'domain is already running');
    machine.dom = { ...machine.dom, id: ++this.#lastId };
    machine.startedMs = this.now();
    const [, socket = ''] = /mode=["']bind["'] path=["']([^"']+)/.exec(machine.xml) ?? [];
    await this.#guests.start(machine.dom.uuid, socket);
    this.#tell(machine.dom, 2, 0);
    return machine.dom;
  }

  async #end(machine: Machine, detail: number): Promise<void> {
    machine.dom = { ...machine.dom, id: -1 };
    await this.#guests.stop(machine.dom.uuid);
    this.#tell(machine.dom, 5, detail);
  }

  #tell(dom: Domain, event: number, detail: number): void {
    const { procedure, message } = events.lifecycle;
    const payload = encode(message, { callbackID: 0, dom, event, detail });
    const header = { program: programs.remote, procedure, type: messageTypes.event };
    for (const socket of this.#watchers.keys())
      send(socket, { ...header, serial: 0, status: statuses.ok }, payload);
  }
}

const namesByNumber = new Map(
  (Object.entries(procedures) as [ProcedureName, { number: number }][]).map(([name, row]) => [
    row.number,
    name,
  ]),
);

function send(socket: Socket, header: Omit<Message, 'payload'>, payload: Buffer): void {
  socket.cork();
  socket.write(encodeHeader(header, payload.length));
  socket.write(payload);
  socket.uncork();
}

function failure(code: number, message: string): Buffer {
  const none = { dom: null, str1: null, str2: null, str3: null, int1: 0, int2: 0, net: null };
  return encode(errorMessage, { code, domain: 20, message, level: 2, ...none });
}

/** As QEMU's driver has them, for a machine with one processor and neither disk nor network. */
function figures({ dom, startedMs, hang }: Machine, groups: number, nowMs: number): TypedParams {
  const isActive = dom.id >= 0;
  const ns = isActive ? BigInt((hang?.sinceMs ?? nowMs) - startedMs) * 10_000n : 0n; // one percent
  const ofGroups: [number, boolean, TypedParams][] = [
    [1, true, [int('state.state', isActive ? running : shutOff), int('state.reason', 1)]],
    [2, isActive, [long('cpu.time', ns), long('cpu.user', ns / 2n), long('cpu.system', ns / 2n)]],
    [
      4,
      isActive,
      ['current', 'maximum', 'last-update', 'rss'].map((name) => long(`balloon.${name}`, 65_536n)),
    ],
    [
      8,
      isActive,
      [
        uint('vcpu.current', 1),
        uint('vcpu.maximum', 1),
        int('vcpu.0.state', 1),
        ...['time', 'wait', 'delay'].map((name) => long(`vcpu.0.${name}`, ns)),
      ],
    ],
    [16, isActive, [uint('net.count', 0)]],
    [32, isActive, [uint('block.count', 0)]],
    [
      512,
      isActive,
      [
        int('dirtyrate.calc_status', 0),
        long('dirtyrate.calc_start_time', 0n),
        int('dirtyrate.calc_period', 0),
      ],
    ],
  ];
  return ofGroups.flatMap(([bit, is, params]) => ((groups & bit) !== 0 && is ? params : []));
}

const int = (field: string, value: number): TypedParams[number] => ({
  field,
  value: { type: 1, value },
});
const uint = (field: string, value: number): TypedParams[number] => ({
  field,
  value: { type: 2, value },
});
const long = (field: string, value: bigint): TypedParams[number] => ({
  field,
  value: { type: 4, value },
});
