// The storage service: /storage/v1/…, as the storage API of hosted Supabase answers.
import { isDatabaseError, storageError } from './errors.mjs';
import { sendJson } from './http.mjs';
import { Blobs } from './storage/blobs.mjs';
import { Buckets, noBucket } from './storage/buckets.mjs';
import { stepsOf } from './storage/names.mjs';
import { Objects } from './storage/objects.mjs';
import { TokenError } from './tokens.mjs';

const ELSEWHERE = ['upload', 'render', 's3', 'iceberg', 'vector', 'cdn'];

export class Storage {
  constructor(database, tokens, { storageDirectory, fileSizeLimit }) {
    this.database = database;
    this.blobs = new Blobs(storageDirectory);
    this.fileSizeLimit = fileSizeLimit;
    this.buckets = new Buckets(this);
    this.objects = new Objects(this, tokens);
  }

  isOpen(request) {
    const [what, ...steps] = stepsOf(request);
    return what === 'status' || (what === 'object' && Objects.isOpen(request.method, steps));
  }

  async handle(request, response, url, caller) {
    const [what, ...steps] = stepsOf(request);
    if (what === 'status') return sendJson(response, 200, {});
    if (what === 'bucket' && (await this.buckets.handle(request, response, url, caller, steps))) return undefined;
    if (ELSEWHERE.includes(what) || (what === 'object' && steps[0] === 'list-v2')) {
      throw storageError(
        501,
        'not_built_in',
        `/storage/v1/${what} is not part of this stack; run against \`supabase start\` or a hosted project for it.`,
      );
    }
    if (what === 'object') {
      const answered = await this.objects.handle(request, response, url, caller, steps);
      if (answered !== undefined || response.headersSent) return answered;
    }
    throw storageError(
      404,
      'not_found',
      `${request.method} /storage/v1/${[what, ...steps].join('/')} is not known here`,
    );
  }

  failure(error) {
    if (error instanceof TokenError) return storageError(403, 'Unauthorized', error.message);
    if (!isDatabaseError(error)) return error;
    if (error.code === '42501') return storageError(403, 'Unauthorized', error.message);
    if (error.code === '23505') return storageError(409, 'Duplicate', 'The resource already exists');
    if (error.code === '23503') return storageError(404, 'not_found', 'The related resource does not exist');
    if (/^2[23]|^P0001|^PT4/.test(error.code)) return storageError(400, 'InvalidRequest', error.message);
    console.error('storage:', error.message, error.detail ?? '');
    return storageError(500, 'DatabaseError', error.message);
  }

  /** Policies may look at the request too, for instance at which organisation it names. */
  asCaller({ request, caller }, operation, work, options) {
    const told = {
      method: request.method,
      path: request.url.split('?', 1)[0],
      headers: request.headers,
      settings: { 'storage.operation': operation },
    };
    return this.database.asCaller(caller, told, work, options);
  }

  asAdmin(text, values) {
    return this.database.asStorage(text, values);
  }

  async bucket(id) {
    const [bucket] = await this.asAdmin(
      `select public, file_size_limit::float8, to_json(allowed_mime_types) as allowed_mime_types from storage.buckets where id = $1`,
      [id],
    );
    if (!bucket) throw noBucket();
    return bucket;
  }

  async holdsObjects(bucket) {
    const [{ found }] = await this.asAdmin(
      'select exists (select from storage.objects where bucket_id = $1) as found',
      [bucket],
    );
    return found;
  }
}
