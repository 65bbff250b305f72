// How an error becomes an answer: each service has its own JSON, and clients depend on it.

export class HttpError extends Error {
  constructor(status, body, headers = {}) {
    super(body.message ?? body.msg);
    this.status = status;
    this.body = body;
    this.headers = headers;
  }
}

/** The data API, the functions and everything outside a service. */
export function restError(status, code, message, details = null, hint = null, headers = {}) {
  return new HttpError(status, { code, message, details, hint }, headers);
}

export function authError(status, error_code, msg, more = {}) {
  return new HttpError(status, { code: status, error_code, msg, ...more }, { 'x-sb-error-code': error_code });
}

/** Storage puts the status in the body and says 400 on the wire, except for its own failures; clients read the body. */
export function storageError(status, error, message) {
  return new HttpError(status >= 500 ? status : 400, { statusCode: String(status), error, message });
}

export const noObject = () => storageError(404, 'not_found', 'Object not found');

export const notBuiltIn = (what) =>
  restError(
    501,
    'not_built_in',
    `${what} is not part of this stack.`,
    null,
    'Run against `supabase start` or a hosted project for it.',
  );

export function isUnavailable(error) {
  return (
    error.databaseGone === true ||
    ['57P01', '57P02', '57P03'].includes(error.code) ||
    ['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'ENOTFOUND', 'ETIMEDOUT'].includes(error.code)
  );
}

export const unavailable = () =>
  restError(503, 'PGRST001', 'The database does not answer.', null, 'Try again in a moment.', { 'retry-after': '1' });

export const isDatabaseError = (error) => typeof error.severity === 'string' && /^[0-9A-Z]{5}$/.test(error.code);

// PostgREST's table; the first prefix that matches decides, everything else is the client's fault.
const STATUS_BY_SQLSTATE = [
  ['08', 503],
  ['09', 500],
  ['0L', 403],
  ['0P', 403],
  ['23503', 409],
  ['23505', 409],
  ['25006', 405],
  ['25', 500],
  ['28', 403],
  ['2D', 500],
  ['38', 500],
  ['39', 500],
  ['3B', 500],
  ['40', 500],
  ['53400', 500],
  ['53', 503],
  ['54', 500],
  ['55', 500],
  ['57P01', 503],
  ['57', 500],
  ['58', 500],
  ['F0', 500],
  ['HV', 500],
  ['P0001', 400],
  ['P0', 500],
  ['XX', 500],
  ['42883', 404],
  ['42P01', 404],
  ['42P17', 500],
];

function statusOf({ code, message }, signedIn) {
  if (code === '42501') return signedIn ? 403 : 401;
  if (code === '21000') return message.endsWith('requires a WHERE clause') ? 400 : 500;
  if (code === '22023' && /^role .* does not exist$/.test(message)) return 401;
  if (/^PT\d{3}$/.test(code)) {
    const status = Number(code.slice(2));
    return status >= 200 && status <= 599 ? status : 500;
  }
  return STATUS_BY_SQLSTATE.find(([prefix]) => code.startsWith(prefix))?.[1] ?? 400;
}

/** A database error as the data API answers it. `raise sqlstate 'PGRST'` carries the whole answer as JSON. */
export function fromDatabase(error, signedIn) {
  if (error.code === 'PGRST') return composed(error);
  const headers = error.code === '42501' && !signedIn ? { 'www-authenticate': 'Bearer' } : {};
  return restError(
    statusOf(error, signedIn),
    error.code,
    error.message,
    error.detail ?? null,
    error.hint ?? null,
    headers,
  );
}

/** A token that cannot be used, as the data API says it. */
export function fromToken({ reason, message }) {
  const code = ['expired', 'early'].includes(reason) ? 'PGRST303' : 'PGRST301';
  return restError(401, code, message, null, null, {
    'www-authenticate': `Bearer error="invalid_token", error_description="${message}"`,
  });
}

function composed(error) {
  try {
    const { code, message, details = null, hint = null } = JSON.parse(error.message);
    const { status, headers = {} } = JSON.parse(error.detail);
    if (typeof code === 'string' && typeof message === 'string' && Number.isInteger(status)) {
      return restError(status, code, message, details, hint, headers);
    }
  } catch {
    /* answered below */
  }
  return restError(
    500,
    'PGRST121',
    'Could not parse JSON in the "RAISE SQLSTATE \'PGRST\'" error',
    `MESSAGE was '${error.message}', DETAIL was '${error.detail ?? ''}'`,
    "MESSAGE is a JSON object with 'code' and 'message', DETAIL one with 'status' and 'headers'.",
  );
}
