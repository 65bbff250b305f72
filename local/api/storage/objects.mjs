// /storage/v1/object: files. What the caller may do is decided by the policies on storage.objects, nowhere else.
import { randomUUID } from 'node:crypto';
import { noObject, storageError } from '../errors.mjs';
import { readObject, sendJson } from '../http.mjs';
import { TokenError } from '../tokens.mjs';
import { noBucket, whole } from './buckets.mjs';
import { deliver } from './delivery.mjs';
import { checkType, fileOf } from './incoming.mjs';
import { checkedBucket, checkedKey } from './names.mjs';

const UPLOAD_URL_SECONDS = 2 * 3600;
const SORTABLE = ['name', 'created_at', 'updated_at', 'last_accessed_at'];
const WITHOUT_ACCESS = 'Either the object does not exist or you do not have access to it';

const refused = (message) => storageError(400, 'InvalidRequest', message);
const badSignature = (message) => storageError(400, 'InvalidSignature', message);

export class Objects {
  constructor(storage, tokens) {
    this.storage = storage;
    this.tokens = tokens;
    this.blobs = storage.blobs;
  }

  /** Routes that need no API key: what is public, and what carries its permission in the address. */
  static isOpen(method, [first, second]) {
    if (first === 'public' || (first === 'info' && second === 'public')) return ['GET', 'HEAD'].includes(method);
    return (
      (first === 'sign' && ['GET', 'HEAD'].includes(method)) ||
      (first === 'upload' && second === 'sign' && method === 'PUT')
    );
  }

