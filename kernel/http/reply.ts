import type { IncomingMessage } from 'node:http';
import type { Duplex, Readable } from 'node:stream';

export type ReplyHeaders = Readonly<Record<string, string | number | undefined>>;

/** What an operation answers. Made by the functions below. */
export type Reply = {
  readonly status: number;
  readonly headers: ReplyHeaders;
  readonly body?: string | Readable;
  /** Instead of a body. */
  readonly upgrade?: Upgrade;
};

/** Another protocol on the connection of the request. */
export type Upgrade =
  | {
      readonly protocol: string;
      /** Given the connection once the client has been told; it is the operation's from then on. */
      readonly accept: (connection: Duplex) => void;
    }
  | {
      /** Sends the 101 itself, with these headers besides its own; the connection is the request's. */
      readonly shakeHands: (request: IncomingMessage, headers: readonly string[]) => void;
    };

export const jsonType = 'application/json';
export const htmlType = 'text/html';

/** 200 with JSON; members that are `undefined` are left out. */
export function json(body: object, how: { status?: number; headers?: ReplyHeaders } = {}): Reply {
  return {
    status: how.status ?? 200,
    headers: { 'content-type': jsonType, ...how.headers },
    body: JSON.stringify(body),
  };
}

/** 200 with JSON that is text already. */
export function jsonText(body: string): Reply {
  return { status: 200, headers: { 'content-type': jsonType }, body };
}

/** 201; UNICORE's clients read `Location` only, so the body is usually left out. */
export function created(location: string, body?: object): Reply {
  if (body === undefined) return { status: 201, headers: { location } };
  return json(body, { status: 201, headers: { location } });
}

export function noContent(headers: ReplyHeaders = {}): Reply {
  return { status: 204, headers };
}

export function text(body: string, type = 'text/plain'): Reply {
  return { status: 200, headers: { 'content-type': `${type}; charset=utf-8` }, body };
}

/** Streams `source`, which is destroyed when the client goes away. */
export function stream(
  source: Readable,
  how: { status?: number; headers?: ReplyHeaders } = {},
): Reply {
  return {
    status: how.status ?? 200,
    headers: { 'content-type': 'application/octet-stream', ...how.headers },
    body: source,
  };
}

/** 101; only for a request whose context has an `upgrade`. */
export function upgraded(protocol: string, accept: (connection: Duplex) => void): Reply {
  return { status: 101, headers: {}, upgrade: { protocol, accept } };
}
