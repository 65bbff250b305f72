// Reading requests and writing answers.
import { restError } from './errors.mjs';

const JSON_LIMIT = 10 * 1024 * 1024;

export async function readBody(request, limit = JSON_LIMIT) {
  const chunks = [];
  let size = 0;
  for await (const chunk of kept(request)) {
    size += chunk.length;
    if (size > limit) throw restError(413, 'body_too_large', `The request body is larger than ${limit} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Its chunks; stopping early leaves the connection open, so that the sender can still read why. */
export const kept = (request) => request.iterator({ destroyOnReturn: false });

/** The body as a JSON object; `refused` makes the error in the service's own words. */
export async function readObject(request, refused) {
  const text = (await readBody(request)).toString('utf8');
  if (text.trim() === '') return {};
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw refused(`Could not parse request body as JSON: ${error.message}`);
  }
  if (value === null || typeof value !== 'object' || Array.isArray(value)) {
    throw refused(`The request body is ${JSON.stringify(value).slice(0, 40)}, not a JSON object.`);
  }
  return value;
}

export function send(response, status, body, headers = {}) {
  if (response.headersSent || response.destroyed) return;
  const bytes = body === null ? null : Buffer.from(body);
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  if (bytes !== null) response.setHeader('content-length', bytes.length);
  response.writeHead(status);
  response.end(response.req.method === 'HEAD' ? undefined : bytes);
}

export function sendJson(response, status, value, headers = {}) {
  send(response, status, JSON.stringify(value), { 'content-type': 'application/json; charset=utf-8', ...headers });
}

export function sendError(response, error) {
  sendJson(response, error.status, error.body, error.headers);
}

export function target(request) {
  try {
    const url = new URL(request.url, 'http://localhost');
    decodeURIComponent(url.pathname);
    return url;
  } catch {
    throw restError(400, 'PGRST125', 'Invalid path specified in request URL', `Found: ${request.url.slice(0, 200)}`);
  }
}

const ALLOWED_METHODS = 'GET,POST,PUT,PATCH,DELETE,OPTIONS,HEAD';
const ALLOWED_HEADERS =
  'authorization,apikey,content-type,prefer,range,range-unit,accept,accept-profile,content-profile,' +
  'cache-control,x-client-info,x-upsert,x-metadata,x-region,x-supabase-api-version,x-org-id,idempotency-key';
const SHOWN_HEADERS = 'Content-Range,Content-Location,Location,Preference-Applied,X-Sb-Error-Code,X-Total-Count,Link';

export function allowOrigins(response) {
  response.setHeader('access-control-allow-origin', '*');
  response.setHeader('access-control-expose-headers', SHOWN_HEADERS);
}

export function answerPreflight(request, response) {
  send(response, 204, null, {
    'access-control-allow-methods': ALLOWED_METHODS,
    'access-control-allow-headers': request.headers['access-control-request-headers'] ?? ALLOWED_HEADERS,
    'access-control-max-age': '86400',
  });
}
