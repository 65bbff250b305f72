// A file on its way out: whole, in part, or not at all if the client has it already.
import { pipeline } from 'node:stream/promises';
import { noObject } from '../errors.mjs';
import { send } from '../http.mjs';

export async function deliver({ request, response, url }, blobs, object) {
  const { version } = object;
  const metadata = object.metadata ?? {};
  const size = await blobs.size(version).catch(() => {
    console.error(`storage: the bytes of ${object.bucket_id}/${object.name} are gone (${version})`);
    throw noObject();
  });
  const headers = {
    'content-type': metadata.mimetype ?? 'application/octet-stream',
    'cache-control': metadata.cacheControl ?? 'no-cache',
    etag: metadata.eTag,
    'last-modified': new Date(metadata.lastModified ?? object.updated_at).toUTCString(),
    'accept-ranges': 'bytes',
    'x-content-type-options': 'nosniff',
    ...disposition(url, object.name),
  };
  if (request.headers['if-none-match'] === metadata.eTag) return send(response, 304, null, headers);
  const range = rangeOf(request, size);
  if (range === null) return send(response, 416, null, { ...headers, 'content-range': `bytes */${size}` });
  const { start, end, whole } = range;
  response.writeHead(whole ? 200 : 206, {
    ...headers,
    'content-length': size === 0 ? 0 : end - start + 1,
    ...(whole ? {} : { 'content-range': `bytes ${start}-${end}/${size}` }),
  });
  if (request.method === 'HEAD' || size === 0) return response.end();
  // A client that hangs up is no failure of ours.
  return pipeline(blobs.read(version, { start, end }), response).catch(() => response.destroy());
}

function disposition(url, name) {
  if (!url.searchParams.has('download')) return {};
  const shown = url.searchParams.get('download') || name.split('/').at(-1);
  return {
    'content-disposition': `attachment; filename="${shown.replace(/[^\x20-\x7e]|["\\]/g, '_')}"; filename*=UTF-8''${encodeURIComponent(shown)}`,
  };
}

function rangeOf(request, size) {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
  if (first === undefined || (first === '' && last === '')) return { start: 0, end: size - 1, whole: true };
  const start = first === '' ? Math.max(0, size - Number(last)) : Number(first);
  const end = first === '' || last === '' ? size - 1 : Math.min(Number(last), size - 1);
  return start > end ? null : { start, end, whole: false };
}
