import { Model, Op, type Sequelize } from 'sequelize';
import { createChangeTable, logFromColumn } from '#kernel/persistence/change-log.js';
import { column, type Migration } from '#kernel/persistence/migrate.js';
import type { SqlValue } from '#kernel/persistence/sql.js';
import type { JobChange } from '../changes/job-change.js';
import type { RawDescription } from '../job/description.js';
import type { Job } from '../job/job.js';

const jobColumns = () => ({
  id: column.id({ primaryKey: true }),
  ownerDn: column.text(),
  targetId: column.word(),
  /** Of a child of a sweep; else empty. */
  parentId: column.word({ defaultValue: '' }),
  /** Something is still to be done for it. */
  active: column.flag(),
  destroying: column.flag(),
  createdMs: column.number(),
  terminationMs: column.number(),
  document: column.text(),
  description: column.text(),
});
const tagColumns = () => ({
  jobId: column.id({ primaryKey: true }),
  tag: column.word({ primaryKey: true }),
});

const grantColumns = () => ({
  jobId: column.id({ primaryKey: true }),
  /** `DN:…`, `GROUP:physics`: whom the job's ACL names. */
  subject: column.text({ primaryKey: true }),
});

/**
 * The job is in its document and, for it may be long and hardly ever changes, its description; the other
 * columns are what is searched for.
 */
export class JobRow extends Model {
  declare id: string;
  declare active: boolean;
  declare document: string;
  declare description: string;
}

export class JobTagRow extends Model {
  declare jobId: string;
  declare tag: string;
}

export class JobGrantRow extends Model {
  declare jobId: string;
  declare subject: string;
}

export type JobModels = {
  readonly jobs: typeof JobRow;
  readonly tags: typeof JobTagRow;
  readonly grants: typeof JobGrantRow;
};

export function jobModels(sequelize: Sequelize): JobModels {
  // classes of their own: a model belongs to one database
  const jobs = class extends JobRow {};
  const tags = class extends JobTagRow {};
  jobs.init(jobColumns(), { sequelize, tableName: 'jobs', modelName: 'job' });
  tags.init(tagColumns(), { sequelize, tableName: 'job_tags', modelName: 'jobTag' });
  const grants = class extends JobGrantRow {};
  grants.init(grantColumns(), { sequelize, tableName: 'job_grants', modelName: 'jobGrant' });
  return { jobs, tags, grants };
}

type JobText = Pick<JobRow, 'document' | 'description'>;

/** Values of a row in the order of {@link rowNames}. */
export function toRow(
  { description, ...document }: Job,
  change?: JobChange,
  epoch = 0,
): SqlValue[] {
  return [
    document.id,
    document.ownerDn,
    document.targetId,
    document.parentId ?? '',
    document.state !== 'DONE' || (document.notices ?? []).length > 0,
    document.state === 'DESTROYING',
    document.createdMs,
    document.terminationMs,
    JSON.stringify(document),
    JSON.stringify(description),
    change ? JSON.stringify(change) : '',
    epoch,
  ];
}

export const rowNames = [
  'id',
  'owner_dn',
  'target_id',
  'parent_id',
  'active',
  'destroying',
  'created_ms',
  'termination_ms',
  'document',
  'description',
  'change',
  'epoch',
] as const;

/** Only what {@link toRow} has written gets here; before migration 002 all was in the document. */
export function toJob({ document, description }: JobText): Job {
  const job = JSON.parse(document) as Job;
  if (description === '') return job;
  return { ...job, description: JSON.parse(description) as RawDescription };
}

/** The {@link ChangeLog} of the engine, for all that users can see change. */
export const changesTable = 'changes';

