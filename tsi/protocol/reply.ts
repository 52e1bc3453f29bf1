import { TsiError } from './error.js';
import { frame, terminator } from './framing.js';

const okLine = 'TSI_OK\n';
const failed = 'TSI_FAILED';

/** The reply to something that worked; without a payload `TSI_OK` alone. */
export function encodeOk(payload?: string, bare = false): string {
  const text = payload === undefined ? '' : `${payload}\n`;
  return frame((bare ? '' : okLine) + protect(text));
}

export function encodeFailed(reason: string): string {
  return frame(`${failed}: ${reason.trim().replaceAll(/\r?\n|\r/g, ':')}\n`);
}

/** There is no escape on the wire: a payload line that is the terminator gets a leading blank. */
function protect(text: string): string {
  return text.includes(terminator)
    ? text.replaceAll(new RegExp(`^${terminator}$`, 'gm'), ` ${terminator}`)
    : text;
}

/**
 * @param bare whether the command may be answered without `TSI_OK`, as TSI 10 does (§ appendix B)
 * @returns the payload, without the line break that ends it
 * @throws {@link TsiError} `TSI_FAILED` with the TSI's own text, `TSI_PROTOCOL`
 */
export function decodeReply(text: string, bare = false): string {
  if (text.startsWith(failed)) throw new TsiError('TSI_FAILED', failureText(text));
  if (text.startsWith(okLine)) return text.slice(okLine.length).replace(/\n$/, '');
  if (bare) return text.replace(/\n$/, '');
  throw new TsiError('TSI_PROTOCOL', 'the reply is neither TSI_OK nor TSI_FAILED', {
    reply: text.slice(0, 200),
  });
}

/** The second part of a chunk's reply: nothing, or a failure. */
export function decodeEnd(text: string): void {
  if (text.startsWith(failed)) throw new TsiError('TSI_FAILED', failureText(text));
  if (text.trim() !== '')
    throw new TsiError('TSI_PROTOCOL', 'a chunk does not end where it should');
}

function failureText(text: string): string {
  const [first = ''] = text.slice(failed.length).split('\n');
  return first.replace(/^:\s*/, '').trim() || 'the TSI gives no reason';
}

/** `TSI_LENGTH <n>` of GETFILECHUNK. */
export function decodeLength(payload: string, atMost: number): number {
  const length = Number(/^TSI_LENGTH (\d{1,15})\s*$/.exec(payload)?.[1] ?? Number.NaN);
  if (length <= atMost) return length;
  throw new TsiError('TSI_PROTOCOL', 'the TSI announces a wrong length', {
    reply: payload.slice(0, 200),
  });
}

/** The version, and what our own agent adds to it. */
export type PingReply = { readonly version: string; readonly extensions: ReadonlySet<string> };

/** What our agent can do beyond the original; each is a word of the reply to a ping that asks. */
export const agentExtensions = [
  'submit-id',
  'literal-path',
  'ordered-header',
  'exits',
  'arrays',
] as const;
export type AgentExtension = (typeof agentExtensions)[number];

export function encodePing(version: string, extended: boolean): string {
  return extended ? `${version}\nextensions: ${agentExtensions.join(' ')}` : version;
}

export function decodePing(payload: string): PingReply {
  const [version = '', second = ''] = payload.trim().split('\n');
  const words = /^extensions: (.*)$/.exec(second)?.[1]?.split(' ') ?? [];
  return { version: version.trim(), extensions: new Set(words) };
}
