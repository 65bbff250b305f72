// A file on its way in: what it is, and its bytes as they arrive.
import { storageError } from '../errors.mjs';
import { kept } from '../http.mjs';
import { tooLarge } from './blobs.mjs';
import { readForm } from './multipart.mjs';

/** The file of the request, in either form clients send it: alone, or in a form with what is to be known of it. */
export async function fileOf(request, limit) {
  const type = request.headers['content-type'] ?? 'application/octet-stream';
  if (!type.toLowerCase().startsWith('multipart/form-data')) {
    if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge();
    return {
      type,
      chunks: kept(request),
      cacheControl: request.headers['cache-control'] ?? 'no-cache',
      userMetadata: metadataOf(
        request.headers['x-metadata'] && Buffer.from(request.headers['x-metadata'], 'base64').toString('utf8'),
      ),
    };
  }
  const form = await readForm(kept(request), type);
  const { cacheControl, contentType, metadata } = form.fields;
  return {
    type: contentType ?? form.type ?? 'application/octet-stream',
    chunks: form.chunks,
    cacheControl: /^\d+$/.test(cacheControl ?? '') ? `max-age=${cacheControl}` : cacheControl || 'no-cache',
    userMetadata: metadataOf(metadata),
  };
}

function metadataOf(text) {
  if (!text) return null;
  try {
    return JSON.parse(text);
  } catch {
    throw storageError(400, 'InvalidRequest', 'The metadata is not valid JSON');
  }
}

/** As the bucket allows, e.g. `image/png` or `image/*`; what follows the type, such as a charset, does not matter. */
export function checkType(given, allowed) {
  const [type] = given.toLowerCase().split(';', 1);
  const fits = (each) => each === type || each === '*/*' || (each.endsWith('/*') && type.startsWith(each.slice(0, -1)));
  if (allowed?.length && !allowed.some(fits)) {
    throw storageError(415, 'invalid_mime_type', `mime type ${given} is not supported`);
  }
}
