import { join } from 'node:path';
import { errorText } from '#kernel/errors.js';
import { processes } from '../bss/processes.js';
import * as commands from '../protocol/commands.js';
import { TsiError } from '../protocol/error.js';
import { encodeUserInfo, type UserInfo } from '../protocol/information.js';
import { encodePing } from '../protocol/reply.js';
import { encodeStatus } from '../protocol/status.js';
import type { Agent } from './agent.js';
import { on, type Handler } from './handler.js';
import type { User } from './users.js';

const maxKeyFileBytes = 65_536;

/** What is asked about the agent, its machine and its users. */
export const informationHandlers: readonly (readonly [string, Handler])[] = [
  on(commands.ping, ({ settings }, { extensions }) => encodePing(settings.version, !!extensions)),
  on(
    commands.pingUid,
    ({ settings }) => `${settings.version}\n running as UID [${process.geteuid?.() ?? -1}]`,
  ),
  on(commands.statusListing, async ({ bss }) => encodeStatus(await bss.status())),
  on(commands.processListing, () =>
    ['  PID COMMAND', ...processes().map(({ pid, name }) => `${pid} ${oneLine(name)}`)].join('\n'),
  ),
  on(commands.userInfo, async (agent, _, { user, gone }) =>
    encodeUserInfo(await describeUser(agent, await user(), gone)),
  ),
  on(commands.fileAcl, async ({ acl, files }, { operation, change, spec, ...at }, { user }) => {
    const owner = await user();
    const path = files.expand(owner, at.path, at.literal);
    if (operation === 'CHECK_SUPPORT') return String(acl.supports(path));
    if (operation === 'GETFACL') return acl.get(owner, path);
    if (!change) throw new TsiError('TSI_FAILED', '#TSI_ACL_COMMAND is missing');
    await acl.set(owner, path, change, spec);
    return undefined;
  }),
];

/** For logging in to UNICORE/X by SSH key (§2.15). Commands that fail are said, and leave the rest. */
async function describeUser(agent: Agent, user: User, gone: AbortSignal): Promise<UserInfo> {
  const { settings, files, scripts } = agent;
  const problems: string[] = [];
  const acceptedKeys: string[] = [];
  for (const name of settings.keyFiles) {
    const text = await files
      .readStart(user, join(user.home, name), maxKeyFileBytes)
      .catch(() => '');
    acceptedKeys.push(...textLines(text.toString()));
  }
  const ask = async (name: string, command: string | undefined): Promise<string[]> => {
    if (command === undefined) return [];
    try {
      return textLines(await scripts.run(user, command, gone));
    } catch (error) {
      problems.push(`${name}: ${oneLine(errorText(error))}`);
      return [];
    }
  };
  acceptedKeys.push(...(await ask('key_cmd', settings.userKeysCommand)));
  const attributes = (await ask('info_cmd', settings.userInfoCommand)).flatMap((line) => {
    const [, key, value = ''] = /^([^=]+)=(.*)$/.exec(line) ?? [];
    return key === undefined ? [] : [[key, value] as const];
  });
  return {
    home: user.home,
    acceptedKeys,
    attributes: Object.fromEntries(attributes),
    status: problems.join(', ') || 'OK',
  };
}

/** Without comments and empty lines. */
function textLines(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
}

function oneLine(name: string): string {
  return name.replaceAll(/\s+/g, ' ').replaceAll(/[^\S ]/g, '?');
}
