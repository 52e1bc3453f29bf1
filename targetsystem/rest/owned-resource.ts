import { z } from 'zod';
import { answersJson, answersNothing } from '#kernel/http/answers.js';
import { fieldsParameter, selectFields } from '#kernel/http/fields.js';
import { everybody, operations, type Context, type Operation } from '#kernel/http/operation.js';
import { json, noContent } from '#kernel/http/reply.js';
import { isOwner } from '#kernel/security/acl.js';
import { resourcePolicies } from '#kernel/security/policy.js';
import type { OwnedRecord, OwnedRecords } from '#xnjs/index.js';
import { Changes } from './answers.js';
import { machineErrors } from './answers-errors.js';
import { changeMembers, type Changeable } from './changes.js';
import type { RestDeps } from './deps.js';
import { linksFrom } from './links.js';
import { isListed, listFilter, listParameters, renderList } from './lists.js';
import {
  aclMember,
  ownedProperties,
  tagsMember,
  terminationMember,
  type PropertyChange,
} from './properties.js';

/** The engine's side of a collection of {@link OwnedRecord}s. */
export type OwnedService<R extends OwnedRecord> = {
  readonly records: OwnedRecords<R>;
  /** As it is now, where that is more than its record says. */
  find?(id: string): R;
  destroy(id: string): Promise<void>;
  /** Ends what is under way; what is over is left as it is. */
  abort?(id: string): Promise<void>;
  latestTerminationMs(): number;
};

export type OwnedKind<R extends OwnedRecord> = {
  /** Last part of the address, `tasks`. */
  readonly collection: string;
  /** For the API document: `task`. */
  readonly noun: string;
  /** For names in the API document: `Task`. */
  readonly name: string;
  readonly answers: { readonly one: z.ZodType; readonly list: z.ZodType };
  readonly service: (deps: RestDeps) => OwnedService<R>;
  /** Beside what every owned resource shows. */
  readonly render: (record: R, context: Context) => Record<string, unknown>;
};

const operation = operations<RestDeps>();
const id = { id: z.string().max(64) };

function policiesOf<R extends OwnedRecord>({ noun, service }: OwnedKind<R>) {
  return resourcePolicies<RestDeps, { id: string }>(noun, (deps, input) => {
    const { ownerDn, acl = [] } = service(deps).records.get(input.id);
    return { ownerDn, acl };
  });
}

/** List, properties, change and deletion. */
export function ownedOperations<R extends OwnedRecord>(
  kind: OwnedKind<R>,
): readonly Operation<RestDeps>[] {
  return [listOperation(kind), getOperation(kind), changeOperation(kind), deleteOperation(kind)];
}

const pathOf = ({ collection }: { readonly collection: string }): string => `/${collection}/:id`;

function getOperation<R extends OwnedRecord>(kind: OwnedKind<R>): Operation<RestDeps> {
  const { noun, name, answers, service, render } = kind;
  return operation({
    method: 'GET',
    path: pathOf(kind),
    summary: `One ${noun}`,
    input: z.object({ ...id, fields: fieldsParameter }),
    answers: answersJson(answers.one),
    id: `get${name}`,
    policy: policiesOf(kind).read,
    run: (deps, { id: wanted, fields }, context) => {
      const engine = service(deps);
      const record = engine.find?.(wanted) ?? engine.records.get(wanted);
      const properties = { ...ownedProperties(record), ...render(record, context) };
      return json(selectFields(properties, fields));
    },
  });
}

function changeOperation<R extends OwnedRecord>(kind: OwnedKind<R>): Operation<RestDeps> {
  const { noun, name, service } = kind;
  return operation({
    method: 'PUT',
    path: pathOf(kind),
    summary: `Changes tags, ACL or termination time of a ${noun}`,
    input: z.looseObject(id),
    body: 'json',
    answers: answersJson(Changes),
    id: `change${name}`,
    policy: policiesOf(kind).modify,
    run: async (deps, { id: wanted, ...members }, { caller }) => {
      const engine = service(deps);
      const latestMs = engine.latestTerminationMs();
      const changeable: Changeable<PropertyChange> = {
        tags: tagsMember,
        acl: aclMember(isOwner(engine.records.get(wanted), caller)),
        terminationTime: terminationMember(latestMs, () => 'is later than it may live'),
      };
      const answers = await changeMembers(members, changeable, (change) =>
        engine.records.update(wanted, (record) => ({ ...record, ...change })),
      );
      return json(answers);
    },
  });
}

function deleteOperation<R extends OwnedRecord>(kind: OwnedKind<R>): Operation<RestDeps> {
  const { noun, name, service } = kind;
  return operation({
    method: 'DELETE',
    path: pathOf(kind),
    summary: `Deletes a ${noun}; what is under way ends`,
    input: z.object(id),
    answers: answersNothing,
    errors: machineErrors,
    id: `delete${name}`,
    policy: policiesOf(kind).own,
    run: async (deps, { id: wanted }) => {
      await service(deps).destroy(wanted);
      return noContent();
    },
  });
}

function listOperation<R extends OwnedRecord>({
  collection,
  noun,
  name,
  answers,
  service,
}: OwnedKind<R>): Operation<RestDeps> {
  return operation({
    method: 'GET',
    path: `/${collection}`,
    summary: `The ${noun}s that the caller may see; all of them for an administrator with filter=all`,
    input: z.object({ ...listParameters(), filter: listFilter }),
    answers: answersJson(answers.list),
    id: `list${name}s`,
    policy: everybody,
    run: (deps, wish, { caller, baseUrl, url }) => {
      const { filter, tags = [], ...page } = wish;
      const { ids, total } = service(deps).records.page(
        (record) => isListed(record, caller, filter),
        { ...page, tags },
      );
      const urls = ids.map((each) => linksFrom(baseUrl).resource(collection, each));
      return renderList(url, wish, urls, total);
    },
  });
}

/** `actions/abort`, which the original lacks and pyunicore looks for. */
export function abortOperation<R extends OwnedRecord>(kind: OwnedKind<R>): Operation<RestDeps> {
  const { collection, noun, name, service } = kind;
  return operation({
    method: 'POST',
    path: `/${collection}/:id/actions/abort`,
    summary: `Ends a ${noun}; one that is over is left as it is`,
    input: z.looseObject(id),
    body: 'json',
    answers: answersNothing,
    errors: machineErrors,
    id: `abort${name}`,
    policy: policiesOf(kind).write,
    run: async (deps, { id: wanted }) => {
      await service(deps).abort?.(wanted);
      return noContent();
    },
  });
}
