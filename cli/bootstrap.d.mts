export class BootstrapError extends Error {}
export type Run = (command: string, args: string[]) => Promise<{ code: number; output: string }>;
export function missingPackages(wanted: readonly string[], run?: Run): Promise<string[]>;
export function ensurePackages(
  wanted: readonly string[],
  options?: { run?: Run; uid?: number },
): Promise<string>;
export function modulesMatch(folder?: string): boolean;
export function testFiles(parts: readonly string[], folder?: string): string[];
