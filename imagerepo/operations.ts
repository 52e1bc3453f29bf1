import { z } from 'zod';
import { authenticated, operations } from '#kernel/http/operation.js';
import { pageParameters, renderPage } from '#kernel/http/page.js';
import { contentRange, parseRange } from '#kernel/http/range.js';
import { resourcePolicies } from '#kernel/security/policy.js';
import { created, json, jsonType, noContent, stream } from '#kernel/http/reply.js';
import { answersCreated, answersJson, answersNothing, type Answer } from '#kernel/http/answers.js';

import { ImageList, ImageMetadata, ImageRecord, imageRoutes, partNames } from './contract.js';
import { announcedSha256, reprDigest } from './digest.js';
import { ImageError } from './errors.js';
import type { ImageRepository } from './repository.js';

export type ImageDeps = { readonly images: ImageRepository };
const operation = operations<ImageDeps>();

const bytes = 'application/octet-stream';
const content: Answer = { types: [bytes], headers: { etag: 'Of the whole part' } };
const StoredPart = ImageRecord.shape.parts.valueType;
const imageId = z.uuid();
const part = z.enum(partNames);
/** A page of whole records can be long: each may hold hundreds of applications. */
const mostRecords = 100;

/** Whoever may not even see the image learns nothing: it is unknown. */
const { own: mayChange } = resourcePolicies<ImageDeps, { imageId: string }>(
  'image',
  async ({ images }, { imageId: id }, caller) => {
    const { owner } = await images.get(id, caller);
    return { ownerDn: owner, acl: [] };
  },
);

const createImage = operation({
  method: 'POST',
  path: '',
  summary: 'Creates an image from its metadata; its parts are uploaded next',
  input: ImageMetadata,
  body: 'json',
  answers: answersCreated,
  id: 'createImage',
  policy: authenticated,
  run: async ({ images }, metadata, { caller, baseUrl }) => {
    const id = await images.create(caller.dn, metadata);
    return created(baseUrl + imageRoutes.image(id));
  },
});

const listImages = operation({
  method: 'GET',
  path: '',
  summary: 'Images that the caller may use, newest first, by what they provide',
  input: z
    .strictObject({
      ...pageParameters(),
      application: z.string().max(80).optional(),
      applicationVersion: z.string().max(40).optional(),
      os: z.string().max(80).optional().describe('distribution, such as Debian'),
      osVersion: z.string().max(80).optional(),
      architecture: z.enum(['x86_64', 'aarch64']).optional(),
      format: z.enum(['kernel', 'qcow2', 'rootfs']).optional(),
      name: z.string().max(80).optional(),
      version: z.string().max(40).optional(),
      state: z.enum(['INCOMPLETE', 'PUBLISHED']).optional(),
      owner: z.literal('me').optional(),
      details: z.stringbool().default(false).describe('adds the records to the addresses'),
    })
    .refine(
      ({ application, applicationVersion }) =>
        application !== undefined || applicationVersion === undefined,
      {
        path: ['applicationVersion'],
        message: 'means nothing without application',
      },
    ),
  answers: answersJson(ImageList),
  id: 'listImages',
  policy: authenticated,
  run: async ({ images }, { offset, num, details, ...query }, { caller, baseUrl, url }) => {
    const page = { offset, num: details ? Math.min(num, mostRecords) : num };
    const owner = query.owner && caller.dn;
    const { ids, total } = await images.catalogue.search(caller, { ...query, owner }, page);
    const urls = ids.map((id) => baseUrl + imageRoutes.image(id));
    const repeated = { ...query, ...(details && { details: 'true' }) };
    return json({
      ...renderPage(url, page, urls, total, repeated),
      total,
      ...(details && { records: await images.catalogue.findAll(ids) }),
    });
  },
});

const getImage = operation({
  method: 'GET',
  path: '/:imageId',
  summary: 'What is known about an image',
  input: z.strictObject({ imageId }),
  answers: answersJson(ImageRecord),
  id: 'getImage',
  policy: authenticated,
  run: async ({ images }, input, { caller, baseUrl }) =>
    json(render(await images.get(input.imageId, caller), baseUrl)),
});

