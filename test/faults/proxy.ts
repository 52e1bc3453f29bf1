import { once } from 'node:events';
import { connect, createServer, type NetConnectOpts, type Server, type Socket } from 'node:net';
import { Transform } from 'node:stream';

type Way = 'to server' | 'to client';
type Pair = { readonly client: Socket; readonly server: Socket };

/** A wire between server and agent that can be cut, slowed down and held up. */
export class Proxy implements AsyncDisposable {
  readonly #server: Server;
  readonly #pairs = new Set<Pair>();
  readonly #held: (() => void)[] = [];
  #delayMs = 0;
  #stalled: readonly Way[] = [];
  #refusing = false;

  private constructor(to: NetConnectOpts) {
    this.#server = createServer({ allowHalfOpen: true }, (client) => {
      if (this.#refusing) {
        client.destroy();
        return;
      }
      const server = connect({ ...to, allowHalfOpen: true });
      const pair = { client, server };
      this.#pairs.add(pair);
      for (const [from, into, way] of [
        [client, server, 'to server'],
        [server, client, 'to client'],
      ] as const) {
        from.on('error', () => into.destroy());
        from.once('close', () => {
          this.#pairs.delete(pair);
          into.destroy();
        });
        from.pipe(this.#slowly(way)).pipe(into);
      }
    });
  }

  static async open(listen: string, to: NetConnectOpts): Promise<Proxy> {
    const proxy = new Proxy(to);
    proxy.#server.listen(listen);
    await once(proxy.#server, 'listening');
    return proxy;
  }

  /**
   * Connections break; new ones are taken at once, or only after `heal`.
   * @param oldestToo the one that came first carries the link, those after it are workers
   */
  cut({ forGood = false, oldestToo = true } = {}): void {
    this.#refusing = forGood;
    for (const { client, server } of [...this.#pairs].slice(oldestToo ? 0 : 1)) {
      client.destroy();
      server.destroy();
    }
  }

  /** Each piece takes so much longer. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  /** Nothing comes through, and nobody is told. */
  stall(ways: readonly Way[] = ['to server', 'to client']): void {
    this.#stalled = ways;
  }

  heal(): void {
    this.#delayMs = 0;
    this.#stalled = [];
    this.#refusing = false;
    for (const pass of this.#held.splice(0)) pass();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut({ forGood: true });
    this.#server.close();
    await once(this.#server, 'close');
  }

  #slowly(way: Way): Transform {
    return new Transform({
      transform: (chunk, _encoding, done) => {
        const pass = (): void => done(null, chunk);
        if (this.#stalled.includes(way)) this.#held.push(pass);
        else if (this.#delayMs === 0) pass();
        else setTimeout(pass, this.#delayMs);
      },
    });
  }
}
