import type { Target } from '../target.js';
import type { Tsi } from '../tsi/tsi.js';
import { parseDescription } from './description.js';
import type { Call, Task } from './work.js';

/** A machine whose TSI is one is its own login node, and has no other. */
export const onlyNode = 'localhost';

/** The TSI of a login node; without one, or where there is only one, that of the target system. */
export function tsiOn(target: Target, node: string | undefined): Tsi {
  return (node === undefined ? undefined : target.loginNodes?.()?.on(node)) ?? target.tsi();
}

/** @throws `BAD_REQUEST` when a job asks for a login node that there is not */
export function checkLoginNode(target: Target, wish: string | undefined): void {
  if (wish !== undefined) target.loginNodes?.()?.check(wish);
}

/**
 * Where the job's processes beside the batch system run: chosen when the first is about to be started, stored
 * before that, and kept for the whole run. `undefined`: there is no choice.
 * @throws `BAD_REQUEST` when no node is called as the job wishes
 */
export async function chooseNode({ job, callOn, options }: Task): Promise<string | undefined> {
  if (job.run.node !== undefined) return job.run.node;
  const { 'Login node': wish } = parseDescription(job.description);
  // who waits for a certain node holds up nobody else
  const chosen = await callOn(`like ${wish ?? '*'}`, (_, target) =>
    target.loginNodes?.()?.choose(wish),
  );
  return chosen === undefined ? undefined : await options.settle(job, chosen);
}

/** For what is done on the node that the job's processes are on. */
export function callThere({ call, callOn }: Task, node: string | undefined): Call {
  if (node === undefined) return call;
  return (work, onRefusal) =>
    callOn(node, (_, target) => work(tsiOn(target, node), target), onRefusal);
}
