import { fn, literal, Op, type WhereOptions } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { aclSubject } from '#kernel/security/acl.js';
import type { Sql, SqlValue, Statement } from '#kernel/persistence/sql.js';
import { ChangeLog, type NewChange } from '#kernel/persistence/change-log.js';
import { jobChange } from '../changes/job-change.js';
import { JobError } from '../job/errors.js';
import type { Job } from '../job/job.js';
import type { JobFilter, JobStore, JobUsage } from '../job/store.js';
import { GroupCommit, type Outcome } from './group-commit.js';
import {
  changesTable,
  jobModels,
  rowNames,
  toJob,
  toRow,
  type JobModels,
  type JobRow,
} from './job-models.js';
import type { Lease } from './sql-lease.js';
import { RecentJobs } from './recent-jobs.js';

type Write = { readonly insert: Job } | { readonly id: string; readonly change: (job: Job) => Job };
type Jobs = Map<string, Job>;

/**
 * {@link JobStore} in the service's database, after `jobMigrations`. The only one that writes to it.
 * @param lease without which nothing is written, after `leaseMigrations`; absent: this server is alone
 */
export function createJobStore(
  database: Database,
  lease?: Pick<Lease, 'epoch' | 'fence' | 'require'>,
): JobStore {
  const models = jobModels(database.sequelize);
  const recent = new RecentJobs();
  const changes = new ChangeLog(database, changesTable);
  const writes = new GroupCommit<Write, Job>(async (group) => {
    try {
      const before = await load(database.sql, recent, group);
      const after = new Map(before);
      const outcomes = group.map((item) => applyTo(after, item));
      const { statements, saved } = save(before, after, changes, lease);
      await database.write(statements);
      for (const [job, sizeChars] of saved) recent.keep(job, sizeChars);
      return outcomes;
    } catch (error) {
      // a commit whose answer was lost may have landed all the same
      for (const item of group) recent.forget('id' in item ? item.id : item.insert.id);
      await lease?.require();
      throw error;
    }
  });
  return {
    async insert(job) {
      await writes.add({ insert: job });
    },
    async find(id) {
      const known = recent.find(id);
      if (known) return known;
      const { version } = recent;
      const [found] = (await read(database.sql, [id])).values();
      if (found && recent.version === version) recent.keep(found, sizeOf(toRow(found)));
      return found;
    },
    change: (id, change) => writes.add({ id, change }),
    async count(targetId) {
      // by hand: it is asked for with each look at a target system
      const [found] = await database.sql<{ number: number | string }>(
        "SELECT COUNT(*) AS number FROM jobs WHERE target_id = $1 AND destroying = $2 AND parent_id = ''",
        [targetId, false],
      );
      return Number(found?.number ?? 0);
    },
    ...queries(models),
  };
}

function queries(
  models: JobModels,
): Pick<JobStore, 'list' | 'usage' | 'unfinished' | 'children' | 'expired'> {
  return {
    async list(filter, { offset, num }) {
      const where = toWhere(models, await withGrants(models, filter));
      const total = await models.jobs.count({ where });
      const order: [string, string][] = [
        ['createdMs', 'DESC'],
        ['id', 'DESC'],
      ];
      const page = { where, attributes: ['id'], order, offset, limit: num, raw: true };
      const rows = num > 0 && offset < total ? await models.jobs.findAll(page) : [];
      return { ids: rows.map(({ id }) => id), total };
    },
    async usage() {
      const rows = await models.jobs.findAll({
        where: { destroying: false, parentId: '' },
        attributes: ['ownerDn', 'active', [fn('COUNT', literal('*')), 'number']],
        group: ['ownerDn', 'active'],
        order: [['ownerDn', 'ASC']],
        raw: true,
      });
      return byOwner(rows as unknown as CountRow[]); // what is selected above
    },
    async unfinished({ afterId = '', num, targetId }) {
      const rows = await models.jobs.findAll({
        where: {
          active: true,
          id: { [Op.gt]: afterId },
          ...(targetId !== undefined && { targetId }),
        },
        attributes: ['document', 'description'],
        order: [['id', 'ASC']],
        limit: num,
      });
      return rows.map(toJob);
    },
    async children(parentId) {
      const where = { [Op.and]: [{ parentId }, { parentId: { [Op.ne]: '' } }] };
      const rows = await models.jobs.findAll({ where, attributes: ['id', 'active'] });
      return rows.map(({ id, active }) => ({ id, active }));
    },
    async expired(nowMs, num, but = []) {
      const where = {
        terminationMs: { [Op.lte]: nowMs },
        destroying: false,
        ...(but.length > 0 && { targetId: { [Op.notIn]: [...but] } }),
      };
      const rows = await models.jobs.findAll({ where, attributes: ['id'], limit: num });
      return rows.map(({ id }) => id);
    },
  };
}

