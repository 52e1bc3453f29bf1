import { frame } from './framing.js';
import { checkText, refuse, type Scalar } from './scalars.js';

/** The two words of the trailer `#TSI_IDENTITY <login> <groups>`. */
export type Identity = { readonly login: string; readonly groups: string };

/** A request as it lies on the wire: header lines, the script if there is one, the identity. */
export type Message = {
  /** Words of the lines `#TSI_<WORD>` without a value, in order; the first known one is the command. */
  readonly words: readonly string[];
  /** The first value of each `#TSI_<NAME> <value>` of the header. */
  readonly header: ReadonlyMap<string, string>;
  /** All before the trailer, header included: what a shell is given, for which headers are comments. */
  readonly text: string;
  /** What follows `#TSI_SCRIPT`; empty without it. */
  readonly script: string;
  readonly identity?: Identity;
};

const scriptLine = '\n#TSI_SCRIPT\n';
const identityStart = '\n#TSI_IDENTITY ';

/**
 * Reads a message in order: the header ends at the first `#TSI_SCRIPT`, the identity is the last line
 * that is not blank. Nothing in between is looked at, for that is the user's.
 */
export function parseMessage(wire: string): Message {
  const whole = `\n${wire}`;
  const { text, identity } = splitTrailer(whole);
  const at = `${text}\n`.indexOf(scriptLine);
  const words: string[] = [];
  const header = new Map<string, string>();
  for (const entry of (at < 0 ? text : text.slice(0, at)).split('\n')) {
    const match = /^#(TSI_[A-Z0-9_]+)(?: (.*))?$/.exec(entry);
    if (!match?.[1]) continue;
    if (match[2] === undefined) words.push(match[1]);
    else if (match[2] !== '' && !header.has(match[1])) header.set(match[1], match[2]);
  }
  const script = at < 0 ? '' : text.slice(at + scriptLine.length);
  return { words, header, text: text.slice(1), script, ...(identity && { identity }) };
}

function splitTrailer(whole: string): { text: string; identity?: Identity } {
  const at = whole.lastIndexOf(identityStart);
  const trailer = at < 0 ? null : /^#TSI_IDENTITY (\S+) (\S+)\s*$/.exec(whole.slice(at + 1));
  if (!trailer?.[1] || !trailer[2]) return { text: whole };
  return { text: whole.slice(0, at), identity: { login: trailer[1], groups: trailer[2] } };
}

type Field<T, Required extends boolean> = {
  readonly name: string;
  readonly required: Required;
  readonly encode: (value: T | undefined) => string[];
  readonly decode: (header: ReadonlyMap<string, string>) => T | undefined;
};
// `never` in the writing position is what lets fields of any type stand in one table
type AnyField = Omit<Field<unknown, boolean>, 'encode'> & {
  readonly encode: (value: never) => string[];
};
type Fields = Readonly<Record<string, AnyField>>;

export function field<T>(name: string, scalar: Scalar<T>): Field<T, true> {
  return { ...optional(name, scalar), required: true };
}

/** @param missing what stock TSIs want to read where no value is given */
export function optional<T>(name: string, scalar: Scalar<T>, missing?: string): Field<T, false> {
  return {
    name,
    required: false,
    encode: (value: T | undefined) => {
      const text = value === undefined ? missing : scalar.write(value);
      return text === undefined ? [] : [`#${name} ${text}`];
    },
    decode: (header) => {
      const text = header.get(name);
      return text === undefined ? undefined : scalar.read(text);
    },
  };
}

/** All headers whose names begin with `prefix`, as a record. */
export function prefixed(
  prefix: string,
  scalar: Scalar<string>,
): Field<Readonly<Record<string, string>>, false> {
  const named = (key: string): string =>
    /^[A-Z0-9_]+$/.test(key) ? `#${prefix}${key}` : refuse('not a resource name', { name: key });
  return {
    name: prefix,
    required: false,
    encode: (values: Readonly<Record<string, string>> | undefined) =>
      Object.entries(values ?? {}).map(([key, value]) => `${named(key)} ${scalar.write(value)}`),
    decode: (header) => {
      const found = [...header].filter(([name]) => name.startsWith(prefix));
      return found.length === 0
        ? undefined
        : Object.fromEntries(found.map(([name, value]) => [name.slice(prefix.length), value]));
    },
  };
}

type Value<F> = F extends Field<infer T, boolean> ? T : never;
type KeysOf<F extends Fields, Required extends boolean> = {
  [K in keyof F]: F[K] extends { required: Required } ? K : never;
}[keyof F];
type Body<HasBody extends boolean> = HasBody extends true ? { readonly script: string } : unknown;
type Values<F extends Fields, HasBody extends boolean> = {
  readonly [K in KeysOf<F, true>]: Value<F[K]>;
} & { readonly [K in KeysOf<F, false>]?: Value<F[K]> | undefined } & Body<HasBody>;

export type Command<T> = {
  readonly name: string;
  /** Replies of TSIs before 11 have no leading `TSI_OK`. */
  readonly bare: boolean;
  /** The whole message. @throws TsiError `TSI_PROTOCOL` for what would break the frame */
  encode(value: T, identity: Identity, options?: EncodeOptions): string;
  /** @throws TsiError `TSI_PROTOCOL` naming the header */
  decode(message: Message): T;
};
export type Infer<C> = C extends Command<infer T> ? T : never;

export type EncodeOptions = {
  /** First line of a message with a script, which stock TSIs execute as a file. */
  readonly interpreter?: string;
  /** For stock TSIs, which search the whole text: refuse a script that holds lines of the protocol. */
  readonly guardScript?: boolean;
};

/** One row of the protocol: encoder, decoder and type of a command. */
export function command<const F extends Fields, const HasBody extends boolean = false>(
  name: string,
  fields: F,
  { body, bare = false }: { body?: HasBody; bare?: boolean } = {},
): Command<Values<F, HasBody>> {
  return {
    name,
    bare,
    encode(value, identity, options = {}) {
      // the table is typed at its door: `Values` names what each row holds
      const values = value as Readonly<Record<string, unknown>>;
      const lines = [`#${name}`];
      for (const [key, row] of Object.entries(fields)) {
        if (row.required && values[key] === undefined) refuse(`${key} is missing`, { name });
        lines.push(...row.encode(values[key] as never));
      }
      if (body) {
        const script = checkText(String(values['script']));
        if (options.guardScript) guard(script);
        lines.unshift(`#!${options.interpreter ?? '/bin/bash'}`);
        lines.push('#TSI_SCRIPT', script);
      }
      return frame(`${lines.join('\n')}\n${encodeIdentity(identity)}\n\n`);
    },
    decode(message) {
      const values: Record<string, unknown> = {};
      for (const [key, row] of Object.entries(fields)) {
        const value = row.decode(message.header);
        if (value !== undefined) values[key] = value;
        else if (row.required) refuse(`#${row.name} is missing or wrong`, { name });
      }
      if (body) values['script'] = message.script;
      return values as Values<F, HasBody>;
    },
  };
}

function encodeIdentity({ login, groups }: Identity): string {
  const words = [login, groups].map(checkText);
  if (words.some((word) => !/^\S+$/.test(word))) refuse('a login or group must be one word');
  return `#TSI_IDENTITY ${words.join(' ')}`;
}

/** `#TSI_UMASK` alone is expected inside a script (§4.4). */
function guard(script: string): void {
  const found = /^(?!#TSI_UMASK [0-7]{1,4}$)(#TSI_\w+.*|.*#TSI_[A-Z_]+)$/m.exec(script);
  if (found) refuse('this TSI would take a line of the script for its own', { line: found[0] });
}
