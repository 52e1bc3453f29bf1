import { z } from 'zod';
import type { ImageMetadata } from '#imagerepo/contract.js';
import { describeIssues } from '#kernel/config.js';
import { VmError } from '../state.js';

/** What an owner gives for the set-up of his machine. */
export type OwnContext = {
  /** Lines of `authorized_keys`. */
  readonly sshKeys?: readonly string[];
  /** As cloud-init takes it. */
  readonly userData?: string;
};

/** Of a seed disk; cloud-init itself takes more. */
const longestUserData = 65_536;

const keyTypes =
  'ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\\.com|sk-ecdsa-sha2-nistp256@openssh\\.com';
const keyLine = new RegExp(`^(?:${keyTypes}) [A-Za-z0-9+/]{40,8000}={0,3}(?: [ -~]{1,200})?$`);

const sshKey = z.string().refine((line) => {
  const [type = '', body = ''] = line.split(' ');
  // the type stands in the key once more: a key that was cut or mixed up is seen
  return (
    keyLine.test(line) &&
    Buffer.from(body, 'base64').subarray(4).toString('latin1').startsWith(type)
  );
}, 'must be a public key in one line, as in id_ed25519.pub');

const Given = z.strictObject({
  sshKeys: z.array(sshKey).min(1).max(32).optional(),
  userData: z
    .string()
    .refine(
      (text) => Buffer.byteLength(text) <= longestUserData,
      `must not be longer than ${longestUserData} bytes`,
    )
    .refine((text) => !text.includes('\0'), 'must be text')
    .refine(
      (text) => /^(#cloud-config|#!|#include|#cloud-boothook)/.test(text),
      'must begin with #cloud-config, #!, #include or #cloud-boothook',
    )
    .optional(),
});

/** The names among the parameters of a target system that are not its size. */
export const contextNames = ['sshKeys', 'userData'] as const;

/** @throws {@link VmError} `BAD_REQUEST` naming the field and the reason */
export function readOwnContext(
  section: string,
  given: Readonly<Partial<Record<(typeof contextNames)[number], unknown>>>,
): OwnContext | undefined {
  const members = Object.entries(given).filter(
    ([, value]) => value !== undefined && value !== null,
  );
  if (members.length === 0) return undefined;
  const read = Given.safeParse(Object.fromEntries(members));
  if (!read.success) throw new VmError('BAD_REQUEST', `${section}.${describeIssues(read.error)}`);
  const { sshKeys, userData } = read.data;
  return { ...(sshKeys && { sshKeys }), ...(userData !== undefined && { userData }) };
}

/** @throws {@link VmError} `BAD_REQUEST` where the image has no way to take it, or the site no agent for it */
export function requireContext(
  { contextualisation }: ImageMetadata,
  context: OwnContext | undefined,
  hasAgentDisk: boolean,
): void {
  const refuse = (field: string, reason: string): never => {
    throw new VmError('BAD_REQUEST', `${field}: ${reason}`);
  };
  if (contextualisation?.agent === true && !hasAgentDisk)
    refuse(
      'image',
      'it needs our agent put in, and this site has no disk for that (hypervisor.agentDisk)',
    );
  if (context?.sshKeys && contextualisation?.nocloud !== true)
    refuse(
      'parameters.sshKeys',
      'the image takes none: its metadata say no contextualisation.nocloud',
    );
  if (context?.userData !== undefined && contextualisation?.userData !== true)
    refuse(
      'parameters.userData',
      'the image takes none: its metadata say no contextualisation.userData',
    );
}
