import { selectFields } from '#kernel/http/fields.js';
import { asGridError, errorText } from '#kernel/errors.js';
import type { FileSpace, Storage } from '#xnjs/index.js';
import type { Rendered, Storage as StorageAnswer } from './answers.js';
import { hrefs, type Links } from './links.js';
import { ownedProperties } from './properties.js';
import { protocols } from './transfers-client.js';

type View = {
  readonly links: Links;
  /** Whose files are shown where each user has his own. */
  readonly userDn: string;
  /** Owner of what belongs to nobody. */
  readonly serverDn: string;
  readonly fields?: readonly string[] | undefined;
};

/** A storage (unicore-rest 3.8). What has to be asked of the target system is asked only if it is shown. */
export async function renderStorage(
  storage: Storage,
  { links, userDn, serverDn, fields }: View,
): Promise<Record<string, unknown>> {
  const isShown = (name: string): boolean =>
    Object.hasOwn(selectFields({ [name]: 0 }, fields), name);
  const asked = await ask(storage, userDn, isShown);
  const properties = {
    ...ownedProperties({ ...storage, ownerDn: storage.ownerDn ?? serverDn }),
    acl: storage.acl,
    description: storage.description,
    protocols,
    umask: storage.umask,
    metadataSupported: storage.metadata,
    filesystemDescription: storage.filesystem,
    resourceStatus: storage.status,
    resourceStatusMessage: storage.statusMessage,
    ...asked,
    _links: hrefs(linksOf(storage, links)),
  } satisfies Rendered<typeof StorageAnswer>;
  return selectFields(properties, fields);
}

type Asked = {
  mountPoint?: string;
  freeSpace?: number | string;
  usableSpace?: number | string;
  resourceStatus?: 'ERROR';
  resourceStatusMessage?: string;
};

/** A target system that does not answer makes it a storage in trouble, not a failed request. */
async function ask(
  { status, files: filesOf }: Storage,
  userDn: string,
  isShown: (name: string) => boolean,
): Promise<Asked> {
  if (status !== 'READY') return {};
  const files = filesOf(userDn);
  try {
    return {
      ...(isShown('mountPoint') && { mountPoint: await files.mountPoint() }),
      ...((isShown('freeSpace') || isShown('usableSpace')) && (await renderSpace(files))),
    };
  } catch (error) {
    if (asGridError(error)?.code !== 'TSI_UNAVAILABLE') throw error;
    return { resourceStatus: 'ERROR', resourceStatusMessage: errorText(error) };
  }
}

async function renderSpace(files: FileSpace): Promise<Asked> {
  try {
    const { freeBytes, userBytes } = await files.space();
    return { freeSpace: freeBytes, usableSpace: userBytes < 0 ? freeBytes : userBytes };
  } catch (error) {
    if (asGridError(error)?.code !== 'TSI_FAILED') throw error;
    return { freeSpace: '-1', usableSpace: '-1' };
  }
}

function linksOf(
  { id, jobId, type, metadata }: Storage,
  links: Links,
): Parameters<typeof hrefs>[0] {
  const self = links.storage(id);
  return {
    self,
    files: { href: `${self}/files`, description: 'Files' },
    'action:copy': {
      href: `${self}/actions/copy`,
      description: "Copy file 'from' to file 'to'.",
    },
    'action:rename': {
      href: `${self}/actions/rename`,
      description: "Rename file 'from' to file 'to'.",
    },
    ...(metadata && {
      'metadata-search': { href: `${self}/search`, description: 'Search in metadata' },
      'action:extract': {
        href: `${self}/actions/extract`,
        description: 'Extract metadata',
      },
    }),
    ...(jobId !== undefined && {
      job: { href: links.job(jobId), description: 'Parent job' },
    }),
    ...(type !== undefined && { factory: links.storageFactory(type) }),
  };
}
