import { InvalidArgumentError, type Command } from 'commander';
import { untilSignal } from '../signal.js';
import { printJson } from './print.js';
import { openSession, type Session } from './profile.js';

/** A number that it comes to is the exit code. */
export type Work = (session: Session, asJson: boolean, signal: AbortSignal) => Promise<unknown>;

export function online(command: Command, work: (...args: never[]) => Work): void {
  command.action(async (...args: unknown[]) => {
    const { profile, json = false } = command.optsWithGlobals<GlobalOptions>();
    await using session = await openSession(profile);
    const code = await work(...(args as never[]))(session, json, untilSignal());
    if (typeof code === 'number') process.exitCode = code;
  });
}

export function deleting(
  remove: (session: Session, ids: readonly string[], signal: AbortSignal) => Promise<void>,
): (ids: readonly string[]) => Work {
  return (ids) => async (session, json, signal) => {
    await remove(session, ids, signal);
    if (json) printJson({ deleted: ids });
  };
}

type GlobalOptions = { readonly profile?: string; readonly json?: boolean };

export const repeated = (word: string, words: string[] = []): string[] => [...words, word];

export function positive(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number > 0) return number;
  throw new InvalidArgumentError('must be a whole number above 0');
}

export function localPort(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= 0 && number <= 65_535) return number;
  throw new InvalidArgumentError('must be a port, 0 to 65535');
}

export function withSize(command: Command): Command {
  return command
    .option('--cpus <number>', 'cores of the machine', positive)
    .option('--memory <MiB>', 'memory of the machine', positive)
    .option('--disk <MiB>', 'its disk, where the image has one', positive)
    .option('--network <kind>', 'user, nat, isolated or bridge, as the site offers')
    .option('--flavour <name>', 'its size by name: vsite site offer')
    .option('--host-label <label>', 'what its host must have; may be repeated', repeated, [])
    .option('--set <name=value>', 'a parameter of its image; may be repeated', repeated, [])
    .option(
      '--volume <what>',
      'name=data,size=<MiB>[,path=/data][,keep], or volume=<yours>; may be repeated',
      repeated,
      [],
    )
    .option('--until <time>', 'when it ends: 18:00, 2030-01-31 18:00')
    .option('--tag <word>', 'to find it again; may be repeated', repeated, []);
}
