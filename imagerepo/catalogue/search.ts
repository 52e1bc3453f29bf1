import { literal, Op, type Sequelize, type WhereOptions } from 'sequelize';
import type { Caller } from '#kernel/http/caller.js';
import type { ImageRecord, ImageMetadata } from '../contract.js';
import type { ImageColumns } from './models.js';

/** What images can be searched by; everything given must fit. */
export type ImageQuery = {
  readonly application?: string | undefined;
  /** Only together with `application`. */
  readonly applicationVersion?: string | undefined;
  readonly os?: string | undefined;
  readonly osVersion?: string | undefined;
  readonly architecture?: ImageMetadata['os']['architecture'] | undefined;
  readonly format?: ImageMetadata['format'] | undefined;
  readonly name?: string | undefined;
  readonly version?: string | undefined;
  readonly state?: 'INCOMPLETE' | 'PUBLISHED' | undefined;
  readonly owner?: string | undefined;
};

/** Administrators see all, users their own and what is public; what is being deleted nobody. */
export function isVisible({ dn, role }: Caller, image: ImageRecord): boolean {
  if (image.state === 'DELETING') return false;
  if (role === 'admin' || image.owner === dn) return true;
  return image.state === 'PUBLISHED' && image.metadata.visibility === 'public';
}

/** The same rule as {@link isVisible}, for the database. */
function visibleTo({ dn, role }: Caller): WhereOptions<ImageColumns> {
  const exists = { state: { [Op.ne]: 'DELETING' } };
  if (role === 'admin') return exists;
  return {
    [Op.or]: [
      { owner: dn, ...exists },
      { state: 'PUBLISHED', visibility: 'public' },
    ],
  };
}

export function whereFor(
  sequelize: Sequelize,
  caller: Caller,
  query: ImageQuery,
): WhereOptions<ImageColumns> {
  const { application, applicationVersion, os, ...columns } = query;
  const wanted = Object.entries({ ...columns, distribution: os }).flatMap(([name, value]) =>
    value === undefined ? [] : [{ [name]: value }],
  );
  const provides =
    application === undefined
      ? []
      : [{ id: { [Op.in]: providers(sequelize, application, applicationVersion) } }];
  return { [Op.and]: [visibleTo(caller), ...wanted, ...provides] };
}

/** A sub-query by the index on applications: an image has many, so a join would repeat it. */
function providers(sequelize: Sequelize, name: string, version?: string) {
  const sameVersion = version === undefined ? '' : ` AND version = ${sequelize.escape(version)}`;
  return literal(
    `(SELECT image_id FROM image_applications WHERE name = ${sequelize.escape(name)}${sameVersion})`,
  );
}
