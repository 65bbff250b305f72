// What the environment says, read once; a missing or malformed value stops the process with its name.
import { readFileSync } from 'node:fs';
import { bytesOf } from './storage/sizes.mjs';

export function readSettings(env) {
  const required = (name) => {
    if (!env[name]) throw new Error(`${name} is not set.`);
    return env[name];
  };
  const number = (name, otherwise) => {
    const value = Number(env[name] ?? otherwise);
    if (!Number.isInteger(value) || value < 0) throw new Error(`${name} is '${env[name]}', not a whole number.`);
    return value;
  };
  const size = (name, otherwise) => {
    const value = bytesOf(env[name] ?? otherwise);
    if (value === undefined) throw new Error(`${name} is '${env[name]}', not a size such as 50MiB.`);
    return value;
  };
  const url = (name, otherwise) => {
    const text = env[name] ?? otherwise;
    if (text !== undefined && !URL.canParse(text)) throw new Error(`${name} is '${text}', not a URL.`);
    return text?.replace(/\/+$/, '');
  };
  const host = env.HOST ?? '127.0.0.1';
  const port = number('PORT', 54321);
  const apiUrl = url('API_URL', `http://${host}:${port}`);
  return {
    host,
    port,
    apiUrl,
    databaseUrl: url('DB_URL', required('DB_URL')),
    poolSize: number('DB_POOL_SIZE', 10),
    functionsUrl: url('FUNCTIONS_URL'),
    stripeUrl: url('STRIPE_URL'),
    storageDirectory: required('STORAGE_DIR'),
    fileSizeLimit: size('STORAGE_FILE_SIZE_LIMIT', '50MiB'),
    schemas: (env.DB_SCHEMAS ?? 'public').split(',').map((name) => name.trim()),
    maxRows: number('DB_MAX_ROWS', 1000),
    siteUrl: url('SITE_URL', 'http://127.0.0.1:3000'),
    redirectUrls: (env.REDIRECT_URLS ?? '')
      .split(',')
      .map((text) => text.trim())
      .filter(Boolean),
    accessTokenHook: hook(env.ACCESS_TOKEN_HOOK),
    jwtExpiry: number('JWT_EXPIRY', 3600),
    passwordLength: number('PASSWORD_MIN_LENGTH', 6),
    keys: readKeys(required('KEYS_FILE')),
  };
}

/** Written as in config.toml: pg-functions://postgres/<schema>/<function>. */
function hook(uri) {
  if (!uri) return null;
  const found = /^pg-functions:\/\/[^/]+\/([^/]+)\/([^/]+)$/.exec(uri);
  if (!found) {
    throw new Error(`ACCESS_TOKEN_HOOK is '${uri}', not of the form pg-functions://postgres/<schema>/<function>.`);
  }
  return { schema: found[1], name: found[2] };
}

function readKeys(file) {
  const keys = JSON.parse(readFileSync(file, 'utf8'));
  for (const name of ['publishable_key', 'secret_key', 'jwt_secret', 'jwk']) {
    if (!keys[name]) throw new Error(`${file} (KEYS_FILE) has no ${name}.`);
  }
  return keys;
}