/** SQLite's booleans are numbers, PostgreSQL's counts are texts. */
type CountRow = { ownerDn: string; active: boolean | number; number: number | string };

function byOwner(rows: readonly CountRow[]): JobUsage[] {
  const users = new Map<string, JobUsage>();
  for (const { ownerDn, active, number } of rows) {
    const { total = 0, unfinished = 0 } = users.get(ownerDn) ?? {};
    const count = Number(number);
    const more = { total: total + count, unfinished: unfinished + (active ? count : 0) };
    users.set(ownerDn, { ownerDn, ...more });
  }
  return [...users.values()];
}

/** Most users are granted nothing: their lists are then answered from one index. */
async function withGrants(
  { grants }: JobModels,
  { grantedTo = [], ...filter }: JobFilter,
): Promise<JobFilter> {
  if (grantedTo.length === 0) return filter;
  const found = await grants.findOne({ where: { subject: [...grantedTo] }, attributes: ['jobId'] });
  return found ? { ...filter, grantedTo } : filter;
}

function toWhere(
  { jobs }: JobModels,
  { ownerDn, grantedTo = [], targetId, tags = [] }: JobFilter,
): WhereOptions {
  const { sequelize } = jobs;
  const subjects = grantedTo.map((subject) => sequelize?.escape(subject)).join(', ');
  const granted = `(SELECT job_id FROM job_grants WHERE subject IN (${subjects}))`;
  const distinct = [...new Set(tags)];
  const list = distinct.map((tag) => sequelize?.escape(tag)).join(', ');
  const tagged = `(SELECT job_id FROM job_tags WHERE tag IN (${list}) GROUP BY job_id HAVING COUNT(*) = ${distinct.length})`;
  return {
    destroying: false,
    parentId: '',
    ...(ownerDn !== undefined &&
      (sequelize && grantedTo.length > 0
        ? { [Op.or]: [{ ownerDn }, { id: { [Op.in]: sequelize.literal(granted) } }] }
        : { ownerDn })),
    ...(targetId !== undefined && { targetId }),
    ...(sequelize && distinct.length > 0 && { id: { [Op.in]: sequelize.literal(tagged) } }),
  };
}

async function read(sql: Sql, ids: readonly string[]): Promise<Jobs> {
  if (ids.length === 0) return new Map();
  const select = `SELECT id, document, description FROM jobs WHERE id IN ${tuple(1, ids.length)}`;
  const rows = await sql<Pick<JobRow, 'id' | 'document' | 'description'>>(select, ids);
  return new Map(rows.map((row) => [row.id, toJob(row)]));
}

/** What a group changes: what is not at hand is read at once. */
async function load(sql: Sql, recent: RecentJobs, group: readonly Write[]): Promise<Jobs> {
  const jobs: Jobs = new Map();
  const ids = new Set(group.flatMap((item) => ('id' in item ? [item.id] : [])));
  for (const id of ids) {
    const job = recent.find(id);
    if (job) jobs.set(id, job);
  }
  const missing = [...ids].filter((id) => !jobs.has(id));
  for (const [id, job] of await read(sql, missing)) jobs.set(id, job);
  return jobs;
}

function applyTo(jobs: Jobs, item: Write): Outcome<Job> {
  if ('insert' in item) {
    jobs.set(item.insert.id, item.insert);
    return { value: item.insert };
  }
  const job = jobs.get(item.id);
  if (!job || job.state === 'DESTROYED')
    return { error: new JobError('JOB_UNKNOWN', `there is no job ${item.id}`, { jobId: item.id }) };
  try {
    const changed = item.change(job);
    jobs.set(item.id, changed);
    return { value: changed };
  } catch (error) {
    return { error };
  }
}

type Saving = {
  readonly statements: readonly Statement[];
  /** With the size of its row; without one it is gone. */
  readonly saved: readonly (readonly [Job, number | undefined])[];
};