/** Tables of the job engine. A migration is never changed after a release. */
export const jobMigrations: readonly Migration[] = [
  {
    name: '001-jobs',
    up: async (schema, transaction) => {
      await schema.createTable(
        'jobs',
        {
          id: column.id({ primaryKey: true }),
          owner_dn: column.text(),
          target_id: column.word(),
          active: column.flag(),
          destroying: column.flag(),
          created_ms: column.number(),
          termination_ms: column.number(),
          document: column.text(),
        },
        { transaction },
      );
      await schema.createTable(
        'job_tags',
        {
          job_id: column.id({ primaryKey: true }),
          tag: column.word({ primaryKey: true }),
        },
        { transaction },
      );
      const indexes: Record<string, string[]> = {
        jobs_by_owner: ['owner_dn', 'created_ms', 'id', 'destroying'],
        jobs_by_target: ['target_id', 'created_ms', 'id', 'destroying'],
        jobs_by_termination: ['termination_ms'],
      };
      for (const [name, fields] of Object.entries(indexes))
        await schema.addIndex('jobs', { name, fields, transaction });
      // these stay small however many have ended
      const active = { where: { active: true }, transaction };
      await schema.addIndex('jobs', { name: 'jobs_active', fields: ['id'], ...active });
      await schema.addIndex('jobs', {
        name: 'jobs_active_by_target',
        fields: ['target_id', 'id'],
        ...active,
      });
      await schema.addIndex('job_tags', {
        name: 'jobs_by_tag',
        fields: ['tag', 'job_id'],
        transaction,
      });
    },
  },
  {
    name: '002-job-descriptions',
    up: (schema, transaction) =>
      schema.addColumn('jobs', 'description', column.text({ defaultValue: '' }), { transaction }),
  },
  {
    name: '003-children-of-sweeps',
    up: async (schema, transaction) => {
      const parent = column.word({ defaultValue: '' });
      await schema.addColumn('jobs', 'parent_id', parent, { transaction });
      for (const by of ['owner', 'target']) {
        const name = `jobs_by_${by}`;
        await schema.removeIndex('jobs', name, { transaction });
        const key = by === 'owner' ? 'owner_dn' : 'target_id';
        // lists are answered from it alone
        const fields = [key, 'created_ms', 'id', 'destroying', 'parent_id'];
        await schema.addIndex('jobs', { name, fields, transaction });
      }
      await schema.addIndex('jobs', {
        name: 'jobs_by_parent',
        fields: ['parent_id', 'id'],
        where: { parent_id: { [Op.ne]: '' } },
        transaction,
      });
    },
  },
  {
    name: '004-job-grants',
    up: async (schema, transaction) => {
      await schema.createTable(
        'job_grants',
        {
          job_id: column.id({ primaryKey: true }),
          subject: column.text({ primaryKey: true }),
        },
        { transaction },
      );
      const fields = ['subject', 'job_id'];
      await schema.addIndex('job_grants', { name: 'jobs_by_grant', fields, transaction });
    },
  },
  {
    name: '005-changes',
    up: async (schema, transaction) => {
      await createChangeTable(schema, changesTable, transaction);
      // of each statement that writes a job: what it is to log, or nothing
      await schema.addColumn('jobs', 'change', column.text({ defaultValue: '' }), { transaction });
      await logFromColumn(
        schema,
        { table: changesTable, source: 'jobs', type: 'job' },
        transaction,
      );
      await schema.createTable(
        'change_sources',
        { source: column.word({ primaryKey: true }), cursor: column.number() },
        { transaction },
      );
    },
  },
  {
    name: '006-epochs-of-servers',
    up: (schema, transaction) =>
      schema.addColumn('jobs', 'epoch', column.number({ defaultValue: 0 }), { transaction }),
  },
  {
    name: '007-jobs-of-an-owner-on-a-site',
    up: async (schema, transaction) => {
      const name = 'jobs_by_owner';
      await schema.removeIndex('jobs', name, { transaction });
      const fields = ['owner_dn', 'created_ms', 'id', 'destroying', 'parent_id', 'target_id'];
      await schema.addIndex('jobs', { name, fields, transaction });
    },
  },
];
