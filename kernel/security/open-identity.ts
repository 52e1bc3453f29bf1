import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { systemClock, type Clock } from '#kernel/clock.js';
import { file } from '#kernel/config.js';
import type { Log } from '#kernel/log.js';
import { openDatabase } from '#kernel/persistence/database.js';
import { migrate } from '#kernel/persistence/migrate.js';
import type { Scope } from '#kernel/scope.js';
import { openAttributeFile } from './attribute-file.js';
import { createMappingTable, mappingMigrations, tableSource } from './attribute-table.js';
import {
  combiningPolicies,
  createAttributeChain,
  usersSource,
  type AttributeSource,
} from './attributes.js';
import { AuditConfig, openAudit, type Audit } from './audit.js';
import { countDecisions } from './decision-metrics.js';
import type { Metrics } from '#kernel/metrics.js';
import { createAuthenticator, type Authenticate } from './authenticate.js';
import { BearerConfig, createBearers } from './bearers.js';
import { createPasswordCommand, PasswordCommand } from './password-backend.js';
import { Sessions } from './sessions.js';
import { readText } from './tls.js';
import type { LearnedKeys } from './tokens.js';
import { openUsers, type Users } from './users.js';
import { openVos } from './vos.js';

/** Where attributes of users come from, in the order in which the sources are asked. */
const AttributeSourceConfig = z.discriminatedUnion('kind', [
  /** Role, login and groups of the users file. */
  z.strictObject({ kind: z.literal('users') }),
  /** UNICORE's attribute file, JSON or XML. */
  z.strictObject({
    kind: z.literal('file'),
    path: file,
    matching: z.enum(['strict', 'regexp']).default('strict'),
  }),
  /** The table that `vsite user map` edits. */
  z.strictObject({
    kind: z.literal('table'),
    database: z.strictObject({ url: z.string(), passwordFile: file.optional() }),
  }),
  /** Members of virtual organisations. */
  z.strictObject({ kind: z.literal('vos'), path: file }),
]);
type AttributeSourceConfig = z.output<typeof AttributeSourceConfig>;

/** What a service has to be told about its users; members of its own configuration. */
export const identityConfig = {
  usersFile: file,
  /** Certificates of those whose word about a client counts: gateways, other services. */
  consignorFiles: z.array(file).default([]),
  /** Whose bearer tokens count, besides our own and those that users sign by SSH key. */
  bearers: BearerConfig.prefault({}),
  /** Programs that check passwords of users who have none in the users file. */
  passwordCommands: z.array(PasswordCommand).default([]),
  attributes: z
    .strictObject({
      combining: z.enum(combiningPolicies).default('MERGE_LAST_OVERRIDES'),
      sources: z
        .array(AttributeSourceConfig)
        .min(1)
        .default([{ kind: 'users' }]),
    })
    .prefault({}),
  sessionSeconds: z.number().positive().default(28_800),
  /** Where security decisions are written down; default: in the log. */
  audit: AuditConfig.optional(),
};
export type IdentityConfig = z.output<z.ZodObject<typeof identityConfig>>;

export type IdentityDeps = {
  readonly log: Log;
  readonly scope: Scope;
  readonly clock?: Clock;
  /** Who we are in tokens, and the certificate that ours are signed with. */
  readonly own?: { readonly dn: string; readonly certificate: X509Certificate };
  /** Keys of further servers that may speak for users. */
  readonly learned?: LearnedKeys;
  /** Our name at the gateways. */
  readonly siteName?: string;
  /** Clients may come to us without a gateway. */
  readonly direct?: boolean;
  /** Where decisions are counted. */
  readonly metrics?: Metrics | undefined;
};

/** All that is needed to know who asks, and to write down what was decided. */
export async function openIdentity(
  config: IdentityConfig,
  { log, scope, clock = systemClock, own, learned, siteName, direct, metrics }: IdentityDeps,
): Promise<{ readonly authenticate: Authenticate; readonly audit: Audit }> {
  const users = await openUsers(config.usersFile, { log, clock });
  const written = openAudit(config.audit, log, (resource) => scope.use(resource));
  const audit = metrics ? countDecisions(metrics, written) : written;
  const sources: AttributeSource[] = [];
  for (const source of config.attributes.sources)
    sources.push(await openSource(source, users, { log, scope, clock }));
  const authenticate = createAuthenticator({
    users,
    attributes: createAttributeChain(sources, config.attributes.combining, log),
    trustedSigners: await readCertificates(config.consignorFiles),
    sessions: new Sessions({ clock, lifetimeMs: config.sessionSeconds * 1_000 }),
    backends: config.passwordCommands.map(createPasswordCommand),
    bearers: await createBearers(config.bearers, {
      users,
      ...{ clock, learned },
      ...(own && { serverDn: own.dn, certificate: own.certificate }),
    }),
    log,
    audit,
    ...(siteName !== undefined && { siteName }),
    ...(direct !== undefined && { direct }),
  });
  return { authenticate, audit };
}

async function openSource(
  source: AttributeSourceConfig,
  users: Users,
  { log, scope, clock }: { log: Log; scope: Scope; clock: Clock },
): Promise<AttributeSource> {
  switch (source.kind) {
    case 'users':
      return usersSource(users);
    case 'file':
      return await openAttributeFile({ ...source, log, clock });
    case 'vos':
      return await openVos({ path: source.path, log, clock });
    case 'table': {
      const { url, passwordFile } = source.database;
      const password = passwordFile && (await readText(passwordFile)).split('\n')[0];
      const database = scope.use(await openDatabase({ url, password, log }));
      await migrate(database, 'users', mappingMigrations, log);
      return tableSource(createMappingTable(database, { clock }));
    }
  }
}

async function readCertificates(paths: readonly string[]): Promise<X509Certificate[]> {
  return await Promise.all(paths.map(async (path) => new X509Certificate(await readFile(path))));
}
