import { printJson } from '../client/print.js';
import { checkAll, type CheckContext } from './checks.js';

const signs = { good: '✔', doubtful: '!', bad: '✖' } as const;

/** Tells what is good and what is not, with what to do. @returns the exit code: 1 if something is bad */
export async function doctor(context: CheckContext, asJson: boolean): Promise<number> {
  const findings = await checkAll(context);
  if (asJson) printJson(findings);
  else
    for (const finding of findings) {
      process.stdout.write(`${signs[finding.state]} ${finding.name}: ${finding.text}\n`);
      if (finding.state !== 'good') process.stdout.write(`  → ${finding.remedy}\n`);
    }
  return findings.some(({ state }) => state === 'bad') ? 1 : 0;
}
