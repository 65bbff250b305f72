// /storage/v1/bucket: buckets, as the caller may see and change them.
import { storageError } from '../errors.mjs';
import { readObject, sendJson } from '../http.mjs';
import { checkedBucket } from './names.mjs';
import { bytesOf } from './sizes.mjs';

const SORTABLE = ['id', 'name', 'created_at', 'updated_at'];
const COLUMNS = `id, name, coalesce(owner_id, '') as owner, public, file_size_limit::float8 as file_size_limit,
  to_json(allowed_mime_types) as allowed_mime_types, to_json(created_at) as created_at, to_json(updated_at) as updated_at`;

export class Buckets {
  constructor(storage) {
    this.storage = storage;
  }

  async handle(request, response, url, caller, [id, action, ...more]) {
    const answer = more.length > 0 ? undefined : await this.#answer(request, url, caller, id, action);
    if (answer === undefined) return false;
    sendJson(response, 200, answer);
    return true;
  }

  #answer(request, url, caller, id, action) {
    const as = (operation, work) => this.storage.asCaller({ request, caller }, `storage.bucket.${operation}`, work);
    if (id === undefined) {
      if (request.method === 'GET') return as('list', (query) => list(query, url));
      if (request.method === 'POST') return this.#create(request, caller, as);
      return undefined;
    }
    if (action === 'empty' && request.method === 'POST') return this.#empty(as, id);
    if (action !== undefined) return undefined;
    if (request.method === 'GET') return as('get', (query) => one(query, id));
    if (request.method === 'PUT') return this.#change(request, as, id);
    if (request.method === 'DELETE') return this.#remove(as, id);
    return undefined;
  }

  async #create(request, { claims }, as) {
    const given = await readObject(request, (message) => storageError(400, 'InvalidRequest', message));
    const id = checkedBucket(given.id ?? given.name);
    const name = checkedBucket(given.name ?? id);
    await as('create', (query) =>
      query(
        `insert into storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)
       values ($1, $2, $3, $4, $5, $6)`,
        [
          id,
          name,
          claims.sub ?? null,
          given.public === true,
          bytes(given.file_size_limit),
          mimeTypes(given.allowed_mime_types),
        ],
      ),
    );
    return { name: id };
  }

  async #change(request, as, id) {
    const given = await readObject(request, (message) => storageError(400, 'InvalidRequest', message));
    const changes = {
      ...('public' in given ? { public: given.public === true } : {}),
      ...('file_size_limit' in given ? { file_size_limit: bytes(given.file_size_limit) } : {}),
      ...('allowed_mime_types' in given ? { allowed_mime_types: mimeTypes(given.allowed_mime_types) } : {}),
    };
    const set = Object.keys(changes)
      .map((name, index) => `${name} = $${index + 2}, `)
      .join('');
    const changed = await as('update', (query) =>
      query(`update storage.buckets set ${set}updated_at = now() where id = $1 returning id`, [
        id,
        ...Object.values(changes),
      ]),
    );
    if (changed.length === 0) throw noBucket();
    return { message: 'Successfully updated' };
  }

  async #empty(as, id) {
    const removed = await as('empty', async (query) => {
      await one(query, id);
      return query('delete from storage.objects where bucket_id = $1 returning version', [id]);
    });
    await this.storage.blobs.remove(removed.map(({ version }) => version));
    return { message: 'Successfully emptied' };
  }

  async #remove(as, id) {
    if (await this.storage.holdsObjects(id)) {
      throw storageError(409, 'InvalidRequest', 'The bucket you tried to delete is not empty');
    }
    const removed = await as('delete', (query) =>
      query('delete from storage.buckets where id = $1 returning id', [id]),
    );
    if (removed.length === 0) throw noBucket();
    return { message: 'Successfully deleted' };
  }
}

export const noBucket = () => storageError(404, 'Bucket not found', 'Bucket not found');

async function one(query, id) {
  const [bucket] = await query(`select ${COLUMNS} from storage.buckets where id = $1`, [id]);
  if (!bucket) throw noBucket();
  return bucket;
}

function list(query, url) {
  const asked = url.searchParams;
  const column = SORTABLE.includes(asked.get('sortColumn')) ? asked.get('sortColumn') : 'name';
  const order = asked.get('sortOrder') === 'desc' ? 'desc' : 'asc';
  return query(
    `select ${COLUMNS} from storage.buckets where position(lower($1) in lower(name)) > 0 or $1 = ''
     order by ${column} ${order} limit $2 offset $3`,
    [asked.get('search') ?? '', whole(asked.get('limit'), null), whole(asked.get('offset'), 0)],
  );
}

export function whole(given, otherwise) {
  if (given === null || given === undefined) return otherwise;
  if (/^\d{1,9}$/.test(String(given))) return Number(given);
  throw storageError(400, 'InvalidRequest', `'${given}' is not a whole number`);
}

function bytes(given) {
  if (given === null || given === undefined || given === '') return null;
  const size = bytesOf(given);
  if (size === undefined)
    throw storageError(400, 'InvalidRequest', `file_size_limit is '${given}', not a size such as 5242880 or 5MB`);
  return size;
}

function mimeTypes(given) {
  if (given === null || given === undefined) return null;
  const wrong = Array.isArray(given) ? given.find((type) => !/^[\w.+-]+\/([\w.+-]+|\*)$|^\*\/?\*?$/.test(type)) : given;
  if (wrong !== undefined) throw storageError(415, 'invalid_mime_type', `mime type ${wrong} is not supported`);
  return given;
}
