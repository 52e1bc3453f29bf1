import { createPublicKey, type KeyObject } from 'node:crypto';
import { createRequire } from 'node:module';
import type sshpk from 'sshpk';
import { errorText, GridError } from '#kernel/errors.js';
import { algorithmOf } from './tokens.js';

const require = createRequire(import.meta.url);

/**
 * A line of `authorized_keys`, with or without options before it.
 * @throws `BAD_REQUEST` if it is none, or its key signs no tokens
 */
export function readSshKey(line: string): KeyObject {
  try {
    // costs 12 MB of memory: only where a user has such a key
    const { parseKey } = require('sshpk') as typeof sshpk;
    const [, bare = line] = /(?:^|\s)((?:ssh|ecdsa)-\S+\s+\S+)/.exec(line) ?? [];
    const key = createPublicKey(parseKey(bare, 'ssh').toBuffer('pem'));
    algorithmOf(key);
    return key;
  } catch (cause) {
    const reason = `no SSH key that can sign tokens: ${errorText(cause)}`;
    throw new GridError('BAD_REQUEST', reason, {}, { cause });
  }
}
