import { Op, type Transaction, type WhereOptions } from 'sequelize';
import type { Database } from '#kernel/persistence/database.js';
import { JobError } from '../job/errors.js';
import type { Job } from '../job/job.js';
import type { JobFilter, JobStore } from '../job/store.js';
import { GroupCommit, type Outcome } from './group-commit.js';
import { jobModels, toJob, toRow, type JobModels } from './job-models.js';

type Write = { readonly insert: Job } | { readonly id: string; readonly change: (job: Job) => Job };

/** {@link JobStore} in the service's database, after `jobMigrations`. */
export function createJobStore(database: Database): JobStore {
  const models = jobModels(database.sequelize);
  const writes = new GroupCommit<Write, Job>((group) =>
    database.transaction((transaction) => write(models, group, transaction)),
  );
  return {
    async insert(job) {
      await writes.add({ insert: job });
    },
    async find(id) {
      const row = await models.jobs.findByPk(id);
      return row ? toJob(row) : undefined;
    },
    change: (id, change) => writes.add({ id, change }),
    async list(filter, { offset, num }) {
      const where = toWhere(models, filter);
      const total = await models.jobs.count({ where });
      const order: [string, string][] = [
        ['createdMs', 'DESC'],
        ['id', 'DESC'],
      ];
      const page = { where, attributes: ['id'], order, offset, limit: num };
      const rows = num > 0 && offset < total ? await models.jobs.findAll(page) : [];
      return { ids: rows.map(({ id }) => id), total };
    },
    async unfinished({ afterId = '', num, targetId }) {
      const rows = await models.jobs.findAll({
        where: {
          active: true,
          id: { [Op.gt]: afterId },
          ...(targetId !== undefined && { targetId }),
        },
        attributes: ['document'],
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
    async expired(nowMs, num) {
      const where = { terminationMs: { [Op.lte]: nowMs }, destroying: false };
      const rows = await models.jobs.findAll({ where, attributes: ['id'], limit: num });
      return rows.map(({ id }) => id);
    },
  };
}

function toWhere({ jobs }: JobModels, { ownerDn, targetId, tags = [] }: JobFilter): WhereOptions {
  const { sequelize } = jobs;
  const distinct = [...new Set(tags)];
  const list = distinct.map((tag) => sequelize?.escape(tag)).join(', ');
  const tagged = `(SELECT job_id FROM job_tags WHERE tag IN (${list}) GROUP BY job_id HAVING COUNT(*) = ${distinct.length})`;
  return {
    destroying: false,
    parentId: '',
    ...(ownerDn !== undefined && { ownerDn }),
    ...(targetId !== undefined && { targetId }),
    ...(sequelize && distinct.length > 0 && { id: { [Op.in]: sequelize.literal(tagged) } }),
  };
}

/** All of a group: read at once, changed in the order of the calls, written at once. */
async function write(
  models: JobModels,
  group: readonly Write[],
  transaction: Transaction,
): Promise<Outcome<Job>[]> {
  const ids = [...new Set(group.flatMap((item) => ('id' in item ? [item.id] : [])))];
  const rows =
    ids.length === 0
      ? []
      : await models.jobs.findAll({
          where: { id: ids },
          transaction,
          lock: transaction.LOCK.UPDATE,
        });
  const before = new Map(rows.map((row) => [row.id, toJob(row)]));
  const after = new Map(before);
  const outcomes = group.map((item) => applyTo(after, item));
  await save(models, before, after, transaction);
  return outcomes;
}

function applyTo(jobs: Map<string, Job>, item: Write): Outcome<Job> {
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

const changeable = ['active', 'destroying', 'terminationMs', 'document'];

async function save(
  { jobs, tags }: JobModels,
  before: ReadonlyMap<string, Job>,
  after: ReadonlyMap<string, Job>,
  transaction: Transaction,
): Promise<void> {
  const changed = [...after.values()].filter((job) => before.get(job.id) !== job);
  const kept = changed.filter(({ state }) => state !== 'DESTROYED');
  const removed = changed.filter(({ state }) => state === 'DESTROYED').map(({ id }) => id);
  const retagged = kept.filter((job) => job.tags !== before.get(job.id)?.tags);
  if (kept.length > 0)
    await jobs.bulkCreate(kept.map(toRow), { updateOnDuplicate: changeable, transaction });
  if (removed.length > 0) await jobs.destroy({ where: { id: removed }, transaction });
  const stale = [...removed, ...retagged.filter(({ id }) => before.has(id)).map(({ id }) => id)];
  if (stale.length > 0) await tags.destroy({ where: { jobId: stale }, transaction });
  const tagRows = retagged.flatMap((job) => job.tags.map((tag) => ({ jobId: job.id, tag })));
  if (tagRows.length > 0) await tags.bulkCreate(tagRows, { transaction });
}
