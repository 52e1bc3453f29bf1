import { errorText } from '#kernel/errors.js';
import { decodeGreeting, encodeGreetingAnswer, type Greeting } from '../protocol/greeting.js';
import type { Agent } from './agent.js';
import { assumeIdentity, identityFacts } from './machine-identity.js';

/**
 * Does what a host asks before it speaks HTTP/2. What cannot be done is not told here: it is asked for again, by a
 * request that says why.
 * @returns the answer, empty where there is none; `undefined`: it is no greeting
 */
export async function greet(agent: Agent, line: string): Promise<string | undefined> {
  const receivedMs = performance.now();
  try {
    const greeting = decodeGreeting(line);
    return greeting && encodeGreetingAnswer(await answer(agent, greeting, receivedMs));
  } catch (error) {
    agent.log.error({ reason: errorText(error) }, 'a greeting could not be answered');
    return '';
  }
}

async function answer(
  agent: Agent,
  { nonce, identity, enrolment: ask }: Greeting,
  receivedMs: number,
): Promise<Parameters<typeof encodeGreetingAnswer>[0]> {
  const isAnother = identity !== undefined && identityFacts(agent.settings).identity;
  // first: a key that is made before is of random numbers that other copies have too
  if (isAnother) await assumeIdentity(identity, receivedMs);
  const isAsked = ask && agent.enrolment && isAnother === (identity !== undefined);
  if (identity?.isRehearsal === true) agent.enrolment?.rehearse();
  const enrolment = isAsked ? agent.enrolment.prove(ask) : undefined;
  return { nonce, isAnother, ...(enrolment && { enrolment }) };
}