  async handle(request, response, url, caller, steps) {
    const { method } = request;
    const [first, ...rest] = steps;
    const reads = method === 'GET' || method === 'HEAD';
    const call = { request, response, url, caller, reads };
    if (first === 'list' && method === 'POST') return this.#list(call, bucketOf(rest));
    if (first === 'move' && method === 'POST') return this.#move(call);
    if (first === 'copy' && method === 'POST') return this.#copy(call);
    if (first === 'sign' && rest.length === 1 && method === 'POST') return this.#signMany(call, bucketOf(rest));
    if (first === 'sign' && method === 'POST') return this.#sign(call, placeOf(rest));
    if (first === 'sign' && reads) return this.#readSigned(call, placeOf(rest));
    if (first === 'upload' && rest[0] === 'sign' && method === 'POST')
      return this.#signUpload(call, placeOf(rest.slice(1)));
    if (first === 'upload' && rest[0] === 'sign' && method === 'PUT')
      return this.#uploadSigned(call, placeOf(rest.slice(1)));
    if (first === 'public' && reads) return deliver(call, this.blobs, await this.#public(placeOf(rest)));
    if (first === 'info' && rest[0] === 'public' && reads)
      return this.#describe(call, await this.#public(placeOf(rest.slice(1))));
    if (first === 'info' && reads) {
      return this.#describe(
        call,
        await this.#visible(call, placeOf(rest[0] === 'authenticated' ? rest.slice(1) : rest), 'info'),
      );
    }
    if (first === 'authenticated' && reads)
      return deliver(call, this.blobs, await this.#visible(call, placeOf(rest), 'get_authenticated'));
    if (steps.length === 1 && method === 'DELETE') return this.#removeMany(call, bucketOf(steps));
    if (reads) return deliver(call, this.blobs, await this.#visible(call, placeOf(steps), 'get_authenticated'));
    if (method === 'POST')
      return this.#upload(call, placeOf(steps), { upsert: request.headers['x-upsert'] === 'true' });
    if (method === 'PUT') return this.#upload(call, placeOf(steps), { replace: true });
    if (method === 'DELETE') return this.#remove(call, placeOf(steps));
    return undefined;
  }

  #as(call, operation, work, options) {
    return this.storage.asCaller(call, `storage.object.${operation}`, work, options);
  }

  // Reading -----------------------------------------------------------------------------------------------------------

  async #visible(call, place, operation) {
    const [object] = await this.#as(
      call,
      operation,
      (query) => query('select * from storage.objects where bucket_id = $1 and name = $2', [place.bucket, place.name]),
      { readOnly: true },
    );
    if (!object) throw noObject();
    return object;
  }

  /** Past the policies: for public buckets and for those whom a signed address lets in. */
  async #any({ bucket, name }) {
    const [object] = await this.storage.asAdmin('select * from storage.objects where bucket_id = $1 and name = $2', [
      bucket,
      name,
    ]);
    if (!object) throw noObject();
    return object;
  }

  async #public(place) {
    const bucket = await this.storage.bucket(place.bucket);
    if (!bucket.public) throw noBucket();
    return this.#any(place);
  }

  async #readSigned(call, place) {
    await this.#checkToken(call.url, place, 'read');
    return deliver(call, this.blobs, await this.#any(place));
  }

  #describe({ response }, object) {
    const { metadata } = object;
    sendJson(response, 200, {
      id: object.id,
      name: object.name,
      version: object.version,
      bucket_id: object.bucket_id,
      size: metadata?.size ?? null,
      content_type: metadata?.mimetype ?? null,
      cache_control: metadata?.cacheControl ?? null,
      etag: metadata?.eTag ?? null,
      metadata: object.user_metadata ?? {},
      last_modified: iso(object.updated_at),
      created_at: iso(object.created_at),
    });
  }

  async #list(call, bucket) {
    const { request, response } = call;
    const { prefix = '', limit, offset, sortBy = {}, search = '' } = await readObject(request, refused);
    const folder = prefix === '' || prefix.endsWith('/') ? prefix : `${prefix}/`;
    const column = sortBy.column ?? 'name';
    if (!SORTABLE.includes(column)) throw refused(`Cannot sort by '${column}'; one of ${SORTABLE.join(', ')} would do`);
    const order = sortBy.order === 'desc' ? 'desc' : 'asc';
    const found = await this.#as(
      call,
      'list',
      (query) =>
        query(
          `with inside as (
         select substr(name, length($2) + 1) as rest, * from storage.objects
         where bucket_id = $1 and starts_with(name, $2) and starts_with(lower(substr(name, length($2) + 1)), lower($3))
       ), entries as (
         select distinct split_part(rest, '/', 1) as name, null::uuid as id, null::timestamptz as updated_at,
           null::timestamptz as created_at, null::timestamptz as last_accessed_at, null::jsonb as metadata
         from inside where rest like '%/%'
         union all
         select rest, id, updated_at, created_at, last_accessed_at, metadata from inside where rest not like '%/%' and rest <> ''
       )
       select * from entries order by id is not null, ${column} ${order}, name limit $4 offset $5`,
          [bucket, folder, String(search), whole(limit, 100), whole(offset, 0)],
        ),
      { readOnly: true },
    );
    sendJson(
      response,
      200,
      found.map((entry) => ({
        ...entry,
        updated_at: iso(entry.updated_at),
        created_at: iso(entry.created_at),
        last_accessed_at: iso(entry.last_accessed_at),
      })),
    );
  }

  // Writing -----------------------------------------------------------------------------------------------------------

  async #upload(call, place, { upsert = false, replace = false }) {
    const { request, response, caller } = call;
    const bucket = await this.storage.bucket(place.bucket);
    const limit = Math.min(bucket.file_size_limit ?? Infinity, this.storage.fileSizeLimit);
    const row = { ...place, owner: caller.claims.sub, upsert, replace };
    // Whoever may not store this is told so before the bytes are taken in.
    await this.#as(call, replace ? 'upload_update' : 'upload', async (query) => {
      await keep(query, row, { version: '', metadata: null, userMetadata: null });
      return { rollBack: true };
    });
    const file = await fileOf(request, limit);
    checkType(file.type, bucket.allowed_mime_types);
    const before = upsert || replace ? await this.#any(place).catch(() => null) : null;
    const blob = await this.blobs.write(file.chunks, limit);
    const metadata = {
      eTag: blob.eTag,
      size: blob.size,
      mimetype: file.type,
      cacheControl: file.cacheControl,
      lastModified: new Date().toISOString(),
      contentLength: blob.size,
      httpStatusCode: 200,
    };
    let stored;
    try {
      stored = await this.#as(call, replace ? 'upload_update' : 'upload', (query) =>
        keep(query, row, { version: blob.version, metadata, userMetadata: file.userMetadata }),
      );
    } catch (error) {
      await this.blobs.remove([blob.version]);
      throw error;
    }
    await this.blobs.remove([before?.version]);
    sendJson(response, 200, { Id: stored.id, Key: `${place.bucket}/${place.name}` });
  }

  async #move(call) {
    const { from, to } = await route(call.request);
    await this.storage.bucket(to.bucket);
    const [moved] = await this.#as(call, 'move', (query) =>
      query(
        `update storage.objects set bucket_id = $3, name = $4, updated_at = now() where bucket_id = $1 and name = $2 returning id`,
        [from.bucket, from.name, to.bucket, to.name],
      ),
    );
    if (!moved) throw noObject();
    sendJson(call.response, 200, { message: 'Successfully moved', Id: moved.id, Key: `${to.bucket}/${to.name}` });
  }

  async #copy(call) {
    const { request, response, caller } = call;
    const { from, to } = await route(request);
    await this.storage.bucket(to.bucket);
    const source = await this.#visible(call, from, 'copy');
    const upsert = request.headers['x-upsert'] === 'true';
    const before = upsert ? await this.#any(to).catch(() => null) : null;
    const version = await this.blobs.copy(source.version);
    let stored;
    try {
      stored = await this.#as(call, 'copy', (query) =>
        keep(
          query,
          { ...to, owner: caller.claims.sub, upsert },
          {
            version,
            metadata: source.metadata,
            userMetadata: source.user_metadata,
          },
        ),
      );
    } catch (error) {
      await this.blobs.remove([version]);
      throw error;
    }
    await this.blobs.remove([before?.version]);
    sendJson(response, 200, { Id: stored.id, Key: `${to.bucket}/${to.name}` });
  }

  async #removed(call, operation, bucket, names) {
    const removed = await this.#as(call, operation, (query) =>
      query(
        'delete from storage.objects where bucket_id = $1 and name in (select jsonb_array_elements_text($2)) returning *',
        [bucket, JSON.stringify(names)],
      ),
    );
    await this.blobs.remove(removed.map(({ version }) => version));
    return removed;
  }

  async #remove(call, place) {
    const removed = await this.#removed(call, 'delete', place.bucket, [place.name]);
    if (removed.length === 0) throw noObject();
    sendJson(call.response, 200, { message: 'Successfully deleted' });
  }

  async #removeMany(call, bucket) {
    const { prefixes } = await readObject(call.request, refused);
    if (!Array.isArray(prefixes) || !prefixes.every((name) => typeof name === 'string')) {
      throw refused('prefixes must be a list of object names');
    }
    sendJson(call.response, 200, await this.#removed(call, 'delete_many', bucket, prefixes));
  }

  // Signing -----------------------------------------------------------------------------------------------------------

  async #sign(call, place) {
    const expiry = seconds(await readObject(call.request, refused));
    await this.#visible(call, place, 'sign');
    sendJson(call.response, 200, { signedURL: await this.#signedUrl(place, expiry) });
  }

  async #signMany(call, bucket) {
    const given = await readObject(call.request, refused);
    const expiry = seconds(given);
    if (!Array.isArray(given.paths)) throw refused('paths must be a list of object names');
    const paths = given.paths.map(String);
    const visible = await this.#as(
      call,
      'sign_many',
      (query) =>
        query(
          'select name from storage.objects where bucket_id = $1 and name in (select jsonb_array_elements_text($2))',
          [bucket, JSON.stringify(paths)],
        ),
      { readOnly: true },
    );
    const names = new Set(visible.map(({ name }) => name));
    sendJson(
      call.response,
      200,
      await Promise.all(
        paths.map(async (name) =>
          names.has(name)
            ? { error: null, path: name, signedURL: await this.#signedUrl({ bucket, name }, expiry) }
            : { error: WITHOUT_ACCESS, path: name, signedURL: null },
        ),
      ),
    );
  }

  async #signedUrl({ bucket, name }, expiry) {
    const token = await this.#token({ url: `${bucket}/${name}`, use: 'read' }, expiry);
    return `/object/sign/${bucket}/${name}?token=${token}`;
  }

  async #signUpload(call, place) {
    const { request, response, caller } = call;
    const upsert = request.headers['x-upsert'] === 'true';
    await this.storage.bucket(place.bucket);
    await this.#as(call, 'sign_upload_url', async (query) => {
      await keep(
        query,
        { ...place, owner: caller.claims.sub, upsert },
        { version: '', metadata: null, userMetadata: null },
      );
      return { rollBack: true };
    });
    const claims = { url: `${place.bucket}/${place.name}`, use: 'upload', owner: caller.claims.sub, upsert };
    const token = await this.#token(claims, UPLOAD_URL_SECONDS);
    sendJson(response, 200, { url: `/object/upload/sign/${place.bucket}/${place.name}?token=${token}`, token });
  }

  async #uploadSigned(call, place) {
    const { owner, upsert } = await this.#checkToken(call.url, place, 'upload');
    const caller = { role: 'service_role', claims: { role: 'service_role', sub: owner } };
    return this.#upload({ ...call, caller }, place, { upsert });
  }

  #token(claims, expiry) {
    const iat = Math.floor(Date.now() / 1000);
    return this.tokens.sign({ ...claims, iat, exp: iat + expiry });
  }

  async #checkToken(url, { bucket, name }, use) {
    const token = url.searchParams.get('token');
    if (!token) throw badSignature("querystring must have required property 'token'");
    try {
      const claims = await this.tokens.verify(token, { skew: 0 });
      if (claims.url === `${bucket}/${name}` && claims.use === use) return claims;
    } catch (error) {
      if (!(error instanceof TokenError)) throw error;
      if (error.reason === 'expired') throw badSignature('"exp" claim timestamp check failed');
    }
    throw badSignature('Invalid signature');
  }
}

