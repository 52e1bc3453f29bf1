import { LibvirtError, refusals, unavailable } from './errors.js';
import { statuses, type Message } from './frame.js';
import { errorMessage, procedureRow, type AnyProcedureName } from './procedures.js';
import { decode, encode } from './xdr.js';

export type CallOptions = {
  /** Ends the wait, with the signal's reason. What was sent may still be done. */
  readonly signal?: AbortSignal;
  readonly timeoutMs?: number;
};

/** A call that has ended. `code`: how it failed, a row of the catalogue of errors. */
export type FinishedCall = {
  readonly procedure: AnyProcedureName;
  readonly ms: number;
  readonly code?: string;
};

type Call = {
  readonly name: AnyProcedureName;
  readonly payload: Buffer;
  readonly settle: (outcome: { value: unknown } | { error: Error }) => void;
};

/**
 * The calls of one connection. At most `maxInFlight` are with the daemon: at its `max_client_requests` it
 * stops reading, keepalive included, and both sides take each other for dead. The others wait here, their
 * deadlines running.
 */
export class Calls {
  readonly #send: (procedure: number, serial: number, payload: Buffer) => void;
  readonly #maxInFlight: number;
  readonly #inFlight = new Map<number, Call>();
  readonly #waiting = new Map<number, Call>();

  constructor(
    send: (procedure: number, serial: number, payload: Buffer) => void,
    maxInFlight: number,
  ) {
    this.#send = send;
    this.#maxInFlight = maxInFlight;
  }

  /** @throws the daemon's answer as {@link LibvirtError}; `HYPERVISOR_UNAVAILABLE` at the deadline */
  run(
    serial: number,
    name: AnyProcedureName,
    args: object,
    { signal, timeoutMs }: { signal?: AbortSignal | undefined; timeoutMs: number },
  ): Promise<unknown> {
    signal?.throwIfAborted();
    const payload = encode(procedureRow(name).args, args as Record<string, unknown>);
    return new Promise((resolve, reject) => {
      const settle: Call['settle'] = (outcome) => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        this.#inFlight.delete(serial);
        this.#waiting.delete(serial);
        if ('value' in outcome) resolve(outcome.value);
        else reject(outcome.error);
        this.#sendWaiting();
      };
      const timer = setTimeout(() => {
        settle({
          error: unavailable('libvirt did not answer in time', { procedure: name, timeoutMs }),
        });
      }, timeoutMs);
      const abort = (): void => settle({ error: signal?.reason as Error });
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiting.set(serial, { name, payload, settle });
      this.#sendWaiting();
    });
  }

  /** An answer that nobody waits for any more is dropped. */
  answer({ serial, status, payload }: Message): void {
    const call = this.#inFlight.get(serial);
    if (!call) return;
    try {
      if (status !== statuses.ok) throw decodeError(payload, { procedure: call.name });
      call.settle({ value: decode(procedureRow(call.name).result, payload) });
    } catch (error) {
      call.settle({ error: error as Error });
    }
  }

  failAll(error: LibvirtError): void {
    const calls = [...this.#inFlight.values(), ...this.#waiting.values()];
    this.#waiting.clear();
    for (const call of calls) call.settle({ error });
  }

  #sendWaiting(): void {
    for (const [serial, call] of this.#waiting) {
      if (this.#inFlight.size >= this.#maxInFlight) return;
      this.#waiting.delete(serial);
      this.#inFlight.set(serial, call);
      this.#send(procedureRow(call.name).number, serial, call.payload);
    }
  }
}

export function decodeError(payload: Buffer, facts: Record<string, unknown>): LibvirtError {
  const { code, domain, message, level } = decode(errorMessage, payload);
  return new LibvirtError(
    code === refusals.noDomain ? 'DOMAIN_UNKNOWN' : 'HYPERVISOR_FAILED',
    message ?? `libvirt failed with code ${code}`,
    { ...facts, libvirtCode: code, libvirtDomain: domain, libvirtLevel: level },
  );
}
