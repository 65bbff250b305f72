// From the result of a statement to status, headers and body.
import { restError } from '../errors.mjs';

const FORMATS = {
  'application/json': { type: 'application/json', shape: 'array' },
  'application/vnd.pgrst.array': { type: 'application/vnd.pgrst.array+json', shape: 'array' },
  'application/vnd.pgrst.array+json': { type: 'application/vnd.pgrst.array+json', shape: 'array' },
  'application/vnd.pgrst.object': { type: 'application/vnd.pgrst.object+json', shape: 'object' },
  'application/vnd.pgrst.object+json': { type: 'application/vnd.pgrst.object+json', shape: 'object' },
  'text/csv': { type: 'text/csv', shape: 'csv' },
};
const ANY = ['*/*', 'application/*'];

/** The first media type of the Accept header that can be made. */
export function negotiate(accept = '*/*') {
  const wanted = accept
    .split(',')
    .map((each) => each.trim().toLowerCase())
    .filter(Boolean);
  for (const each of wanted) {
    const [type, ...parameters] = each.split(';').map((part) => part.trim());
    const format = ANY.includes(type) ? FORMATS['application/json'] : FORMATS[type];
    if (format) {
      const stripped = type.includes('vnd.pgrst') && parameters.includes('nulls=stripped');
      return { ...format, stripped, header: `${format.type}${stripped ? ';nulls=stripped' : ''}; charset=utf-8` };
    }
  }
  throw restError(406, 'PGRST107', `None of these media types are available: ${accept}`);
}

/** A Range header narrows limit and offset. */
export function applyRange(request, tree) {
  const unsatisfiable = (details) => restError(416, 'PGRST103', 'Requested range not satisfiable', details);
  const [, first, last] =
    /^(?:items=)?(\d+)-(\d*)$/.exec(request.method === 'GET' ? (request.headers.range ?? '') : '') ?? [];
  if (first !== undefined) {
    if (last !== '' && Number(last) < Number(first)) {
      throw unsatisfiable('The lower boundary must be lower than or equal to the upper boundary in the Range header.');
    }
    tree.offset = Math.max(tree.offset, Number(first));
    if (last !== '') tree.limit = Math.min(tree.limit ?? Infinity, Number(last) - Number(first) + 1);
  }
  if (tree.limit < 0) throw unsatisfiable('Limit should be greater than or equal to zero.');
  tree.offset = Math.max(tree.offset, 0);
}

export function listing({ tree, preferences, format }, { body, count, total, headers, status }) {
  if (total !== null && tree.offset > 0 && tree.offset >= total) {
    throw restError(
      416,
      'PGRST103',
      'Requested range not satisfiable',
      `An offset of ${tree.offset} was requested, but there are only ${total} rows.`,
    );
  }
  const partial = total !== null && count < total;
  return {
    status: status ?? (partial ? 206 : 200),
    body,
    headers: {
      'content-type': format.header,
      'content-range': contentRange(tree.offset, count, total),
      ...preferences.applied(['count']),
      ...headers,
    },
  };
}

export function written({ request, preferences, format }, { body, count, headers, status, created }, location) {
  const shown = preferences.returning === 'representation';
  const done = request.method === 'POST' || shown ? 200 : 204;
  const total = preferences.count ? count : null;
  return {
    status: status ?? (created ? 201 : done),
    body: shown ? body : null,
    headers: {
      'content-range': request.method === 'PATCH' ? contentRange(0, count, total) : `*/${total ?? '*'}`,
      ...(shown ? { 'content-type': format.header } : {}),
      ...(location ? { location } : {}),
      ...preferences.applied(['return', 'count', 'resolution', 'missing']),
      ...headers,
    },
  };
}

function contentRange(offset, count, total) {
  return `${count > 0 ? `${offset}-${offset + count - 1}` : '*'}/${total ?? '*'}`;
}

/** `set_config('response.headers', '[{"Name": "value"}]', true)` in the database. */
export function responseHeaders(text) {
  if (!text) return {};
  try {
    const headers = {};
    for (const each of JSON.parse(text)) {
      for (const [name, value] of Object.entries(each)) {
        const key = name.toLowerCase();
        headers[key] = key in headers ? [headers[key], value].flat() : value;
      }
    }
    return headers;
  } catch {
    throw restError(
      500,
      'PGRST111',
      'response.headers guc must be a JSON array composed of objects with a single key and a string value',
    );
  }
}

export function responseStatus(text) {
  if (!text) return null;
  if (/^[1-5]\d\d$/.test(text)) return Number(text);
  throw restError(500, 'PGRST112', 'response.status guc must be a valid status code');
}
