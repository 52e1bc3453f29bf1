import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { errorText } from '#kernel/errors.js';
import { readStaple } from '#kernel/security/staple.js';
import type { Configuration } from './configuration.js';
import { bad, doubtful, together, unseen, type Finding } from './finding.js';

type Pair = { readonly keyFile: string; readonly certFile: string };

const dayMs = 86_400_000;
/** As an installation renews its own. */
const renewDays = 14;
const issueAnew =
  'issue a new one; vsite init --force renews those of an installation (its configuration is written anew, too)';

/** Of each key and certificate that is used, and of each authority that is believed. */
export async function checkCertificates({
  gateway,
  imagerepo,
  targetsystem,
}: Configuration): Promise<Finding> {
  const listens = [imagerepo.listen, targetsystem.listen];
  const direct = listens.flatMap((listen) => ('tls' in listen && listen.tls ? [listen.tls] : []));
  const { tsi, staging, jobs } = targetsystem.xnjs;
  const { tls } = tsi;
  const pairs: Pair[] = [gateway.tls, targetsystem.credential, ...direct, ...(tls ? [tls] : [])];
  const trusted = new Set([
    ...[gateway.tls, ...direct].flatMap(({ trustFiles }) => trustFiles),
    ...(gateway.upstream.trustFiles ?? []),
    ...(gateway.apiTokens?.caFile === undefined ? [] : [gateway.apiTokens.caFile]),
    ...[...imagerepo.consignorFiles, ...targetsystem.consignorFiles],
    ...[imagerepo, targetsystem].flatMap(({ bearers }) => bearers.issuerFiles),
    ...[...staging.trustFiles, ...jobs.notifications.trustFiles],
  ]);
  const seen = new Map(pairs.map((pair) => [`${pair.keyFile}\0${pair.certFile}`, pair]));
  const looks = [
    ...[...seen.values()].map((pair) => attempt(pair.certFile, () => checkPair(pair))),
    ...[...trusted].map((path) => attempt(path, () => checkTrusted(path))),
    checkStaple(gateway.tls),
  ];
  const looked = await Promise.all(looks);
  const days = Math.min(...looked.map(({ endMs }) => endMs).map(daysUntil));
  return together(
    looked.flatMap(({ findings }) => findings),
    `valid, the first ends in ${days} days`,
  );
}

/** The gateway tells nothing of its certificate where this is of no use. */
async function checkStaple({
  ocspFile,
  certFile,
}: Configuration['gateway']['tls']): Promise<Looked> {
  const endMs = Number.POSITIVE_INFINITY;
  if (ocspFile === undefined) return { endMs, findings: [] };
  try {
    readStaple(await readFile(ocspFile), await readFile(certFile, 'utf8'), Date.now());
    return { endMs, findings: [] };
  } catch (error) {
    const remedy = `ask the responder anew: openssl ocsp … -cert ${certFile} -respout ${ocspFile}`;
    return { endMs, findings: [doubtful(`${ocspFile}: ${errorText(error)}`, remedy)] };
  }
}

type Looked = { readonly endMs: number; readonly findings: readonly Finding[] };

async function attempt(path: string, look: () => Promise<Looked>): Promise<Looked> {
  return await look().catch((error: unknown) => ({
    endMs: Number.POSITIVE_INFINITY,
    findings: [unseen(error, `put a certificate, as PEM, into ${path}`)],
  }));
}

async function checkPair({ keyFile, certFile }: Pair): Promise<Looked> {
  const certificate = new X509Certificate(await readFile(certFile));
  const times = checkTimes(certFile, certificate);
  const pem = await readFile(keyFile);
  const remedy = `put the key of ${certFile} into ${keyFile}, or issue both anew`;
  try {
    if (certificate.checkPrivateKey(createPrivateKey(pem))) return times;
  } catch {
    const broken = bad(`${keyFile} holds no key that can be read without a password`, remedy);
    return { ...times, findings: [...times.findings, broken] };
  }
  const other = bad(`${keyFile} is not the key of ${certFile}`, remedy);
  return { ...times, findings: [...times.findings, other] };
}

/** The file may hold several. */
async function checkTrusted(path: string): Promise<Looked> {
  const text = await readFile(path, 'latin1');
  const pems = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g);
  const certificates = (pems ?? [text]).map((pem) => new X509Certificate(pem));
  const looked = certificates.map((certificate) => checkTimes(path, certificate));
  return {
    endMs: Math.min(...looked.map(({ endMs }) => endMs)),
    findings: looked.flatMap(({ findings }) => findings),
  };
}

function checkTimes(path: string, { validFrom, validTo }: X509Certificate): Looked {
  const endMs = Date.parse(validTo);
  const days = daysUntil(endMs);
  const findings: Finding[] = [];
  if (Date.parse(validFrom) > Date.now())
    findings.push(bad(`${path} is good from ${validFrom} only`, `set the clock, or ${issueAnew}`));
  if (endMs < Date.now()) findings.push(bad(`${path} ended on ${validTo}`, issueAnew));
  else if (days <= renewDays) findings.push(doubtful(`${path} ends in ${days} days`, issueAnew));
  return { endMs, findings };
}

function daysUntil(ms: number): number {
  return Math.floor((ms - Date.now()) / dayMs);
}
