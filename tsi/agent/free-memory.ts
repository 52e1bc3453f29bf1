import { execFile } from 'node:child_process';
import { freemem } from 'node:os';
import { promisify } from 'node:util';
import { perl, perlEnvironment } from './kernel-calls.js';

const MiB = 1024 * 1024;
/** What is left to others meanwhile. */
const restMiB = 16;
/** Of a large machine most was never written to. */
const mostMiB = 512;
/**
 * Piece by piece, whose size is not a constant: of such perl keeps one. Should memory run out nevertheless the kernel
 * ends this process, and no other.
 */
const script = `if (open(my $score, ">", "/proc/self/oom_score_adj")) { print {$score} 1000; close $score }
my @pieces;
push @pieces, "\\0" x $ARGV[1] for 1 .. $ARGV[0];`;

/**
 * Overwrites memory that nobody uses any more with zeros (the first file system as it was packed, the heaps of programs
 * that have ended): where memory is saved they take no room, and nobody reads them again. As far as it can.
 */
export async function zeroFreeMemory(): Promise<void> {
  const pieces = Math.min(mostMiB, Math.floor(freemem() / MiB) - restMiB);
  if (pieces <= 0) return;
  const options = { timeout: 60_000, env: perlEnvironment };
  const numbers = [String(pieces), String(MiB)];
  await promisify(execFile)(perl, ['-e', script, ...numbers], options).catch(() => undefined);
}