const changeImage = operation({
  method: 'PUT',
  path: '/:imageId',
  summary: 'Changes metadata; of a published image only description and visibility',
  input: z.looseObject({ imageId }),
  body: 'json',
  answers: answersJson(ImageRecord),
  errors: ['CONFLICT'],
  id: 'changeImage',
  policy: mayChange,
  run: async ({ images }, { imageId: id, ...changes }, { baseUrl }) =>
    json(render(await images.change(id, changes), baseUrl)),
});

const deleteImage = operation({
  method: 'DELETE',
  path: '/:imageId',
  summary: 'Deletes an image and the contents that no other image has',
  input: z.strictObject({ imageId }),
  answers: answersNothing,
  errors: ['IMAGE_IN_USE'],
  id: 'deleteImage',
  policy: mayChange,
  run: async ({ images }, input) => {
    await images.delete(input.imageId);
    return noContent();
  },
});

const publishImage = operation({
  method: 'POST',
  path: '/:imageId/actions/publish',
  summary: 'Checks the parts of an image and makes it usable',
  input: z.strictObject({ imageId }),
  body: 'json',
  answers: answersJson(ImageRecord),
  errors: ['CONFLICT'],
  id: 'publishImage',
  policy: mayChange,
  run: async ({ images }, input, { baseUrl }) =>
    json(render(await images.publish(input.imageId), baseUrl)),
});

const putPart = operation({
  method: 'PUT',
  path: '/:imageId/parts/:part',
  summary: 'Uploads a part; a digest, in the query or a header, is compared',
  input: z.strictObject({
    imageId,
    part,
    sha256: z
      .string()
      .regex(/^[0-9a-f]{64}$/i)
      .optional(),
  }),
  body: 'raw',
  answers: answersJson(StoredPart),
  errors: ['CONFLICT', 'TOO_LARGE', 'STORAGE_FULL'],
  id: 'putPart',
  policy: mayChange,
  run: async ({ images }, input, context) => {
    const announced = Number(context.headers['content-length'] ?? 0);
    if (announced > images.maxPartBytes)
      throw new ImageError('TOO_LARGE', `parts may have up to ${images.maxPartBytes} bytes`);
    const expected = announcedSha256(input.sha256, context.headers);
    const { sha256, sizeBytes } = await images.upload(
      input.imageId,
      input.part,
      () => context.body,
      expected,
    );
    return json({ sha256, sizeBytes }, { headers: { 'repr-digest': reprDigest(sha256) } });
  },
});

const getPart = operation({
  method: 'GET',
  path: '/:imageId/parts/:part',
  summary: 'Downloads a part, or a range of it',
  input: z.strictObject({ imageId, part }),
  produces: [bytes],
  answers: { 200: content, 206: content },
  errors: ['RANGE_NOT_SATISFIABLE'],
  id: 'getPart',
  policy: authenticated,
  run: async ({ images }, input, { caller, headers }) => {
    const content = (await images.get(input.imageId, caller)).parts[input.part];
    if (!content) throw new ImageError('NOT_FOUND', `the image has no ${input.part}`, input);
    const { sha256, sizeBytes } = content;
    const etag = `"${sha256}"`;
    const isOther = headers['if-range'] !== undefined && headers['if-range'] !== etag;
    const range = isOther ? undefined : parseRange(headers.range, sizeBytes);
    return stream(images.read(sha256, range), {
      status: range ? 206 : 200,
      headers: {
        'content-length': range?.length ?? sizeBytes,
        'content-range': range && contentRange(range, sizeBytes),
        'accept-ranges': 'bytes',
        'repr-digest': reprDigest(sha256),
        etag,
      },
    });
  },
});

export const imageOperations = [
  createImage,
  listImages,
  getImage,
  changeImage,
  deleteImage,
  publishImage,
  putPart,
  getPart,
] as const;
/** For `createTypedClient`. */
export type ImageOperation = (typeof imageOperations)[number];

function render(image: ImageRecord, baseUrl: string): object {
  const links = Object.keys(image.parts).map((name) => [
    `part:${name}`,
    { href: baseUrl + imageRoutes.part(image.id, part.parse(name)), type: bytes },
  ]);
  return {
    ...image,
    _links: {
      self: { href: baseUrl + imageRoutes.image(image.id), type: jsonType },
      'action:publish': { href: baseUrl + imageRoutes.publish(image.id) },
      ...(Object.fromEntries(links) as object),
    },
  };
}
