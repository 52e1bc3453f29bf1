import { isOnLoginNode } from '../bss/login-node.js';
import * as commands from '../protocol/commands.js';
import { TsiError } from '../protocol/error.js';
import { encodeBudget, encodePartitions, encodeReservation } from '../protocol/information.js';
import type { Agent } from './agent.js';
import { on, type Handler } from './handler.js';
import { uftp } from './uftp.js';
import type { User } from './users.js';

/** Stock TSIs begin with these words where there are none. */
const noReservations = 'Reservation not supported!';

/** What concerns the batch system, and what runs beside it. */
export const jobHandlers: readonly (readonly [string, Handler])[] = [
  on(commands.submit, async (agent, value, { user, message }) => {
    const owner = await user();
    const job = { ...value, ...directories(agent, owner, value), text: message.text };
    if (value.mode !== 'allocate') return agent.bss.submit(owner, job);
    if (!agent.bss.allocate) throw new TsiError('TSI_FAILED', 'allocations are not supported here');
    await agent.bss.allocate(owner, job);
    return undefined;
  }),
  on(commands.runOnLoginNode, async (agent, value, { user, message }) => {
    const owner = await user();
    const text = message.text;
    return agent.loginNode.run(owner, { ...value, ...directories(agent, owner, value), text });
  }),
  on(commands.abortJob, async (agent, { bssId }, { user }) => {
    await runnerOf(agent, bssId).abort(await user(), bssId);
    return '';
  }),
  on(commands.holdJob, async (agent, { bssId }, { user }) => {
    await runnerOf(agent, bssId).hold(await user(), bssId);
    return '';
  }),
  on(commands.resumeJob, async (agent, { bssId }, { user }) => {
    await runnerOf(agent, bssId).resume(await user(), bssId);
    return '';
  }),
  on(commands.jobDetails, async ({ bss }, { bssId }, { user }) => bss.details(await user(), bssId)),
  on(commands.getPartitions, async ({ bss }, _, { user }) =>
    encodePartitions(await bss.partitions(await user())),
  ),
  on(commands.computeBudget, async ({ bss }, _, { user }) =>
    encodeBudget(await bss.budget(await user())),
  ),
  on(commands.makeReservation, async (agent, value, { user }) =>
    reservations(agent).make(await user(), value),
  ),
  on(commands.queryReservation, async (agent, { reference }, { user }) =>
    encodeReservation(await reservations(agent).query(await user(), reference)),
  ),
  on(commands.cancelReservation, async (agent, { reference }, { user }) => {
    await reservations(agent).cancel(await user(), reference);
    return undefined;
  }),
  [commands.uftp.name, uftp],
];

/** What runs it: it also ends and holds it. */
const runnerOf = ({ bss, loginNode }: Agent, bssId: string): Agent['bss'] | Agent['loginNode'] =>
  isOnLoginNode(bssId) ? loginNode : bss;

function reservations({ bss }: Agent): NonNullable<Agent['bss']['reservations']> {
  if (bss.reservations) return bss.reservations;
  throw new TsiError('TSI_FAILED', noReservations);
}

type Places = Pick<commands.RunOnLoginNode, 'uspaceDir' | 'outcomeDir' | 'literal'>;

function directories(
  { files }: Agent,
  owner: User,
  { uspaceDir, outcomeDir, literal }: Places,
): Pick<Places, 'uspaceDir' | 'outcomeDir'> {
  return {
    uspaceDir: files.expand(owner, uspaceDir, literal),
    outcomeDir: files.expand(owner, outcomeDir, literal),
  };
}