/** In as few statements as can be: most groups are one, which needs no transaction around it. */
function save(
  before: Jobs,
  after: Jobs,
  changes: ChangeLog,
  lease?: Pick<Lease, 'epoch' | 'fence'>,
): Saving {
  const changed = [...after.values()].filter((job) => before.get(job.id) !== job);
  const kept = changed.filter(({ state }) => state !== 'DESTROYED');
  const removed = changed.filter(({ state }) => state === 'DESTROYED');
  const described = ({ id, description }: Job): boolean =>
    before.get(id)?.description !== description;
  const retagged = kept.filter(({ id, tags }) => tags !== before.get(id)?.tags);
  const untagged = [...removed, ...retagged.filter(({ id }) => before.has(id))];
  const tags = retagged.flatMap((job) => job.tags.map((tag) => [job.id, tag]));
  const regranted = kept.filter(({ id, acl }) => acl !== before.get(id)?.acl);
  const ungranted = [...removed, ...regranted].filter(({ id }) => before.get(id)?.acl?.length);
  const grants = regranted.flatMap(({ id, acl = [] }) =>
    [...new Set(acl.map(aclSubject))].map((subject) => [id, subject]),
  );
  const rows = new Map(
    kept.map((job) => [job, toRow(job, jobChange(before.get(job.id), job), lease?.epoch)]),
  );
  const rowsOf = (jobs: readonly Job[]): SqlValue[][] =>
    jobs.flatMap((job) => [rows.get(job) ?? []]);
  return {
    statements: [
      // a row that goes has no epoch that could be looked at
      ...(removed.length > 0 ? (lease?.fence ?? []) : []),
      ...upsert(rowsOf(kept.filter(described)), [...changeable, 'description']),
      ...upsert(rowsOf(kept.filter((job) => !described(job))), changeable),
      ...remove('jobs', 'id', removed),
      ...remove('job_tags', 'job_id', untagged),
      ...insert('INSERT INTO job_tags (job_id, tag) VALUES', tags),
      ...remove('job_grants', 'job_id', ungranted),
      ...insert('INSERT INTO job_grants (job_id, subject) VALUES', grants),
      ...changes.statements(removals(before, removed)),
    ],
    saved: changed.map((job) => [job, sizeOf(rows.get(job))]),
  };
}

const changeable = [
  'active',
  'destroying',
  'termination_ms',
  'document',
  'change',
  'epoch',
] as const;

/** Of those that leave no row to tell of it. */
function removals(before: Jobs, removed: readonly Job[]): NewChange[] {
  return removed.flatMap((job) => {
    const body = jobChange(before.get(job.id), job);
    return body ? [{ type: 'job', subject: job.id, ownerDn: job.ownerDn, body }] : [];
  });
}

function upsert(
  rows: readonly SqlValue[][],
  columns: readonly (typeof rowNames)[number][],
): Statement[] {
  const changes = columns.map((name) => `${name} = excluded.${name}`).join(', ');
  const into = `INSERT INTO jobs (${rowNames.join(', ')}) VALUES`;
  return insert(into, rows, ` ON CONFLICT (id) DO UPDATE SET ${changes}`);
}

function insert(into: string, rows: readonly SqlValue[][], end = ''): Statement[] {
  if (rows.length === 0) return [];
  return [{ text: `${into} ${tuples(rows)}${end}`, values: rows.flat() }];
}

function remove(table: string, column: string, jobs: readonly Job[]): Statement[] {
  if (jobs.length === 0) return [];
  const ids = jobs.map(({ id }) => id);
  return [{ text: `DELETE FROM ${table} WHERE ${column} IN ${tuple(1, ids.length)}`, values: ids }];
}

/** `($1, $2), ($3, $4)` */
function tuples(rows: readonly (readonly SqlValue[])[]): string {
  const width = rows[0]?.length ?? 0;
  return rows.map((_, at) => tuple(1 + at * width, width)).join(', ');
}

function tuple(first: number, length: number): string {
  return `(${Array.from({ length }, (_, at) => `$${first + at}`).join(', ')})`;
}

function sizeOf(row: readonly SqlValue[] | undefined): number | undefined {
  return row?.reduce<number>((sum, value) => sum + String(value).length, 0);
}
