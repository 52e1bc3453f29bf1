import type { Duplex } from 'node:stream';
import { destroySoon } from '#kernel/net/destroy-soon.js';
import type { ChannelLine, Half } from '../protocol/channel-line.js';
import type { Agent } from './agent.js';
import { serveWorker } from './worker.js';

/** How long one half of a worker waits for the other. */
const pairingMs = 30_000;

type Waiting = {
  readonly streams: Partial<Record<Half, Duplex>>;
  readonly timer: NodeJS.Timeout;
};

/** Channels that come one by one; a worker begins when both of its are there. */
export class Pairing {
  readonly #agent: Agent;
  readonly #waiting = new Map<string, Waiting>();

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  add({ worker, half }: ChannelLine, stream: Duplex): void {
    const entry = this.#waiting.get(worker) ?? this.#expect(worker);
    if (entry.streams[half]) {
      destroySoon(stream);
      return;
    }
    entry.streams[half] = stream;
    const { command, data } = entry.streams;
    if (!command || !data) return;
    clearTimeout(entry.timer);
    this.#waiting.delete(worker);
    void serveWorker(this.#agent, command, data);
  }

  /** What waits is not waited for any longer. */
  stop(): void {
    this.#waiting.forEach(({ timer }) => clearTimeout(timer));
  }

  #expect(worker: string): Waiting {
    const streams: Waiting['streams'] = {};
    const timer = setTimeout(() => {
      this.#waiting.delete(worker);
      for (const stream of Object.values(streams)) destroySoon(stream);
    }, pairingMs);
    const entry = { streams, timer };
    this.#waiting.set(worker, entry);
    return entry;
  }
}