function placeOf([bucket, ...steps]) {
  return { bucket: checkedBucket(bucket ?? ''), name: checkedKey(steps.join('/')) };
}

const bucketOf = (steps) => {
  if (steps.length !== 1) throw refused('The address must end with the bucket');
  return checkedBucket(steps[0]);
};

async function route(request) {
  const { bucketId, sourceKey, destinationBucket, destinationKey } = await readObject(request, refused);
  return {
    from: { bucket: checkedBucket(bucketId), name: checkedKey(sourceKey) },
    to: { bucket: checkedBucket(destinationBucket ?? bucketId), name: checkedKey(destinationKey) },
  };
}

function seconds({ expiresIn }) {
  // supabase-py sends it as text.
  const count = /^\d+$/.test(expiresIn) ? Number(expiresIn) : 0;
  if (count > 0 && count < 2 ** 31) return count;
  throw refused(`expiresIn is ${JSON.stringify(expiresIn)}, not a number of seconds`);
}

/** A new row asks for no more than permission to insert: reading it back would need permission to select. */
async function keep(query, { bucket, name, owner, upsert, replace }, { version, metadata, userMetadata }) {
  const id = randomUUID();
  const values = [bucket, name, version, JSON.stringify(metadata), JSON.stringify(userMetadata), owner ?? null];
  const ownerId = "case when $6 ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then $6::uuid end";
  const changed = `version = $3, metadata = $4, user_metadata = $5, owner_id = $6::text, owner = ${ownerId}, updated_at = now()`;
  if (replace) {
    const [stored] = await query(
      `update storage.objects set ${changed} where bucket_id = $1 and name = $2 returning id`,
      values,
    );
    if (!stored) throw noObject();
    return stored;
  }
  const [stored] = await query(
    `insert into storage.objects (bucket_id, name, version, metadata, user_metadata, owner_id, owner, id)
     values ($1, $2, $3, $4, $5, $6::text, ${ownerId}, $7)
     ${upsert ? `on conflict (bucket_id, name) do update set ${changed} returning id` : ''}`,
    [...values, id],
  );
  return stored ?? { id };
}

const iso = (text) => (text === null || text === undefined ? null : text.replace(' ', 'T').replace(/\+00$/, 'Z'));
