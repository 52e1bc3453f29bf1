import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { nodeFlags, program } from '../../program.js';
import { findReason } from '../../grid/grid.js';

const programs = [
  ['qemu-system-x86_64', '--version'],
  ['libvirtd', '--version'],
  ['tini', '--version'],
  ['dnsmasq', '--version'],
  ['ebtables', '--version'],
] as const;

/** Why machines with a network cannot be tried here. */
export const noNamespace =
  process.getuid?.() === 0 ? findReason(programs) : 'needs root, for a network namespace';

/** Runs a file of tests where libvirt's networks and rules are nobody else's, and end with it. */
export async function runInNamespace(
  file: `${string}.ts`,
  more: readonly string[] = [],
): Promise<void> {
  const node = [process.execPath, ...nodeFlags, program(file), ...more];
  const script = 'ip link set lo up && exec "$@"';
  const own = ['--net', '--pid', '--mount-proc', '--fork', '--kill-child'];
  const args = [...own, 'sh', '-c', script, 'sh', ...node];
  // the variable would make it report to our own runner, in a form of its own
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
  try {
    await promisify(execFile)('unshare', args, { env, maxBuffer: 16 * 1024 * 1024 });
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    assert.fail(`${stdout}\n${stderr}`);
  }
}
