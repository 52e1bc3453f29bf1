import { createPublicKey, type KeyObject } from 'node:crypto';
import { parseKey } from 'sshpk';
import { errorText, GridError } from '#kernel/errors.js';
import { algorithmOf } from './tokens.js';

/**
 * A line of `authorized_keys`, with or without options before it.
 * @throws `BAD_REQUEST` if it is none, or its key signs no tokens
 */
export function readSshKey(line: string): KeyObject {
  try {
    const [, bare = line] = /(?:^|\s)((?:ssh|ecdsa)-\S+\s+\S+)/.exec(line) ?? [];
    const key = createPublicKey(parseKey(bare, 'ssh').toBuffer('pem'));
    algorithmOf(key);
    return key;
  } catch (cause) {
    const reason = `no SSH key that can sign tokens: ${errorText(cause)}`;
    throw new GridError('BAD_REQUEST', reason, {}, { cause });
  }
}
